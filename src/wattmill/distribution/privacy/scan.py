"""All patterns in one pass over a text: RE2's set, linear in the text and never in the number of patterns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wattmill.distribution.privacy.patterns import BUILT_IN, Pattern
from wattmill.distribution.privacy.spec import MAX_MATCHES

MAX_MEM_BYTES = 32 << 20
_WHITE = b" \t\n\r"


class BadPatternError(ValueError):
    """An expression that RE2 does not take; the message says why."""


class TooManyMatchesError(ValueError):
    """One text has more than `MAX_MATCHES` matches."""


class Scanner:
    """Finds `patterns` in UTF-8 text. Loads RE2, so make one only where patterns are declared."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        import re2

        options = re2.Options()
        options.never_capture = True
        options.log_errors = False
        options.max_mem = MAX_MEM_BYTES
        self.patterns = tuple(patterns)
        self.raw_safe = all(BUILT_IN.get(p.name) is p for p in patterns)
        """Whether a JSON text without escapes may be searched as it is: no pattern of ours looks for the
        quotes, brackets and line ends around a string; one that somebody declared might."""
        self._each = [_compiled(p, options) for p in patterns]
        self._set = re2.Set.SearchSet(options)
        for pattern in patterns:
            self._set.Add(_anywhere(pattern))
        self._set.Compile()

    def kinds(self, data: bytes) -> list[int]:
        """Return the numbers of the patterns that have a candidate somewhere in `data`."""
        return self._set.Match(data) or []

    def spans(self, number: int, data: bytes) -> list[tuple[int, int]]:
        """Return where pattern `number` holds in `data`, in bytes, checks included, from left to right. Two
        may overlap where a check holds from two starts: nobody knows which of them was meant."""
        out: list[tuple[int, int]] = []
        search, check = self._each[number].search, self.patterns[number].check
        at, looked = 0, 0
        while (match := search(data, at)) is not None:
            looked += 1
            if looked > MAX_MATCHES:
                raise TooManyMatchesError(
                    f"more than {MAX_MATCHES} candidates of {self.patterns[number].name!r}"
                )
            start, end = match.span()
            if end == start:  # an expression of a user that matches nothing at all
                at = end + 1
                continue
            if check is not None:
                candidate = data[start:end].decode()
                real = check(candidate)
                at = start + len(_first_group(candidate).encode())  # another may begin at the next group
                if not real:
                    continue
                end = start + len(candidate[:real].encode())
                if out and end <= out[-1][1]:
                    continue
            else:
                at = end
            out.append((start, end))
        return out


def _first_group(candidate: str) -> str:
    """Return the start of `candidate` up to and with its first separator, or all of it."""
    for at, char in enumerate(candidate):
        if at and not char.isalnum():
            return candidate[: at + 1]
    return candidate


def _anywhere(pattern: Pattern) -> str:
    return f"(?m){pattern.find}"  # texts are joined by line ends: ^ and $ stand for the borders of a line


def _compiled(pattern: Pattern, options: Any) -> Any:
    import re2

    try:
        return re2.compile(_anywhere(pattern), options)
    except re2.error as error:
        text = error.args[0] if error.args else error
        raise BadPatternError(text.decode() if isinstance(text, bytes) else str(text)) from None
