"""An engine's no: whose fault it is, whether another place may do better, and what the client is told."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from wattmill.vocab.refusal import Refusal

_OUR_CREDENTIALS = (401, 402, 403)
_NOT_THE_CLIENTS = (404, 405, 408, 425)  # our address of it, or its own time
_UNWELL = (502, 503, 504)
_WORDS = 500  # characters of an engine's reason that are passed on


class Said(NamedTuple):
    refusal: Refusal
    final: bool = False  # no other place would say anything else
    unwell: bool = False  # it counts against the place's health


def judge_status(pool: str, status: int, words: str, retry_after_s: float | None) -> Said:
    """Say what an engine's status means.

    A plain 500 does not count against a place's health: some engines give it for a request that they cannot
    read, and one tenant's bad requests must not take a place from the others.
    """
    words = words or "no reason given"
    if status in _OUR_CREDENTIALS:
        text = f"pool {pool!r} refused the factory's credentials ({status})"
        return Said(Refusal(code="provider_auth", message=text))
    if status == 429:
        text = f"pool {pool!r} limits the factory's rate: {words}"
        return Said(Refusal(code="upstream_rate_limited", message=text, retry_after_s=retry_after_s))
    if 400 <= status < 500 and status not in _NOT_THE_CLIENTS:
        text = f"pool {pool!r} refused the request ({status}): {words}"
        return Said(Refusal(code="upstream_rejected", message=text), final=True)
    text = f"pool {pool!r} answered {status}: {words}"
    refusal = Refusal(code="upstream_failed", message=text, retry_after_s=retry_after_s)
    return Said(refusal, unwell=status in _UNWELL)


def words_of(body: bytes) -> str:
    """Return the words of an engine's error, shortened."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body[:_WORDS].decode("utf-8", "replace").strip()
    error = decoded.get("error", decoded) if isinstance(decoded, dict) else decoded
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)[:_WORDS]
