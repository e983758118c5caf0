"""One place over a period: when it worked, on how much, and what its other hours were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wattmill.app.efficiency.spans import Span, both, length, less, union
from wattmill.app.efficiency.spec import BIN_S, DECODE_WORK, PREFILL_WORK, Attempt, PlaceSeen
from wattmill.units import US_PER_S

_HALF = 0.5  # of a stretch: one in which a place hardly worked says nothing about its best


class Stretch(NamedTuple):
    """One bin of time: what a place did in it."""

    start_us: int
    busy_s: float
    work: float

    @property
    def per_s(self) -> float:
        return self.work / self.busy_s if self.busy_s else 0.0


class Worked(NamedTuple):
    """A place's time, cut into what it was, and its work."""

    paid: tuple[Span, ...]
    up: tuple[Span, ...] | None
    down: tuple[Span, ...]
    busy: tuple[Span, ...]
    queue: tuple[Span, ...]
    network: tuple[Span, ...]
    idle: tuple[Span, ...]
    over: tuple[Span, ...]
    work: tuple[float, ...]  # of each attempt, the part inside the period
    stretches: tuple[Stretch, ...]  # of the period
    before: tuple[Stretch, ...]  # of the time before it
    network_known: bool

    @property
    def best(self) -> Stretch | None:
        """Return the stretch with the best rate among those in which it worked for half of the time; of a
        place that never did, the best of all."""
        every = (*self.stretches, *self.before)
        long = [s for s in every if s.busy_s >= _HALF * BIN_S]
        found = long or [s for s in every if s.busy_s]
        return max(found, key=lambda s: s.per_s, default=None)


def worked(
    place: PlaceSeen,
    attempts: Sequence[Attempt],
    start_us: int,
    end_us: int,
    earlier: Sequence[Attempt] = (),
) -> Worked:
    """Return what `place` did between two instants; `attempts` are those that went to it, `earlier` those
    that had ended before."""
    paid = [(start_us, end_us)]

    def clipped(spans: list[Span]) -> list[Span]:
        return both(union(spans), paid)

    # An attempt that came to nothing shows no engine at work: it was on its way until it failed.
    at_work = [a for a in attempts if a.prefill_tok or a.output_tok or a.status == "running"]
    in_vain = [a for a in attempts if not (a.prefill_tok or a.output_tok or a.status == "running")]
    busy = clipped([(a.works_us, a.end_us) for a in at_work])
    # What works is up, whatever a worker saw of it.
    up = None if place.up is None else clipped([*place.up, *busy])
    there = paid if up is None else up
    free = less(there, busy)
    waiting = clipped(
        [(a.waits_us, a.left_us) for a in attempts] + [(a.queues_us, a.works_us) for a in attempts]
    )
    queue = both(free, waiting)
    on_the_way = clipped(
        [(a.left_us, a.queues_us) for a in attempts] + [(a.left_us, a.end_us) for a in in_vain]
    )
    network = less(both(free, on_the_way), queue)
    rest = less(less(free, queue), network)
    limit_us = place.gap_s * US_PER_S
    pieces = [_pieces(a) for a in attempts]
    return Worked(
        paid=tuple(paid),
        up=None if up is None else tuple(up),
        down=tuple(less(paid, there)),
        busy=tuple(busy),
        queue=tuple(queue),
        network=tuple(network),
        idle=tuple(span for span in rest if span[1] - span[0] < limit_us),
        over=tuple(span for span in rest if span[1] - span[0] >= limit_us),
        work=tuple(sum(_inside(piece, start_us, end_us) for piece in of) for of in pieces),
        stretches=tuple(_stretches(busy, [p for of in pieces for p in of], start_us, end_us)),
        before=tuple(_before(earlier, start_us)),
        network_known=any(a.engine_told for a in attempts),
    )


def _before(earlier: Sequence[Attempt], until_us: int) -> list[Stretch]:
    if not earlier:
        return []
    busy = union([(a.works_us, a.end_us) for a in earlier if a.prefill_tok or a.output_tok])
    return _stretches(busy, [p for a in earlier for p in _pieces(a)], busy[0][0] if busy else 0, until_us)


class _Piece(NamedTuple):
    """Work that is spread evenly over a span."""

    start_us: int
    end_us: int
    work: float


def _pieces(a: Attempt) -> list[_Piece]:
    """Return an attempt's work in time: its prompt until the first content, its answer from there on. A part
    that took no time goes with the other; an attempt that took none says nothing of a rate."""
    first = a.end_us if a.first_us is None else min(max(a.first_us, a.works_us), a.end_us)
    if not a.works_us < first < a.end_us:
        whole = a.prefill_tok * PREFILL_WORK + a.output_tok * DECODE_WORK
        return [_Piece(a.works_us, a.end_us, whole)] if a.works_us < a.end_us else []
    return [
        _Piece(a.works_us, first, a.prefill_tok * PREFILL_WORK),
        _Piece(first, a.end_us, a.output_tok * DECODE_WORK),
    ]


def _inside(piece: _Piece, start_us: int, end_us: int) -> float:
    """Return the part of a piece's work between two instants."""
    overlap = min(piece.end_us, end_us) - max(piece.start_us, start_us)
    return piece.work * overlap / (piece.end_us - piece.start_us) if overlap > 0 else 0.0


def _stretches(busy: Sequence[Span], pieces: Sequence[_Piece], start_us: int, end_us: int) -> list[Stretch]:
    """Return the bins of the period in which anything ran."""
    width = round(BIN_S * US_PER_S)
    busy_us: dict[int, int] = {}
    work: dict[int, float] = {}
    for start, end in busy:
        for n in range((start - start_us) // width, (end - 1 - start_us) // width + 1):
            low = start_us + n * width
            busy_us[n] = busy_us.get(n, 0) + min(end, low + width) - max(start, low)
    for piece in pieces:
        if not piece.work or piece.end_us < start_us or piece.start_us >= end_us:
            continue
        first = max(0, (piece.start_us - start_us) // width)
        last = max(first, (min(piece.end_us, end_us) - 1 - start_us) // width)
        for n in range(first, last + 1):
            low = start_us + n * width
            work[n] = work.get(n, 0.0) + _inside(piece, low, min(low + width, end_us))
    return [
        Stretch(start_us + n * width, us / US_PER_S, work.get(n, 0.0)) for n, us in sorted(busy_us.items())
    ]


def seconds(spans: Sequence[Span]) -> float:
    return length(spans) / US_PER_S
