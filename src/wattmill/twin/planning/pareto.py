"""Throughput against interactivity: what each configuration could do, and which are not beaten in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from wattmill.twin.planning.answer import Answered
from wattmill.twin.planning.breakeven import BreakEven
from wattmill.twin.planning.uncertainty import Sureness
from wattmill.twin.plots.chart import Axis, Chart, Series, picture, words
from wattmill.twin.plots.svg import stacked
from wattmill.twin.prediction import Class
from wattmill.units import S_PER_YEAR, TOK_PER_MTOK, W_PER_MW

if TYPE_CHECKING:
    from wattmill.twin.planning.played import Played

_READER = Axis(label="speed for one user", unit="output tok/s", provenance="modelled")


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration at one batch."""

    config: str
    batch: int
    tok_per_s_per_user: float
    output_tok_per_s_per_gpu: float
    output_tok_per_s_per_mw: float  # of provisioned power at the meter
    ttft_s: float
    klass: Class
    front: bool  # nothing else is at least as good in both and better in one, by MW
    front_gpu: bool = False  # the same by accelerator


def spots(found: Answered) -> tuple[Spot, ...]:
    """Return every predicted point of every configuration, for the first tier's lengths, fastest first."""
    watts = {offer.candidate: offer.provisioned_w for offer in found.chosen.problem.offers}
    first = found.chosen.problem.tiers[0].name
    raw = []
    configs = found.choice.configs
    for (name, tier), curve in found.choice.curves.items():
        if tier != first or name not in configs:
            continue
        config = configs[name]
        for point in curve.points:
            p = point.prediction
            seconds = p.ttft_s.value + p.tpot_s.value * (curve.output_tok - 1.0)
            per_s = point.concurrency * curve.output_tok / seconds
            raw.append(
                Spot(
                    config=name,
                    batch=point.concurrency,
                    tok_per_s_per_user=1.0 / p.tpot_s.value,
                    output_tok_per_s_per_gpu=per_s / config.gpus,
                    output_tok_per_s_per_mw=per_s / config.gpus / watts[config.candidate] * W_PER_MW,
                    ttft_s=p.ttft_s.value,
                    klass=p.klass,
                    front=False,
                )
            )
    by_mw = _front([(s.tok_per_s_per_user, s.output_tok_per_s_per_mw) for s in raw])
    by_gpu = _front([(s.tok_per_s_per_user, s.output_tok_per_s_per_gpu) for s in raw])
    marked = [
        msgspec.structs.replace(spot, front=n in by_mw, front_gpu=n in by_gpu) for n, spot in enumerate(raw)
    ]
    return tuple(sorted(marked, key=lambda s: (-s.tok_per_s_per_user, -s.output_tok_per_s_per_mw)))


def _front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Return which points no other is at least as good as in both and better than in one."""
    best, out = 0.0, set[int]()
    for n in sorted(range(len(points)), key=lambda n: (-points[n][0], -points[n][1])):
        if points[n][1] > best:
            best = points[n][1]
            out.add(n)
    return out


def candidate_of(spot: Spot) -> str:
    return spot.config.split(" on ")[1].split(",")[0]


def front_charts(found: Answered, played: Sequence[Played] = ()) -> tuple[Chart, ...]:
    """Return throughput against interactivity by accelerator and by MW: all points and the front of each.

    `played`: points of the front as the simulated engine gave them, drawn beside the law's.
    """
    all_spots = spots(found)
    per_gpu = Axis(label="throughput of one accelerator", unit="output tok/s/GPU", provenance="modelled")
    per_mw = Axis(label="throughput of one provisioned MW", unit="output tok/s/MW", provenance="modelled")
    simulated = Series(
        name="front, simulated",
        points=tuple((p.tok_per_s_per_user, p.output_tok_per_s_per_gpu) for p in played),
        names=tuple(f"{p.config}, batch {p.batch}" for p in played),
        dashed=True,
        joined=True,
    )
    return (
        _front_chart("pareto", "Throughput of a GPU against interactivity", per_gpu, all_spots, simulated),
        _front_chart("pareto-mw", "Throughput of a MW against interactivity", per_mw, all_spots, None),
    )


def _front_chart(id: str, title: str, y: Axis, all_spots: Sequence[Spot], simulated: Series | None) -> Chart:
    by_gpu = id == "pareto"

    def at(spot: Spot) -> tuple[float, float]:
        up = spot.output_tok_per_s_per_gpu if by_gpu else spot.output_tok_per_s_per_mw
        return spot.tok_per_s_per_user, up

    def series(name: str, of: Sequence[Spot]) -> Series:
        names = tuple(f"{s.config}, batch {s.batch} ({s.klass})" for s in of)
        return Series(name=name, points=tuple(map(at, of)), names=names, joined=name == "front")

    front = [s for s in all_spots if (s.front_gpu if by_gpu else s.front)]
    by_candidate: dict[str, list[Spot]] = {}
    for spot in all_spots:
        by_candidate.setdefault(candidate_of(spot), []).append(spot)
    said = f"{len(all_spots)} configurations and batches."
    if front:
        fast, slow = front[0], front[-1]
        said += (
            f" The front goes from {words(at(fast)[0])} tok/s for one user at {words(at(fast)[1])} {y.unit} "
            f"({fast.config}, batch {fast.batch}) to {words(at(slow)[0])} at {words(at(slow)[1])} "
            f"({slow.config}, batch {slow.batch})."
        )
    shown = [series("front", front), *(series(name, of) for name, of in by_candidate.items())]
    if simulated is not None and simulated.points:
        shown.append(simulated)  # last: a part keeps its colour in both pictures
    drawn = tuple(one for one in shown if one.points)
    return Chart(id=id, kind="scatter", title=title, says=said, x=_READER, y=y, series=drawn)


def front_svg(found: Answered, played: Sequence[Played] = ()) -> str:
    """Return both fronts as one file."""
    return stacked([picture(chart) for chart in front_charts(found, played)])


def break_even_chart(even: BreakEven) -> Chart:
    """Return cost per million output tokens against utilisation, one line for each way."""
    steps = [u / 100 for u in range(5, 101)]
    mtok = even.capacity_output_tok_per_s * S_PER_YEAR / TOK_PER_MTOK
    lines = tuple(
        Series(
            name=a.name,
            points=tuple((100 * u, (a.fixed_usd_per_year / u + a.used_usd_per_year) / mtok) for u in steps),
        )
        for a in even.alternatives
    )
    said = "; ".join(f"{one.name} {words(one.points[-1][1])} $ at 100 %" for one in lines)
    return Chart(
        id="break-even",
        kind="lines",
        title="Own, rent or buy tokens",
        says=f"Dollars per million output tokens by utilisation of what is bought: {said}.",
        x=Axis(label="utilisation of what is bought", unit="%", provenance="declared"),
        y=Axis(label="cost", unit="$/Mtok out", provenance="modelled", log=True),
        series=lines,
    )


def break_even_svg(even: BreakEven) -> str:
    return picture(break_even_chart(even))


def sureness_chart(sure: Sureness) -> Chart:
    """Return each tier's cost interval: a line from the tenth to the ninetieth percentile over its number."""
    shown = sure.usd_per_mtok_output
    said = "; ".join(f"{name} {words(s.p10)} to {words(s.p90)} $" for name, s in shown.items())
    return Chart(
        id="cost",
        kind="scatter",
        title="Cost of a million output tokens: 10, 50 and 90 % of the draws",
        says=f"80 % of {sure.draws:,} draws lie within: {said}.",
        x=Axis(label="cost", unit="$/Mtok out", provenance="modelled"),
        y=Axis(label="tier", unit="from below", provenance="declared", names=tuple(shown)),
        series=tuple(
            Series(
                name=name,
                points=((s.p10, n + 1.0), (s.p50, n + 1.0), (s.p90, n + 1.0)),
                names=("10 %", "50 %", "90 %"),
                joined=True,
            )
            for n, (name, s) in enumerate(shown.items())
        ),
    )


def sureness_svg(sure: Sureness) -> str:
    return picture(sureness_chart(sure))
