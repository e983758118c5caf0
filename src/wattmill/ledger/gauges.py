"""What attempts took of caps and limits, by gauge: what a dead worker's lease is folded with.

A node's cap has the node's own id as its gauge; a period of a limit has a name of its own, which stands in
the intent with what was reserved of it and in the end with what was used (`vocab.budget`). For an attempt in
doubt the books remember what they last told, in the same form; gauge 0 there is what counts against every cap
of the path beyond the charge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from wattmill.ledger.allotment import taken
from wattmill.ledger.book import Opened
from wattmill.vocab.budget import NOTHING, Spend, unit_of
from wattmill.vocab.fact import End
from wattmill.vocab.usage import Usage

BEYOND = 0


def pairs(flat: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return (gauge, amount) of the form in which facts hold them."""
    return zip(flat[::2], flat[1::2], strict=True)


def used_by(start: Opened, end: End) -> dict[int, int]:
    """Return what an attempt that ended took of each gauge."""
    return dict.fromkeys(start.path, end.charge_nusd + end.kept_nusd) | _within(start, end)


def beyond(start: Opened, end: End) -> dict[int, int]:
    """Return what an attempt took of each gauge beyond its reservation. It counts under no limit."""
    held = dict(pairs(start.held))
    return {
        gauge: amount - held[gauge]
        for gauge, amount in pairs(end.took)
        if gauge in held and amount > held[gauge]
    }


def held_by(start: Opened) -> dict[int, int]:
    """Return what an attempt in doubt holds of each gauge: all that was reserved."""
    return dict.fromkeys(start.path, start.reserved_nusd) | dict(pairs(start.held))


def standing_after(start: Opened, end: End) -> tuple[int, ...]:
    """Return what is told of an attempt that was in doubt, beside its charge, once its end is decided."""
    if end.took or not start.held:
        limits = _within(start, end)
    else:
        limits = {gauge: _used(gauge, amount, end.usage) for gauge, amount in pairs(start.held) if gauge}
    if end.kept_nusd:
        limits[BEYOND] = end.kept_nusd
    return tuple(word for pair in limits.items() for word in pair)


def correction(start: Opened, charged: int, standing: Sequence[int]) -> dict[int, int]:
    """Return what to add to each gauge when the charge changes by `charged` and the rest to `standing`."""
    before, after = dict(pairs(start.held)), dict(pairs(standing))
    delta = {gauge: after.get(gauge, 0) - before.get(gauge, 0) for gauge in before.keys() | after.keys()}
    delta |= dict.fromkeys(start.path, charged + delta.pop(BEYOND, 0))
    return {gauge: amount for gauge, amount in delta.items() if amount}


def add(sums: dict[tuple[int, int], int], epoch: int, used: Mapping[int, int]) -> None:
    """Add to what an epoch used of each gauge."""
    for gauge, amount in used.items():
        if amount:
            sums[epoch, gauge] = sums.get((epoch, gauge), 0) + amount


def _within(start: Opened, end: End) -> dict[int, int]:
    held = dict(pairs(start.held))
    return {gauge: min(amount, held.get(gauge, amount)) for gauge, amount in pairs(end.took)}


def _used(gauge: int, amount: int, usage: Usage | None) -> int:
    spend = NOTHING if usage is None else Spend(0, usage.prompt_tok, usage.output_tok, None, None)
    return taken(unit_of(gauge), amount, spend)
