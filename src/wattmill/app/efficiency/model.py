"""The arithmetic of efficiency: two chains of stages whose factors multiply to the end-to-end figure.

Capacity. What is paid is hours x R*, R* being the best rate at which the place was seen to work. Of it

    availability   time that it was up / paid time
    occupancy      time in which steps ran / time that it was up
    batching       work done / (time in which steps ran x R*)
    SLO goodput    work in time / work done
    non-waste      work of answers that arrived / work in time
    accepted       work that was accepted / that: unknown today, so left out and never taken as 1

arrives. Each stage takes off amounts that have one name each, so what leaves is what enters less its losses.
A late answer that also failed is counted once, as waste: only answers that ended well can be late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from wattmill.app.efficiency.pool import Worked, seconds, worked
from wattmill.app.efficiency.spec import (
    CAPACITY,
    WATTS,
    Attempt,
    Chain,
    Efficiency,
    Loss,
    Lost,
    Overhead,
    PlaceSeen,
    Rated,
    Seen,
    Stage,
)
from wattmill.units import J_PER_KWH, NUSD_PER_USD, S_PER_H, UJ_PER_J, US_PER_S
from wattmill.vocab.usage import Provenance, weakest

_NOTHING = 1e-12

WASTE: tuple[Lost, ...] = ("failed", "aborted", "retried")


class Known(NamedTuple):
    """An amount that a stage loses under one name. None: nobody knows."""

    amount: float | None
    provenance: Provenance
    note: str = ""


def fates(attempts: Sequence[Attempt]) -> dict[tuple[str, int], Lost | None]:
    """Return what each attempt's work was lost to, by (request, number): one name, or None where it was
    useful or is still running.

    Of a request with an answer that ended well, that attempt counts and every other was `retried` (failures
    that were sent again, hedges that lost). Without one, what the client left is `aborted`, else `failed`.
    """
    winners: dict[str, int] = {}
    for a in sorted(attempts, key=lambda a: a.end_us):
        if a.status == "finished":
            winners.setdefault(a.id, a.number)
    out: dict[tuple[str, int], Lost | None] = {}
    for a in attempts:
        winner = winners.get(a.id)
        if winner == a.number:
            out[a.id, a.number] = "late" if a.kept is False else None
        elif winner is not None:
            out[a.id, a.number] = "retried"
        elif a.status == "running":
            out[a.id, a.number] = None
        else:
            out[a.id, a.number] = "aborted" if a.status == "aborted" else "failed"
    return out


def efficiency(seen: Seen) -> Efficiency:
    """Return the page of a period. Only owned places have hours; what bought ones did is in no chain."""
    lost = fates(seen.attempts)
    owned = [place for place in seen.places if place.owned]
    by_place = {p.name: [a for a in seen.attempts if a.pool == p.name] for p in owned}
    done = {
        p.name: worked(
            p, by_place[p.name], seen.start_us, seen.end_us, [a for a in seen.earlier if a.pool == p.name]
        )
        for p in owned
    }
    rated = tuple(_rated(p, by_place[p.name], done[p.name], lost) for p in owned)
    here = [a for p in owned for a in by_place[p.name] if a.status != "running"]
    useful = [a for a in here if a.status == "finished" and lost[a.id, a.number] is None]
    watts = None if seen.joules is None else _watts(seen, here, lost)
    work = sum(sum(done[p.name].work) for p in owned)
    judged = sum(
        w
        for p in owned
        for a, w in zip(by_place[p.name], done[p.name].work, strict=True)
        if a.kept is not None
    )
    hours = (seen.end_us - seen.start_us) / US_PER_S / S_PER_H
    counts = [place.accelerators for place in owned]
    energy_j = None if seen.joules is None else seen.joules.total_uj / UJ_PER_J
    return Efficiency(
        start_us=seen.start_us,
        end_us=seen.end_us,
        requests=len({a.id for a in seen.attempts}),
        attempts=len(seen.attempts),
        useful_tok=sum(a.output_tok for a in useful),
        output_tok=sum(a.output_tok for a in here),
        computed_tok=sum(a.output_tok + a.prefill_tok for a in here),
        energy_j=energy_j,
        flop=_flop(owned, by_place),
        accelerator_h=hours * sum(n or 1 for n in counts) if owned else None,
        accelerators_declared=bool(counts) and None not in counts,
        paid_usd=_paid_usd(seen, owned, hours),
        mfu=_mfu(seen, owned, by_place, done),
        mbu=_mbu(seen, owned, by_place, done),
        capacity=summed("capacity", [one.chain for one in rated]),
        watts=watts,
        places=rated,
        refused=seen.refused,
        judged_share=judged / work if work else 0.0,
    )


def _rated(
    place: PlaceSeen, attempts: Sequence[Attempt], w: Worked, lost: Mapping[tuple[str, int], Lost | None]
) -> Rated:
    best, paid_s = w.best, seconds(w.paid)
    done, busy_s = sum(w.work), seconds(w.busy)
    # No mean is better than the best: short bursts may be missing from the long stretches.
    if best is not None:
        per_s = max(best.per_s, done / busy_s if busy_s else 0.0)
    else:
        per_s = place.declared_per_s or 0.0  # its hours are paid though nobody ever saw what it can do
    named: dict[str, float] = {}
    judged = False
    for a, work in zip(attempts, w.work, strict=True):
        judged |= a.kept is not None
        fate = lost[a.id, a.number]
        if fate is not None:
            named[fate] = named.get(fate, 0.0) + work
    measured: Provenance = "measured"
    unknown = Known(None, "unknown", "the engine does not tell its own times")
    shallow = busy_s * per_s - done - (place.padding_work or 0.0)
    known: dict[Lost, Known] = {
        "down": Known(seconds(w.down) * per_s, measured, "no worker saw it healthy")
        if w.up is not None
        else Known(None, "unknown", "no view of it was kept in the journal"),
        "idle": Known(seconds(w.idle) * per_s, measured, "nobody asked"),
        "over-provisioned": Known(
            seconds(w.over) * per_s, measured, f"nobody asked for {place.gap_s:g} s and longer"
        ),
        "queue": Known(seconds(w.queue) * per_s, measured, "somebody waited, and nothing ran"),
        "network": Known(seconds(w.network) * per_s, measured, "on the way, and nothing ran")
        if w.network_known
        else unknown,
        "padding": Known(place.padding_work, measured)
        if place.padding_work is not None
        else Known(None, "unknown", "the engine does not tell: it is inside of the shallow batch"),
        "shallow batch": Known(shallow, measured, "slower than the best stretch"),
        "late": Known(named.get("late", 0.0), measured, "the tier's promise was broken")
        if judged
        else Known(None, "unknown", "nobody who asked was promised anything"),
        **{name: Known(named.get(name, 0.0), measured) for name in WASTE},
        "rejected": Known(None, "unknown", "nobody tells which answers were accepted"),
    }
    chain = _chain(place.name, "work", paid_s * per_s, CAPACITY, known)
    at_us = None if best is None else best.start_us
    return Rated(place=place.name, paid_s=paid_s, best_per_s=per_s or None, best_at_us=at_us, chain=chain)


def _watts(seen: Seen, attempts: Sequence[Attempt], lost: Mapping[tuple[str, int], Lost | None]) -> Chain:
    """Return joules from the grid to useful ones. What the site takes is known per joule at the meter."""
    joules = seen.joules
    assert joules is not None, "asked only where there are any"
    wasted = sum(
        a.energy_uj * _inside(a, seen)
        for a in attempts
        if a.energy_uj is not None and lost[a.id, a.number] is not None
    )
    told: dict[str, Overhead] = {one.name: one for one in seen.overheads}
    known: dict[Lost, Known] = {}
    inside_uj = joules.total_uj - joules.overhead_uj
    grid_j = joules.total_uj / UJ_PER_J
    outside: tuple[Lost, ...] = ("cooling", "conversion")
    for name in outside:
        one = told.get(name)
        if joules.overhead_uj and name == "conversion":  # a meter above the host sees both, and not apart
            both = "conversion and cooling together, by the meter that feeds the host"
            known[name] = Known(joules.overhead_uj / UJ_PER_J, joules.provenance, both)
            continue
        if joules.overhead_uj:
            known[name] = Known(None, "unknown", "it is in the conversion: one meter sees both")
            continue
        if one is None or one.per_j is None:
            known[name] = Known(None, "unknown", "no meter or declaration of the site says")
            continue
        known[name] = Known(one.per_j * inside_uj / UJ_PER_J, one.provenance, one.source)
        grid_j += one.per_j * inside_uj / UJ_PER_J
    how = joules.provenance
    known |= {
        "idle power": Known(joules.idle_uj / UJ_PER_J, how, f"{joules.meter}: {joules.source}"),
        "unattributed": Known(joules.unattributed_uj / UJ_PER_J, how, "nobody can be named for them"),
        "service": Known(joules.service_uj / UJ_PER_J, how, "the factory's own while nobody was served"),
        "foreign": Known(joules.foreign_uj / UJ_PER_J, how, "programs that are not the factory's"),
        "wasted joules": Known(wasted / UJ_PER_J, how, "of late, failed, aborted and retried work"),
    }
    return _chain("watts", "J", grid_j, WATTS, known)


def _chain(
    name: str,
    unit: str,
    whole: float,
    stages: Sequence[tuple[str, Sequence[Lost]]],
    known: Mapping[Lost, Known],
) -> Chain:
    """Return the chain that takes off what is known, in order; if nothing is known, a stage stays out."""
    enters, out = whole, []
    for stage, names in stages:
        amounts = {n: known[n] for n in names}
        sure = [k.amount for k in amounts.values() if k.amount is not None]
        leaves = enters - sum(sure)
        if leaves < _NOTHING * whole:
            leaves = 0.0  # all of it is lost: what floats leave over is no work
        factor = leaves / enters if sure and enters > 0 else None
        losses = tuple(
            Loss(
                name=n,
                amount=k.amount,
                share=None if k.amount is None or enters <= 0 else k.amount / enters,
                points=None if k.amount is None or whole <= 0 else k.amount / whole,
                gain=None if k.amount is None or leaves <= 0 else k.amount / leaves,
                provenance=k.provenance,
                note=k.note,
            )
            for n, k in amounts.items()
        )
        seen = [k.provenance for k in amounts.values() if k.amount is not None]
        out.append(
            Stage(
                name=stage,
                enters=enters,
                leaves=leaves,
                factor=factor,
                losses=losses,
                provenance=weakest(seen),
                note=("" if sure else next(iter(amounts.values())).note) if enters > 0 else "nothing is left",
            )
        )
        enters = leaves
    return Chain(
        name=name,
        unit=unit,
        whole=whole,
        useful=enters,
        factor=enters / whole if whole > 0 else None,
        stages=tuple(out),
    )


def summed(name: str, chains: Sequence[Chain]) -> Chain:
    """Return the chain of all places together: amounts add up, so factors are weighted by what enters."""
    known: dict[Lost, Known] = {}
    for _, names in CAPACITY:
        for n in names:
            losses = [loss for chain in chains for s in chain.stages for loss in s.losses if loss.name == n]
            sure = [loss for loss in losses if loss.amount is not None]
            known[n] = Known(
                sum(loss.amount or 0.0 for loss in sure) if sure else None,
                weakest([loss.provenance for loss in sure]),
                losses[0].note if losses else "there is no owned place",
            )
    return _chain(name, "work", sum(chain.whole for chain in chains), CAPACITY, known)


# ---- what stands beside the chains


def _flop(owned: Sequence[PlaceSeen], by_place: Mapping[str, Sequence[Attempt]]) -> float | None:
    """Return 2 x active parameters x computed tokens; None where a place's model has no declared size."""
    total = 0.0
    for place in owned:
        tokens = sum(a.prefill_tok + a.output_tok for a in by_place[place.name])
        if tokens and place.flop_per_tok is None:
            return None
        total += tokens * (place.flop_per_tok or 0.0)
    return total or None


def _paid_usd(seen: Seen, owned: Sequence[PlaceSeen], hours: float) -> float | None:
    """Return what hours and joules cost; None where a place's hour has no declared price."""
    if not owned or any(place.hourly_nusd is None for place in owned):
        return None
    nusd = hours * sum(place.hourly_nusd or 0 for place in owned)
    if seen.joules is not None and seen.tariff_nusd_per_kwh is not None:
        nusd += seen.joules.total_uj / UJ_PER_J / J_PER_KWH * seen.tariff_nusd_per_kwh
    return nusd / NUSD_PER_USD


def _of_peak(
    owned: Sequence[PlaceSeen],
    done: Mapping[str, Worked],
    did: Callable[[PlaceSeen], float | None],
    peak: Callable[[PlaceSeen], float | None],
) -> float | None:
    """Return what was done over what could have been while steps ran, over places that declare both."""
    could, was = 0.0, 0.0
    for place in owned:
        amount, most = did(place), peak(place)
        if amount is not None and most is not None:
            could += most * seconds(done[place.name].busy)
            was += amount
    return was / could if could else None


def _inside(a: Attempt, seen: Seen) -> float:
    """Return the part of an attempt, by time at its place, that lies in the period."""
    took_us = a.end_us - a.left_us
    inside_us = min(a.end_us, seen.end_us) - max(a.left_us, seen.start_us)
    return max(0.0, min(1.0, inside_us / took_us)) if took_us > 0 else 1.0


def _mfu(
    seen: Seen,
    owned: Sequence[PlaceSeen],
    by_place: Mapping[str, Sequence[Attempt]],
    done: Mapping[str, Worked],
) -> float | None:
    def flop(place: PlaceSeen) -> float | None:
        tokens = sum((a.prefill_tok + a.output_tok) * _inside(a, seen) for a in by_place[place.name])
        return None if place.flop_per_tok is None else tokens * place.flop_per_tok

    return _of_peak(owned, done, flop, lambda place: place.peak_flop_per_s)


def _mbu(
    seen: Seen,
    owned: Sequence[PlaceSeen],
    by_place: Mapping[str, Sequence[Attempt]],
    done: Mapping[str, Worked],
) -> float | None:
    """Return bytes read over bytes that could have been. A step reads the weights once and each answer's
    cache: steps = output tokens / answers that decoded at once."""

    def read(place: PlaceSeen) -> float | None:
        if place.weight_bytes is None:
            return None
        decoded = [a for a in by_place[place.name] if a.first_us is not None and a.output_tok > 0]
        part = {a: _inside(a, seen) for a in decoded}
        spans_s = sum((a.end_us - (a.first_us or 0)) * part[a] for a in decoded) / US_PER_S
        busy_s = seconds(done[place.name].busy)
        at_once = max(1.0, spans_s / busy_s) if busy_s else 1.0
        steps = sum(a.output_tok * part[a] for a in decoded) / at_once
        context = sum(a.output_tok * part[a] * (a.prefill_tok + a.output_tok / 2.0) for a in decoded)
        return steps * place.weight_bytes + context * (place.kv_bytes_per_tok or 0.0)

    return _of_peak(owned, done, read, lambda place: place.peak_bytes_per_s)
