"""The efficiency page: every figure with unit, provenance, its rows, and what to do about each loss."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import msgspec

from wattmill.app.efficiency.levers import LEVERS
from wattmill.app.efficiency.spec import DECODE_WORK, PREFILL_WORK, Chain, Efficiency, Loss, Lost, Stage
from wattmill.app.results.making import table
from wattmill.app.results.sheet import Fact, Table
from wattmill.app.seeing.figure import Figure, figure, significant
from wattmill.units import NUSD_PER_USD, TOK_PER_MTOK, US_PER_S
from wattmill.vocab.usage import Provenance, weakest

ROWS = "/api/efficiency/rows/"
_FLOP_PER_TFLOP = 1e12


class LossLine(msgspec.Struct, frozen=True, kw_only=True):
    name: Lost
    share: Figure  # of what enters its stage
    points: Figure  # of the whole
    gain: Figure  # of the useful end, without it
    lever: str
    note: str


class StageLine(msgspec.Struct, frozen=True, kw_only=True):
    """`left` of the whole goes on; the bar of each loss begins where the one before it ends."""

    name: str
    factor: Figure
    left: float  # 0..1 of the whole, for the bar
    losses: tuple[LossLine, ...]
    note: str


class ChainLines(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    title: str
    says: str
    factor: Figure
    whole: Figure
    useful: Figure
    stages: tuple[StageLine, ...]
    unknown: tuple[str, ...]


class Lever(msgspec.Struct, frozen=True, kw_only=True):
    loss: Lost
    gain: Figure
    what: str


class Page(msgspec.Struct, frozen=True, kw_only=True):
    start_us: int
    end_us: int
    period: str
    says: str
    facts: tuple[Fact, ...]
    chains: tuple[ChainLines, ...]
    levers: tuple[Lever, ...]  # the largest gain first
    places: Table
    notes: tuple[str, ...]


def page(e: Efficiency) -> Page:
    """Return the page of a period."""
    query = f"?since={e.start_us}&until={e.end_us}"
    chains = [_chain("capacity", "Capacity: from paid hours to useful work", e.capacity, query)]
    if e.watts is not None:
        chains.append(_chain("watts", "Watts: from the grid to useful joules", e.watts, query))
    levers = _levers(e.capacity, query)
    return Page(
        start_us=e.start_us,
        end_us=e.end_us,
        period=_period(e),
        says=_says(e),
        facts=_facts(e, query),
        chains=tuple(chains),
        levers=levers,
        places=_places(e, query),
        notes=tuple(_notes(e)),
    )


def _period(e: Efficiency) -> str:
    begin, end = (dt.datetime.fromtimestamp(us / US_PER_S, dt.UTC) for us in (e.start_us, e.end_us))
    same = begin.date() == end.date()
    last = end.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M:%S")
    return f"{begin.strftime('%Y-%m-%d %H:%M:%S')} to {last} UTC"


def _says(e: Efficiency) -> str:
    if e.capacity.factor is None:
        return "No owned place worked in this period, so there is nothing to hold it against."
    first = f"Of what is paid, {_percent(e.capacity.factor)} became useful work"
    unknown = e.capacity.unknown
    if unknown:
        first += f" ({', '.join(unknown)}: unknown and left out)"
    every = [loss for stage in e.capacity.stages for loss in stage.losses if loss.points]
    if every:
        first += f"; most is lost to {max(every, key=lambda loss: loss.points or 0.0).name}"
    return first + "."


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def _facts(e: Efficiency, query: str) -> tuple[Fact, ...]:
    rows, energy = f"{ROWS}work{query}", "/api/rows/energy"
    joules: Provenance = "unknown" if e.watts is None else e.watts.stages[2].provenance
    tokens = e.useful_tok

    def per(amount: float | None, unit: str, known: Provenance, note: str, where: str = rows) -> Figure:
        value = tokens / amount if amount else None
        return figure(value, unit, provenance=known, rows=where, note=note)

    useful = "output tokens of answers that ended well and kept their promise"
    usd = None if e.paid_usd is None or not tokens else e.paid_usd / tokens * TOK_PER_MTOK * NUSD_PER_USD
    hours = "accelerator-hour" if e.accelerators_declared else "place-hour"
    why_hour = useful if e.accelerators_declared else f"{useful}; accelerators are not declared"
    sizes = "2 x active parameters x tokens computed, wasted ones too"
    peak = "peaks are known where [pools.NAME.twin.deployment] is declared"
    return (
        Fact(label="useful of what is paid", figure=_ratio(e.capacity.factor, "measured", rows)),
        Fact(
            label="useful tokens",
            figure=figure(tokens, "tok", rows=rows, note=f"{useful}, of {e.output_tok:,}"),
        ),
        Fact(label="tokens per joule", figure=per(e.energy_j, "tok_per_j", joules, useful, energy)),
        Fact(
            label="tokens per TFLOP",
            figure=per(
                None if e.flop is None else e.flop / _FLOP_PER_TFLOP, "tok_per_tflop", "modelled", sizes
            ),
        ),
        Fact(label=f"tokens per {hours}", figure=per(e.accelerator_h, "tok_per_h", "measured", why_hour)),
        Fact(
            label="paid for a million",
            figure=figure(
                usd, "nusd_per_mtok", provenance="declared", rows=rows,
                note="declared dollars of an hour, and joules at the declared tariff, per useful token",
            ),
        ),
        Fact(label="MFU", figure=figure(e.mfu, "ratio", provenance="modelled", rows=rows, note=peak)),
        Fact(label="MBU", figure=figure(e.mbu, "ratio", provenance="estimated", rows=rows, note=peak)),
        Fact(
            label="useful joules",
            figure=_ratio(None if e.watts is None else e.watts.factor, joules, energy),
        ),
    )  # fmt: skip


def _ratio(
    value: float | None, known: Provenance, rows: str | None = None, note: str | None = None
) -> Figure:
    """Return a share with one decimal more than other pages: bars move by tenths of a point."""
    if value is None:
        return figure(None, "ratio", rows=rows, note=note)
    return Figure(value=value, unit="ratio", text=_percent(value), provenance=known, rows=rows, note=note)


def _chain(id: str, title: str, chain: Chain, query: str) -> ChainLines:
    unit = "work" if id == "capacity" else "j"
    known: Provenance = "unknown"
    if chain.factor is not None:
        known = weakest(s.provenance for s in chain.stages if s.factor is not None)
    kept = [f"{s.name} {_percent(s.factor)}" for s in chain.stages if s.factor is not None]
    told = " × ".join(kept)
    rows = f"{ROWS}{id}{query}"
    return ChainLines(
        id=id,
        title=title,
        says=f"{told} = {_percent(chain.factor)}" if chain.factor is not None and told else "nothing to tell",
        factor=_ratio(chain.factor, known, rows),
        whole=figure(chain.whole, unit, provenance=known, rows=rows),
        useful=figure(chain.useful, unit, provenance=known, rows=rows),
        stages=tuple(_stage(stage, chain, query, rows) for stage in chain.stages),
        unknown=chain.unknown,
    )


def _stage(stage: Stage, chain: Chain, query: str, rows: str) -> StageLine:
    left = stage.leaves / chain.whole if chain.whole > 0 else 0.0
    factor = _ratio(stage.factor, stage.provenance, rows, stage.note or None)
    losses = tuple(_loss(loss, query) for loss in stage.losses)
    return StageLine(name=stage.name, factor=factor, left=left, losses=losses, note=stage.note)


def _loss(loss: Loss, query: str) -> LossLine:
    rows = rows_of_loss(loss.name, query)
    return LossLine(
        name=loss.name,
        share=_ratio(loss.share, loss.provenance, rows, loss.note or None),
        points=_ratio(loss.points, loss.provenance, rows, loss.note or None),
        gain=_gain(loss, rows),
        lever=LEVERS[loss.name],
        note=loss.note,
    )


def _gain(loss: Loss, rows: str) -> Figure:
    """Return how much more would be useful without a loss: a share, or a factor from twice on."""
    if loss.gain is None:
        return figure(None, "ratio", rows=rows, note=loss.note or None)
    text = f"+{_percent(loss.gain)}" if loss.gain < 1.0 else f"× {significant(1.0 + loss.gain)}"
    note = "more useful work without it, all else being equal"
    return Figure(value=loss.gain, unit="ratio", text=text, provenance="modelled", rows=rows, note=note)


def rows_of_loss(name: Lost, query: str) -> str:
    """Return where the rows of a loss are: joules of windows have a list of their own, and what a site takes
    or nobody tells stands among the stages of its chain."""
    if name in ("idle power", "unattributed", "service", "foreign"):
        return "/api/rows/energy"
    if name in ("conversion", "cooling"):
        return f"{ROWS}watts{query}"
    if name == "rejected":
        return f"{ROWS}capacity{query}"
    return f"{ROWS}{name.replace(' ', '-')}{query}"


def _levers(chain: Chain, query: str) -> tuple[Lever, ...]:
    found = [
        loss for stage in chain.stages for loss in stage.losses if loss.gain is not None and loss.gain > 0
    ]
    found.sort(key=lambda loss: -(loss.gain or 0.0))
    return tuple(
        Lever(
            loss=loss.name,
            gain=_gain(loss, rows_of_loss(loss.name, query)),
            what=LEVERS[loss.name],
        )
        for loss in found
    )


def _places(e: Efficiency, query: str) -> Table:
    names = [stage.name for stage in e.capacity.stages]
    stages = f"{ROWS}capacity{query}"
    rows: list[list[Figure | str]] = []
    for one in e.places:
        at = "" if one.best_at_us is None else _instant(one.best_at_us)
        best = figure(
            one.best_per_s, "tok_per_s", rows=f"{ROWS}shallow-batch{query}",
            provenance="measured" if at else "declared",
            note=f"best stretch of 10 s, at {at}" if at else "it never worked: its declared busy speed",
        )  # fmt: skip
        rows.append(
            [
                one.place,
                figure(one.paid_s, "s", rows=stages),
                best,
                *(_ratio(stage.factor, stage.provenance, stages) for stage in one.chain.stages),
                _ratio(one.chain.factor, "measured", stages),
            ]
        )
    return table(
        "places",
        "Place by place",
        ["place", "paid", "R*", *names, "useful"],
        rows,
        note=f"R* counts a computed prompt token as {PREFILL_WORK / DECODE_WORK:g} of an output token.",
    )


def _instant(us: int) -> str:
    return dt.datetime.fromtimestamp(us / US_PER_S, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _notes(e: Efficiency) -> Iterable[str]:
    yield (
        "R* is the best 10 s that a place was seen to work, in this period and the day before: one that was "
        "never full looks better than it is."
    )
    for stage in e.capacity.stages:
        if stage.name in e.capacity.unknown:
            yield f"{stage.name} is unknown and left out of the product: {stage.note}."
    if e.watts is not None:
        for stage in e.watts.stages:
            if stage.name in e.watts.unknown:
                yield f"{stage.name} is unknown and left out: {stage.note}."
    if 0.0 < e.judged_share < 1.0:
        yield f"{_percent(e.judged_share)} of the work had a promise; the rest is taken as in time."
    if e.refused:
        yield f"{e.refused:,} requests found no place; they used no capacity, and are in no chain."
