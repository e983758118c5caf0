"""What a rule is, and what one examination of a request found. Nothing here holds a text."""

from __future__ import annotations

from typing import Literal

import msgspec

from wattmill.distribution.privacy.patterns import Pattern

Deed = Literal["raise", "redact", "refuse"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """If `pattern` is found: raise the class to `privacy`, put a placeholder in its place, or refuse."""

    pattern: Pattern
    deed: Deed
    privacy: str | None = None  # class to raise to; with "redact" as well, if given
    teams: frozenset[str] | None = None  # "org" or "org/team"; None: everybody


class Found(msgspec.Struct, frozen=True):
    """Evidence: which rule matched how often, never what."""

    pattern: str
    deed: Deed
    matches: int

    def __str__(self) -> str:
        return f"{self.pattern} x{self.matches}: {self.deed}"


MAX_MATCHES = 2_000
"""Of one pattern in one text; more is refused. Each is looked at by itself, and others wait."""
