"""The rows that a figure of the efficiency page was computed from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

from wattmill.app.efficiency.model import efficiency, fates
from wattmill.app.efficiency.pool import Worked, worked
from wattmill.app.efficiency.spans import Span
from wattmill.app.efficiency.spec import Attempt, PlaceSeen, Seen
from wattmill.units import UJ_PER_J, US_PER_S

Cell = str | float | int | None
Row = Mapping[str, Cell]

SPANS = {"down": "down", "idle": "idle", "over-provisioned": "over", "queue": "queue", "network": "network"}
FATES = ("late", "failed", "aborted", "retried")
CHAINS = ("capacity", "watts")
NAMES = (*SPANS, "shallow-batch", "padding", *FATES, "wasted-joules", "work", *CHAINS)
"""Losses that have rows, as they stand in an address; `work` is every attempt, a chain is its stages."""


def rows(seen: Seen, name: str) -> tuple[str, str, list[Row]] | None:
    """Return the title, a note and the rows behind one loss, in order of time; None: no such name."""
    if name in SPANS:
        return _spans(seen, name)
    if name in ("shallow-batch", "padding"):
        return _stretches(seen)
    if name in ("wasted-joules", *FATES, "work"):
        return _attempts(seen, name)
    if name in CHAINS:
        return _stages(seen, name)
    return None


def _stages(seen: Seen, name: str) -> tuple[str, str, list[Row]]:
    """Return what a chain's factors were made of: what enters each stage, what each loss takes off."""
    found = efficiency(seen)
    if name == "watts":
        chains = [] if found.watts is None else [("all meters", found.watts)]
        unit, note = "j", "Joules, from the grid on; the windows of meters are the rows of energy."
    else:
        chains = [(one.place, one.chain) for one in found.places]
        unit, note = "tok", "Work in output tokens: paid time at the best rate of each place (R*)."
    lines: list[Row] = []
    for place, chain in chains:
        for stage in chain.stages:
            for loss in stage.losses:
                lines.append(
                    {
                        "place": place,
                        "stage": stage.name,
                        f"enters_{unit}": stage.enters,
                        "lost_to": loss.name,
                        f"lost_{unit}": loss.amount,
                        f"leaves_{unit}": stage.leaves,
                        "factor": stage.factor,
                        "known_by": loss.provenance,
                        "how": loss.note or None,
                    }
                )
    return f"The stages of the chain: {name}", note, lines


def _owned(seen: Seen) -> Iterator[tuple[PlaceSeen, list[Attempt], Worked]]:
    for place in seen.places:
        if place.owned:
            own = [a for a in seen.attempts if a.pool == place.name]
            earlier = [a for a in seen.earlier if a.pool == place.name]
            yield place, own, worked(place, own, seen.start_us, seen.end_us, earlier)


def _spans(seen: Seen, name: str) -> tuple[str, str, list[Row]]:
    found: list[tuple[Span, str]] = []
    for place, _, w in _owned(seen):
        found += [(span, place.name) for span in getattr(w, SPANS[name])]
    lines: list[Row] = [
        {"place": pool, "from": instant(start), "seconds": (end - start) / US_PER_S}
        for (start, end), pool in sorted(found)
    ]
    total = sum(end - start for (start, end), _ in found) / US_PER_S
    return f"Time lost to: {name}", f"{len(lines)} spans, {total:,.1f} s in all.", lines


def _stretches(seen: Seen) -> tuple[str, str, list[Row]]:
    lines: list[Row] = []
    for place, _, w in _owned(seen):
        best = w.best
        for s in w.stretches if best is None or best in w.stretches else (best, *w.stretches):
            lines.append(
                {
                    "place": place.name,
                    "from": instant(s.start_us),
                    "busy_s": s.busy_s,
                    "work_tok": s.work,
                    "work_tok_per_s": s.per_s,
                    "of_the_best": s.per_s / best.per_s if best is not None and best.per_s else None,
                }
            )
    return "How fast each place worked", "Stretches of 10 s in which anything ran; the best one is R*.", lines


def _attempts(seen: Seen, name: str) -> tuple[str, str, list[Row]]:
    lost = fates(seen.attempts)
    lines: list[Row] = []
    for _, own, w in _owned(seen):
        for a, work in zip(own, w.work, strict=True):
            fate = lost[a.id, a.number]
            if name in FATES and fate != name:
                continue
            if name == "wasted-joules" and fate is None:
                continue
            lines.append(_attempt(a, work, fate))
    lines.sort(key=lambda row: str(row["ended"]))
    title = "Every attempt of the period" if name == "work" else f"Attempts lost to: {name.replace('-', ' ')}"
    return title, "Work is in output tokens, the part inside of the period.", lines


def _attempt(a: Attempt, work: float, fate: str | None) -> Row:
    return {
        "request": a.id,
        "attempt": a.number + 1,
        "place": a.pool,
        "tier": a.tier or None,
        "ended": instant(a.end_us),
        "status": a.status,
        "lost_to": fate,
        "prompt_tok": a.prefill_tok,
        "output_tok": a.output_tok,
        "work_tok": work,
        "energy_j": None if a.energy_uj is None else a.energy_uj / UJ_PER_J,
        "seconds": (a.end_us - a.left_us) / US_PER_S,
    }


def instant(us: int) -> str:
    """Return an instant to the millisecond, UTC."""
    text = dt.datetime.fromtimestamp(us // US_PER_S, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{us % US_PER_S // 1000:03d}"


def columns(lines: Sequence[Row]) -> list[str]:
    return list(lines[0]) if lines else []
