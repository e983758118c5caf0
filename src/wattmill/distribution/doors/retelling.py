"""An answer that is there already (from the cache, say), told in a door's words."""

from __future__ import annotations

import msgspec

from wattmill.distribution.doors.entrance import Entrance
from wattmill.models.engines.usage import OpenAIUsage, from_openai
from wattmill.vocab.usage import ImpossibleUsage, Usage


class _Counted(msgspec.Struct):
    usage: OpenAIUsage | None = None


_counted = msgspec.json.Decoder(_Counted).decode


def retold(entrance: Entrance, body: bytes, *, stream: bool, now_s: int) -> bytes:
    """Return the chat answer `body`, all events of a stream or a whole answer, as the door tells it."""
    writer = entrance.writer()
    if not stream:
        return writer.answer(body, _usage_of(body), now_s=now_s)
    told: list[bytes] = []
    usage: Usage | None = None
    for event in body.split(b"\n\n"):
        if event.startswith(b":"):
            told.append(event + b"\n\n")
        elif event.startswith(b"data: {"):
            usage = _usage_of(event[6:]) or usage
            told += writer.take(event)
    return b"".join([*told, *writer.close(usage, now_s=now_s)])


def _usage_of(body: bytes) -> Usage | None:
    try:
        said = _counted(body).usage
        return None if said is None else from_openai(said)
    except (msgspec.MsgspecError, ImpossibleUsage):
        return None
