"""When two requests are the same to the cache, and when one may be cached at all. Pure."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from wattmill.vocab.caller import Caller
from wattmill.vocab.request import Body, Request

_SAYS_NOTHING = frozenset(
    ("user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
)
"""Fields that change nothing in an answer."""

_LARGE_BYTES = 65_536  # values beyond this are compared by their bytes, as they were written
_decode = msgspec.json.Decoder().decode
_sorted = msgspec.json.Encoder(order="sorted").encode
_plain = msgspec.json.Encoder().encode


def is_deterministic(ask: Request, body: Body) -> bool:
    """Say whether the request itself asks for the same answer each time."""
    if ask.endpoint == "embeddings":
        return True
    seed = bytes(body.get("seed", b"null"))
    if seed != b"null":
        return True
    temperature = bytes(body.get("temperature", b""))
    if not temperature:
        return False
    try:
        value = _decode(temperature)
    except msgspec.DecodeError:
        return False
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def may_be_stored(ask: Request, body: Body) -> bool:
    """Say whether neither the client nor its data forbid that the answer is kept."""
    return ask.keep and bytes(body.get("store", b"")) != b"false"


def wishes(cache_control: bytes | None) -> frozenset[Literal["no-store", "no-cache"]]:
    """Return what the header `cache-control` of a request asks for."""
    if cache_control is None:
        return frozenset()
    said = {part.strip().lower() for part in cache_control.split(b",")}
    found: set[Literal["no-store", "no-cache"]] = set()
    if b"no-store" in said:
        found.add("no-store")
    if b"no-cache" in said or b"max-age=0" in said:
        found.add("no-cache")
    return frozenset(found)


def cache_key(
    ask: Request,
    caller: Caller,
    body: Body,
    *,
    show_usage: bool,
    guarded_by: bytes = b"",
    door: str = "",
    native: Body | None = None,
) -> str:
    """Return the digest of everything that decides an answer, and of every rule that binds who may give it.

    White space, the order of fields and the order of keys inside them make no difference; neither do fields
    that say nothing about the answer. `guarded_by`: what an answer passed on its way out: none is told again
    that has passed other rules. `native`: what a place that speaks the protocol of `door` is sent in place of
    the chat; None where there is no such place.
    """
    parts: list[bytes] = [
        ask.endpoint.encode(),
        ask.model.encode(),
        (ask.pool or "").encode(),
        ask.privacy.encode(),
        ask.tier.encode(),
        guarded_by,
        _plain([ask.stream, show_usage]),
        _plain([_names(caller.pools), _names(ask.residency), _names(ask.operators)]),
    ]
    for whole in (body,) if native is None else (body, native):
        for name in sorted(whole):
            if name in _SAYS_NOTHING or name in ("stream", "stream_options", "model"):
                continue
            parts += [name.encode(), _canonical(bytes(whole[name]))]
        if native is not None:
            parts.append(door.encode())
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()


def _names(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _canonical(value: bytes) -> bytes:
    if len(value) > _LARGE_BYTES or value[:1] not in (b"{", b"[", b'"'):
        return value
    try:
        return _sorted(_decode(value))
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return value


def applies(models: frozenset[str], model: str) -> bool:
    return model in models or "*" in models
