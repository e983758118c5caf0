"""What a model is: the card that routing, reservation and pricing read."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

CAPABILITIES = (
    "tools",
    "json_schema",
    "logprobs",
    "vision",
    "audio",
    "n",
    "embeddings",
    "completions",
    "chat",
)
"""What a request may need and a pool may offer. Endpoints are capabilities too."""


class TokenizerBound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An upper bound on the tokens that a prompt can become:
    bytes x `expansion` + `per_request_tok` + messages x `per_message_tok` + tools x `per_tool_tok`.

    `expansion` is the most bytes that the tokenizer's normaliser can make of one byte (1.0 for byte-level
    BPE without a normaliser: it never makes more tokens than there are bytes). The rest covers the chat
    template: its fixed text, and the text around each message and tool.
    """

    expansion: Annotated[
        float, Meta(gt=0, description="Most bytes that the tokenizer's normaliser makes of one byte.")
    ] = 1.0
    per_request_tok: Annotated[int, Meta(ge=0, description="Fixed text of the chat template.")] = 64
    per_message_tok: Annotated[int, Meta(ge=0, description="Text around each message.")] = 16
    per_tool_tok: Annotated[int, Meta(ge=0, description="Text around each tool.")] = 64
    per_image_tok: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Ceiling of one image. Absent: images are refused."),
    ] = None
    per_audio_tok: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Ceiling of one piece of audio. Absent: audio is refused."),
    ] = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    context_tok: int
    params: int | None = None
    kv_bytes_per_tok: int | None = None
    license: str | None = None
    source: str = ""
    bound: TokenizerBound = TokenizerBound()
