"""A simulated run as a sheet: what it came to, its batch and queue over time, who got what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from wattmill.app.results.making import fact, modelled, table, usd
from wattmill.app.results.sheet import Sheet, Table
from wattmill.app.seeing.figure import Figure
from wattmill.twin.fleet.words import played_words
from wattmill.twin.plots.chart import Axis, Chart, Series, thin
from wattmill.units import NUSD_PER_USD

if TYPE_CHECKING:
    from wattmill.twin.fleet.report import Report, Row, Spread, TierRow
    from wattmill.twin.fleet.timeline import Moment

_TIME = Axis(label="time since the start", unit="s", provenance="modelled")
_FULL = 0.9  # of a place's paid time in which steps ran: above it, the place is what the others wait for


def simulated(report: Report, moments: Sequence[Moment], *, at_us: int) -> Sheet:
    """Return the sheet of one run. `moments`: its timeline, all pools at each instant."""
    total = report.total
    errors = [row.twin_error for row in report.pools if row.twin_error is not None]
    told = report.provenance
    refused = total.refused or 0
    return Sheet(
        kind="simulate",
        at_us=at_us,
        key=report.factory,
        title=f"{report.factory}: {report.demand}",
        says=f"{report.asked:,} requests in {report.simulated_s:,.0f} s, {refused:,} refused; "
        f"{binds(report)}",
        facts=(
            fact("requests asked", report.asked, "count", "declared", note=report.demand),
            fact("simulated time", report.simulated_s, "s", note=f"seed {report.seed}, {report.policy}"),
            fact("refused", refused, "count"),
            fact("output tokens", total.output_tok_per_s, "tok_per_s", note=told["tokens"]),
            fact("first token p95", _p95(total.ttft_s), "s", note=told["times"]),
            fact("per token p95", _p95(total.tpot_s), "s", note=told["times"]),
            fact("charge", total.charge_usd * NUSD_PER_USD, "nusd", note=told["money"]),
            fact("cost", total.cost_usd * NUSD_PER_USD, "nusd", note=told["money"]),
            fact("margin", total.margin_usd * NUSD_PER_USD, "nusd", note=told["money"]),
            fact("energy", report.energy_j, "j", note=told["joules"]),
            fact("energy per output token", _per_token(report), "j_per_tok", note=told["joules"]),
            fact(
                "error of the law",
                max(errors) if errors else None,
                "ratio",
                "measured",
                note="largest median error of the pools' step laws, where it was checked",
            ),
        ),
        charts=charts(moments),
        tables=tuple(_tables(report)),
        notes=(
            f"{total.attempts:,} attempts in its books: {report.law}.",
            *(f"{row.name}: {words}." for row in report.pools for words in played_words(row)),
            *(f"{name}: {words}." for name, words in told.items()),
        ),
    )


def binds(report: Report) -> str:
    """Return in words what kept the run from doing more."""
    full = [row.name for row in report.pools if row.occupancy is not None and row.occupancy >= _FULL]
    refused = {one.code: one.requests for one in report.refusals}
    words = []
    if full:
        words.append(f"{', '.join(full)} had no more time (busy {_FULL:.0%} and more)")
    if refused:
        most = max(refused, key=lambda code: refused[code])
        words.append(f"most refusals: {most}")
    return "; ".join(words) or "nothing binds: every place had time left"


def charts(moments: Sequence[Moment]) -> tuple[Chart, ...]:
    """Return batch, queue and power over time; power where any place has declared it."""
    pools = list(dict.fromkeys(moment.pool for moment in moments))
    by_pool = {pool: [m for m in moments if m.pool == pool] for pool in pools}

    def over_time(id: str, title: str, label: str, unit: str, series: Iterable[Series]) -> Chart:
        shown = tuple(series)
        peaks = ", ".join(f"{one.name} at most {max(p[1] for p in one.points):,.4g}" for one in shown)
        y = Axis(label=label, unit=unit, provenance="modelled")
        said = f"{title}, in {unit}: {peaks or 'nothing to show'}."
        return Chart(id=id, kind="steps", title=title, says=said, x=_TIME, y=y, series=shown)

    def each(of: str) -> Iterable[Series]:
        for pool, rows in by_pool.items():
            points = [(m.at_s, float(value)) for m in rows if (value := getattr(m, of)) is not None]
            if points:
                yield Series(name=pool, points=thin(points))

    waiting = [(m.at_s, float(m.waiting)) for m in by_pool[pools[0]]] if pools else []
    out = [
        over_time("batch", "Batch: requests at each place", "at work", "requests", each("in_flight")),
        over_time(
            "queue",
            "Queue: requests that wait at the gateway",
            "waiting",
            "requests",
            [Series(name="waiting", points=thin(waiting))] if waiting else [],
        ),
    ]
    if any(m.watts is not None for m in moments):
        out.append(over_time("power", "Power of the places", "power", "W", each("watts")))
    if any(m.ready + m.starting != by_pool[m.pool][0].ready for m in moments):
        out.append(over_time("replicas", "Replicas that serve", "serving", "replicas", each("ready")))
    return tuple(out)


def _tables(report: Report) -> Iterable[Table]:
    places: list[list[Figure | str]] = [
        [
            row.name, modelled(row.requests, "count"), modelled(row.output_tok_per_s, "tok_per_s"),
            modelled(_p50(row.ttft_s), "s"), modelled(_p95(row.ttft_s), "s"),
            modelled(_p95(row.tpot_s), "s"), modelled(row.occupancy, "ratio"), usd(row.charge_usd),
            usd(row.cost_usd), modelled(row.energy_j, "j"), f"{row.provenance}: {row.source}",
        ]
        for row in report.pools
    ]  # fmt: skip
    yield table(
        "places",
        "Places",
        (
            "place",
            "requests",
            "tok/s",
            "first token p50",
            "p95",
            "per token p95",
            "busy",
            "charge",
            "cost",
            "energy",
            "times",
        ),
        places,
        note="Busy is the share of a place's paid time in which steps ran.",
    )
    if report.tiers:
        yield table(
            "tiers",
            "Tiers and their promises",
            ["tier", "promise", "asked", "kept", "refused", "waited", "first token p95", "charge", "cost"],
            [_tier(row) for row in report.tiers],
        )
    yield table(
        "tenants",
        "Tenants",
        ["tenant", "requests", "refused", "input", "output", "charge", "cost", "margin"],
        [_tenant(row) for row in (*report.tenants, report.total)],
    )
    if report.refusals:
        rows: list[list[Figure | str]] = [
            [one.code, modelled(one.requests, "count")] for one in report.refusals
        ]
        yield table("refusals", "Refused, by reason", ["reason", "requests"], rows)


def _tier(row: TierRow) -> list[Figure | str]:
    return [
        row.name, row.promise, modelled(row.offered, "count"), modelled(row.kept_share, "ratio"),
        modelled(row.refused, "count"), modelled(row.queued, "count"), modelled(_p95(row.ttft_s), "s"),
        usd(row.charge_usd), usd(row.cost_usd),
    ]  # fmt: skip


def _tenant(row: Row) -> list[Figure | str]:
    return [
        row.name, modelled(row.requests, "count"), modelled(row.refused, "count"),
        modelled(row.input_tok, "tok"), modelled(row.output_tok, "tok"), usd(row.charge_usd),
        usd(row.cost_usd), usd(row.margin_usd),
    ]  # fmt: skip


def _per_token(report: Report) -> float | None:
    """Return joules of all places that declare them, per output token of those."""
    known = [row for row in report.pools if row.energy_j is not None]
    tokens = sum(row.output_tok for row in known)
    return sum(row.energy_j or 0.0 for row in known) / tokens if tokens else None


def _p50(spread: Spread | None) -> float | None:
    return None if spread is None else spread.p50


def _p95(spread: Spread | None) -> float | None:
    return None if spread is None else spread.p95
