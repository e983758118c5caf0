"""Placeholders out, originals back: the map lives as long as the request, in memory only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[int, int, str]
"""Start and end in bytes, and the name of the pattern."""


class Redaction:
    """The placeholders of one request. The same original gets the same placeholder, so a model can tell two
    people apart without knowing either."""

    __slots__ = ("_by_original", "_counts", "_names", "_text", "originals")

    def __init__(self, strings: Iterable[str]) -> None:
        self.originals: dict[str, str] = {}  # placeholder -> original
        self._by_original: dict[tuple[str, str], str] = {}
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._text = strings

    def __repr__(self) -> str:
        return f"Redaction({len(self.originals)} placeholders)"  # never what they stand for

    def apply(self, text: str, spans: Sequence[Span]) -> str:
        """Return `text` with each of `spans` (of its UTF-8 form) replaced."""
        data = text.encode()
        out: list[bytes] = []
        at = 0
        for start, end, name in merged(spans):
            out += (data[at:start], self._placeholder(name, data[start:end].decode()).encode())
            at = end
        out.append(data[at:])
        return b"".join(out).decode()

    def _placeholder(self, pattern: str, original: str) -> str:
        known = self._by_original.get((pattern, original))
        if known is None:
            name = self._names.get(pattern)
            if name is None:
                name = self._names[pattern] = self._free_name(pattern.upper().replace("-", "_"))
            number = self._counts[name] = self._counts.get(name, 0) + 1
            known = self._by_original[pattern, original] = f"[{name}_{number}]"
            self.originals[known] = original
        return known

    def _free_name(self, name: str) -> str:
        """Return a name that no text of the request uses, so that nothing else is ever put back."""
        tried, number = name, 0
        while any(f"[{tried}_" in text for text in self._text):
            number += 1
            tried = f"{name}_{_letters(number)}"
        return tried


def _letters(number: int) -> str:
    out = ""
    while number:
        number, digit = divmod(number - 1, 26)
        out = chr(65 + digit) + out
    return out


def merged(spans: Sequence[Span]) -> list[Span]:
    """Return disjoint spans from left to right that cover the same text; the longest gives its name."""
    out: list[Span] = []
    longest = 0
    for start, end, name in sorted(spans):
        if out and start < out[-1][1]:
            before = out[-1]
            if end - start > longest:
                longest = end - start
            else:
                name = before[2]
            out[-1] = (before[0], max(before[1], end), name)
        else:
            out.append((start, end, name))
            longest = end - start
    return out
