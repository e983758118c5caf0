"""Spans of time as sorted, disjoint (start, end) pairs in whole microseconds: union, intersection, rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[int, int]
Spans = Sequence[Span]


def union(spans: Iterable[Span]) -> list[Span]:
    """Return what any of `spans` covers; they may come in any order and overlap. Empty ones vanish."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if out and start <= out[-1][1]:
            if end > out[-1][1]:
                out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def both(a: Spans, b: Spans) -> list[Span]:
    """Return what both cover. Each is sorted and disjoint, as `union` makes it."""
    out: list[Span] = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            out.append((start, end))
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1
    return out


def less(a: Spans, b: Spans) -> list[Span]:
    """Return what `a` covers and `b` does not. Each is sorted and disjoint."""
    out: list[Span] = []
    j = 0
    for span_start, end in a:
        start = span_start
        while j < len(b) and b[j][1] <= start:
            j += 1
        k = j
        while k < len(b) and b[k][0] < end:
            if b[k][0] > start:
                out.append((start, b[k][0]))
            start = max(start, b[k][1])
            k += 1
        if start < end:
            out.append((start, end))
    return out


def length(spans: Spans) -> int:
    """Return the microseconds that disjoint spans cover."""
    return sum(end - start for start, end in spans)
