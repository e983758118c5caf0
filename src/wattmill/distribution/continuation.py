"""A stream that breaks after its first content goes on at another place, if that is declared.

What was said is the beginning of the answer that the next place is asked for; it reads it, so it is reserved
and billed again, as input. The client sees one stream: one id, the sum of both usages, and a comment that
marks where it went on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from wattmill.models.bound import input_bound_tok
from wattmill.models.engines.continuing import by_last_message
from wattmill.models.spec import TokenizerBound
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.usage import Usage

if TYPE_CHECKING:
    from wattmill.distribution.wire import Draft

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Continuation:
    """What a broken answer has given so far."""

    __slots__ = ("charge_nusd", "draft", "energy_j", "engine_id", "output_tok", "prompt_tok", "text")

    def __init__(self, draft: Draft) -> None:
        self.draft = draft  # as the client asked
        self.text = ""
        self.charge_nusd = 0
        self.prompt_tok = 0
        self.output_tok = 0
        self.energy_j = 0.0
        self.engine_id: str | None = None  # of the first part: the client sees no other

    def add(
        self,
        text: str,
        usage: Usage | None,
        charge_nusd: int,
        energy_j: float | None,
        engine_id: str | None,
    ) -> None:
        """One more part has broken off."""
        self.text += text
        self.charge_nusd += charge_nusd
        if usage is not None:
            self.prompt_tok += usage.prompt_tok
            self.output_tok += usage.output_tok
        self.energy_j += energy_j or 0.0
        if self.engine_id is None:
            self.engine_id = engine_id

    def ask(self, ask: Request, left_tok: int, bound: TokenizerBound) -> Request | None:
        """Return what is asked for now; None if this answer cannot go on."""
        body = by_last_message(ask.endpoint, self.draft.body, self.text)
        if body is None:
            return None
        bound_tok = input_bound_tok(ask.endpoint, body, bound)
        if isinstance(bound_tok, Refusal):
            return None
        return msgspec.structs.replace(ask, input_bound_tok=bound_tok, max_output_tok=left_tok)

    def shown(self, event: bytes, engine_id: str | None) -> bytes:
        """Return an event of a later part as the client is to see it."""
        if engine_id is not None and self.engine_id is not None:
            event = event.replace(b'"id":' + _encode(engine_id), b'"id":' + _encode(self.engine_id), 1)
        if b'"usage":{' not in event or not event.startswith(b"data: {"):
            return event
        chunk = _decode(event[6:])
        usage = chunk.get("usage")
        if not isinstance(usage, dict):
            return event
        usage["prompt_tokens"] = usage.get("prompt_tokens", 0) + self.prompt_tok
        usage["completion_tokens"] = usage.get("completion_tokens", 0) + self.output_tok
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        return b"data: %b\n\n" % _encode(chunk)

    def mark(self, pool: str) -> bytes:
        return b": wattmill continued_by=%b after_tok=%d\n\n" % (pool.encode(), self.output_tok)
