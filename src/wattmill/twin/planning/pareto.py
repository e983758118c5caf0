"""Throughput against interactivity: what each configuration could do, and which are not beaten in both."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from wattmill.twin.planning.answer import Answered
from wattmill.twin.planning.breakeven import BreakEven
from wattmill.twin.planning.uncertainty import Sureness
from wattmill.twin.plots.svg import Axis, Series, lines, scatter, stacked
from wattmill.twin.prediction import Class
from wattmill.units import S_PER_YEAR, TOK_PER_MTOK, W_PER_MW


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration at one batch."""

    config: str
    batch: int
    tok_per_s_per_user: float
    output_tok_per_s_per_mw: float  # of provisioned power at the meter
    ttft_s: float
    klass: Class
    front: bool  # nothing else is at least as good in both and better in one


def spots(found: Answered) -> tuple[Spot, ...]:
    """Return every predicted point of every configuration, for the first tier's lengths, fastest first."""
    watts = {offer.candidate: offer.provisioned_w for offer in found.chosen.problem.offers}
    first = found.chosen.problem.tiers[0].name
    raw = []
    configs = {str(option.config): option.config for option in found.choice.options}
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
                    output_tok_per_s_per_mw=per_s / config.gpus / watts[config.candidate] * W_PER_MW,
                    ttft_s=p.ttft_s.value,
                    klass=p.klass,
                    front=False,
                )
            )
    return tuple(_with_front(raw))


def _with_front(raw: Iterable[Spot]) -> Iterable[Spot]:
    best = 0.0
    for spot in sorted(raw, key=lambda s: (-s.tok_per_s_per_user, -s.output_tok_per_s_per_mw)):
        front = spot.output_tok_per_s_per_mw > best
        best = max(best, spot.output_tok_per_s_per_mw)
        yield msgspec.structs.replace(spot, front=front)


def front_svg(found: Answered) -> str:
    """Return the plot of all points by candidate, and of the front that none of them beats."""
    all_spots = spots(found)
    by_candidate: dict[str, list[tuple[float, float]]] = {}
    for spot in all_spots:
        name = spot.config.split(" on ")[1].split(",")[0]
        by_candidate.setdefault(name, []).append((spot.tok_per_s_per_user, spot.output_tok_per_s_per_mw))
    x = Axis("output tok/s per user")
    y = Axis("output tok/s per provisioned MW (modelled)")
    front = [(s.tok_per_s_per_user, s.output_tok_per_s_per_mw) for s in all_spots if s.front]
    return stacked(
        [
            scatter(
                "Throughput against interactivity: every configuration and batch",
                x,
                y,
                [Series(name, points) for name, points in by_candidate.items()],
            ),
            scatter("The front", x, y, [Series("front", front)], joined=True),
        ]
    )


def break_even_svg(even: BreakEven) -> str:
    """Return cost per million output tokens against utilisation, one line for each way."""
    steps = [u / 100 for u in range(5, 101)]
    mtok = even.capacity_output_tok_per_s * S_PER_YEAR / TOK_PER_MTOK
    return lines(
        "Own, rent or buy tokens",
        Axis("utilisation of what is bought, %"),
        Axis("$ per million output tokens (modelled)", log=True),
        [
            Series(
                a.name, [(100 * u, (a.fixed_usd_per_year / u + a.used_usd_per_year) / mtok) for u in steps]
            )
            for a in even.alternatives
        ],
    )


def sureness_svg(sure: Sureness) -> str:
    """Return each tier's cost interval: a line from the tenth to the ninetieth percentile over its number."""
    return scatter(
        f"Cost of a million output tokens: 10, 50 and 90 % of {sure.draws:,} draws",
        Axis("$ per million output tokens (modelled)"),
        Axis("tier, in the order of the legend, from below"),
        [
            Series(name, [(s.p10, n + 1.0), (s.p50, n + 1.0), (s.p90, n + 1.0)])
            for n, (name, s) in enumerate(sure.usd_per_mtok_output.items())
        ],
        joined=True,
    )
