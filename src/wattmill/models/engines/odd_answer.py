"""What an engine said is JSON, and still no answer that can be told on."""

from __future__ import annotations

A_WEB_PAGE = (
    "the engine answered with a web page; does its pool's base_url lead to an API (it often ends in /v1)?"
)


def begins_otherwise(body: bytes) -> str | None:
    """Return what `body`, or its beginning, is where it cannot be a JSON object; None: it may be one."""
    start = body[:256].lstrip()
    if start[:1] == b"{":
        return None
    if not start:
        return None if len(body) > 256 else "the engine's answer is empty"
    if start.startswith(b"<"):
        return A_WEB_PAGE
    if start.startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
        return "asked for one answer, the engine sent a stream of events"
    return f"the engine's answer is no JSON object; it begins with {start[:40].decode('utf-8', 'replace')!r}"


class OddAnswer(ValueError):
    """Raised by what reads or retells an engine's words; the message says what was wrong with them.

    Whoever drives an attempt takes it as it takes malformed events: the next place is asked, or the client
    hears that the answer broke off.
    """
