"""What an engine said is JSON, and still no answer that can be told on."""

from __future__ import annotations


class OddAnswer(ValueError):
    """Raised by what reads or retells an engine's words; the message says what was wrong with them.

    Whoever drives an attempt takes it as it takes malformed events: the next place is asked, or the client
    hears that the answer broke off.
    """
