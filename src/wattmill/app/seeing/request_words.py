"""Codes of the story of a request in words, for the command line and the board alike."""

from __future__ import annotations

from wattmill.app.seeing.explain import Try
from wattmill.scheduling.filters import RULES
from wattmill.vocab.refusal import CODES

_CAUSES = {
    "connect": "no connection to it could be made",
    "busy": "all connections to it were in use",
    "reset": "it closed the connection before its answer was complete",
    "stale": "it closed a kept connection just as it was used again",
    "timeout": "it was silent for longer than its time-out",
    "protocol": "what it sent is no HTTP",
    "malformed": "what it sent is no answer",
    "upstream_failed": "it answered with an error",
    "upstream_rate_limited": "it limits how much the factory may ask",
    "clamp": "it went on beyond the limit and was stopped there",
    "hedge_lost": "another place had content first",
}


def why_ended(one: Try) -> str | None:
    """Return why an attempt ended as it did, with its code; None where there is nothing to add."""
    if one.cause is None:
        return "the client left" if one.status == "aborted" else None
    if one.http_status not in (None, 0, 200):
        return f"it answered with status {one.http_status} ({one.cause})"
    words = _CAUSES.get(one.cause)
    if words is None and one.cause in CODES:
        words = CODES[one.cause].meaning.rstrip(".")
    return one.cause if words is None else f"{words} ({one.cause})"


def why_excluded(rule: str) -> str:
    """Return which hard rule excluded a place, with its name."""
    return f"{RULES[rule]} ({rule})" if rule in RULES else rule
