"""What a model is: the card that routing, reservation and pricing read."""

from __future__ import annotations

import msgspec

CAPABILITIES = ("tools", "json_schema", "logprobs", "vision", "audio", "n", "embeddings", "completions", "chat")
"""What a request may need and a pool may offer. Endpoints are capabilities too."""


class TokenizerBound(msgspec.Struct, frozen=True, kw_only=True):
    """An upper bound on the tokens that a prompt can become:
    bytes x `expansion` + `per_request_tok` + messages x `per_message_tok` + tools x `per_tool_tok`.

    `expansion` is the most bytes that the tokenizer's normaliser can make of one byte (1.0 for byte-level
    BPE without a normaliser: it never makes more tokens than there are bytes). The rest covers the chat
    template: its fixed text, and the text around each message and tool.
    """

    expansion: float = 1.0
    per_request_tok: int = 64
    per_message_tok: int = 16
    per_tool_tok: int = 64
    per_image_tok: int | None = None  # None: images cannot be bounded, so they are refused
    per_audio_tok: int | None = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    context_tok: int
    params: int | None = None
    kv_bytes_per_tok: int | None = None
    license: str | None = None
    source: str = ""
    bound: TokenizerBound = TokenizerBound()
