"""How sure a plan is: what has been bought stays, the world is drawn again and again.

Drawn, each from its 80 % interval: the law's error (one factor for time per token, one for the first token,
shared by all pools of an accelerator, since a law is wrong about a part and not about a request), rates of
accelerators, electricity, growth of the demand (where declared), failures and repair, PUE and carbon. The
law's factors are two-piece lognormal, the others two-piece normal. When the law was too fast, batches are
made smaller until the promises hold again, and what is served falls.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
import numpy as np

from wattmill.twin.planning.answer import Answered
from wattmill.twin.planning.given import Given
from wattmill.twin.planning.nodes import Bought, Flow, borne_usd
from wattmill.twin.planning.spares import down_share
from wattmill.twin.planning.supply import AllIn
from wattmill.twin.prediction import Interval
from wattmill.units import G_PER_T, H_PER_YEAR, J_PER_KWH, J_PER_MWH, S_PER_YEAR, TOK_PER_MTOK, W_PER_MW

TENTH = 1.2815515655446004
"""Standard deviations from the middle to the limit of an 80 % interval of a normal."""

_GRID = 25

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over all draws."""

    planned: float
    p10: float
    p50: float
    p90: float


class Influence(msgspec.Struct, frozen=True, kw_only=True):
    """How strongly the margin (or the cost) follows one input: rank correlation, -1 to 1."""

    of: str
    correlation: float


class Sureness(msgspec.Struct, frozen=True, kw_only=True):
    """What the draws say. Repeats exactly with its seed."""

    draws: int
    seed: int
    usd_per_mtok_output: dict[str, Spread]  # by tier, and "all"
    margin_usd_per_year: Spread
    cost_usd_per_year: Spread
    requests_per_s: Spread
    drawn_mw: Spread
    tonnes_co2_per_year: Spread | None  # None: the site's intensity is not known
    promise_can_be_kept: dict[str, float]  # by tier: share of draws in which some batch keeps it
    as_planned: dict[str, float]  # by tier: share of draws in which the planned batch keeps it
    enough_nodes_up: float  # share of draws in which failures left enough for the planned peak
    influences: tuple[Influence, ...]


class _Part(NamedTuple):
    """One flow's accelerators by how slow the law was: what one request per second keeps busy."""

    flow: Flow
    gpus: Floats  # per request per second and draw; inf: no batch keeps the promise
    planned_holds: np.ndarray[Any, np.dtype[np.bool_]]


def sureness(found: Answered, *, draws: int, seed: int) -> Sureness:
    """Return the spread of a plan's figures over `draws` draws with `seed`."""
    rng = np.random.Generator(np.random.PCG64(seed))
    problem = found.chosen.problem
    demand, flows = problem.demand, found.flows
    candidates = sorted({flow.offer.candidate for flow in flows})
    z_tpot = {c: rng.standard_normal(draws) for c in candidates}
    z_ttft = {c: rng.standard_normal(draws) for c in candidates}
    parts = [_part(found, flow, z_tpot[flow.offer.candidate], z_ttft[flow.offer.candidate]) for flow in flows]
    borne = _borne(found)

    usd_per_mwh = _drawn(demand.site.electricity, rng, draws)
    growth = _drawn(demand.load.growth, rng, draws) if demand.load.growth is not None else np.ones(draws)
    rates = {p.offer: _rate(found, p.offer, rng, draws) for p in found.plan.purchases}
    failures = np.maximum(_drawn(demand.availability.failures_per_gpu_year, rng, draws), 0.0)
    repair_h = np.maximum(_drawn(demand.availability.repair_h, rng, draws), 0.0)

    free = problem.asked.requests_per_s is None
    wanted = np.full(draws, found.plan.totals.requests_per_s) * (1.0 if free else growth)
    scale = np.full(draws, np.inf)
    enough = np.ones(draws, dtype=bool)
    for purchase in found.plan.purchases:
        offer = next(f for f in problem.offers if f.name == purchase.offer)
        serving = purchase.nodes - purchase.training_nodes
        down = np.array(
            [
                down_share(failures_per_gpu_year=f, gpus_per_node=offer.per_node, repair_h=r)
                for f, r in zip(failures, repair_h, strict=True)
            ]
        )
        up = serving - rng.binomial(serving, down)
        enough &= up * offer.per_node >= purchase.working_gpus
        gpus = np.minimum(up * offer.per_node, purchase.working_gpus)
        own = [p for p in parts if p.flow.offer is offer]
        needed = sum(
            (np.where(np.isfinite(p.gpus), p.gpus, 0.0) * p.flow.per_s for p in own), start=np.zeros(draws)
        )
        allowed = gpus * demand.load.utilisation / problem.asked.peak_to_mean
        with np.errstate(divide="ignore"):
            scale = np.minimum(scale, np.where(needed > 0.0, allowed / needed, np.inf))
    planned = found.plan.totals.requests_per_s
    asked = wanted / planned
    # As much as fits sells all that fits; a given demand is served up to what is asked.
    served = np.where(np.isfinite(scale), scale, 0.0) if free else np.minimum(asked, scale)

    watts = np.full(draws, found.plan.totals.drawn_mw * W_PER_MW - sum(flow.busy_w for flow in flows))
    revenue = np.full(draws, found.plan.totals.jobs_usd_per_year)
    requests = np.zeros(draws)
    used: dict[str, Floats] = {}  # accelerators kept busy, by offer
    part_of: dict[str, Floats] = {}  # by tier: dollars of its accelerators as planned, to divide the cost by
    tokens: dict[str, Floats] = {}
    for p in parts:
        per_s = p.flow.per_s * served * np.isfinite(p.gpus)
        gpus = np.where(np.isfinite(p.gpus), p.gpus, 0.0) * per_s
        watts = watts + gpus * (p.flow.busy_w / p.flow.busy_gpus if p.flow.busy_gpus else 0.0)
        requests = requests + per_s
        tier = p.flow.tier
        used[p.flow.offer.name] = used.get(p.flow.offer.name, np.zeros(draws)) + gpus
        part_of[tier.name] = part_of.get(tier.name, np.zeros(draws)) + gpus * borne[id(p.flow)]
        tokens[tier.name] = tokens.get(tier.name, np.zeros(draws)) + per_s * tier.output_tok * S_PER_YEAR
        revenue = revenue + per_s * tier.usd_per_request * S_PER_YEAR
    pue = np.maximum(_drawn(demand.site.overhead, rng, draws), 1.0)
    watts = _metered(found, watts, pue / demand.site.overhead.value)
    tonnes = _tonnes(found, watts, rng)
    fixed = np.zeros(draws)
    for purchase in found.plan.purchases:
        offer = next(f for f in problem.offers if f.name == purchase.offer)
        hours = used.get(offer.name, np.zeros(draws)) if offer.on_demand else float(purchase.gpus)
        fixed = fixed + rates[offer.name] * hours * H_PER_YEAR
    cost = fixed + watts * S_PER_YEAR / J_PER_MWH * usd_per_mwh
    margin = revenue - cost
    whole = sum(part_of.values(), start=np.zeros(draws))
    totals = found.plan.totals
    serving_share = _serving_share(found)
    tiers = {
        t.tier: _spread(
            t.usd_per_mtok_output,
            _divided(cost * serving_share * _divided(part_of[t.tier], whole), tokens[t.tier]) * TOK_PER_MTOK,
        )
        for t in found.plan.tiers
        if t.tier in tokens
    }
    everything = sum(tokens.values(), start=np.zeros(draws))
    planned_all = totals.cost_usd_per_year * serving_share / (totals.output_tok_per_s * S_PER_YEAR)
    inputs = {
        **{f"law: time per token on {c}": z_tpot[c] for c in candidates},
        **{f"law: first token on {c}": z_ttft[c] for c in candidates},
        "electricity": usd_per_mwh,
        "demand": growth,
        "failures x repair": failures * repair_h,
        "PUE": pue,
        **{f"rate of {name}": values for name, values in rates.items()},
    }
    return Sureness(
        draws=draws,
        seed=seed,
        usd_per_mtok_output={
            **tiers,
            "all": _spread(
                planned_all * TOK_PER_MTOK,
                _divided(cost * serving_share, everything) * TOK_PER_MTOK,
            ),
        },
        margin_usd_per_year=_spread(totals.margin_usd_per_year, margin),
        cost_usd_per_year=_spread(totals.cost_usd_per_year, cost),
        requests_per_s=_spread(planned, requests),
        drawn_mw=_spread(totals.drawn_mw, watts / W_PER_MW),
        tonnes_co2_per_year=tonnes,
        promise_can_be_kept=_by_tier(parts, lambda p: np.isfinite(p.gpus)),
        as_planned=_by_tier(parts, lambda p: p.planned_holds),
        enough_nodes_up=float(np.mean(enough)),
        influences=_influences(inputs, margin if demand.goal == "margin" else -cost),
    )


def _metered(found: Answered, watts: Floats, times: Floats) -> Floats:
    """Return what the meter sees when the site's PUE is `times` the planned one. All-in figures keep the
    overhead that they hold: there, only what an accelerator draws below its rating moves with it."""
    offers = {offer.name: offer for offer in found.chosen.problem.offers}
    inside = sum(
        p.gpus * offers[p.offer].full_w
        for p in found.plan.purchases
        if offers[p.offer].own and offers[p.offer].overhead_inside
    )
    return np.asarray(inside + (watts - inside) * times)


def _tonnes(found: Answered, watts: Floats, rng: np.random.Generator) -> Spread | None:
    carbon, planned = found.chosen.problem.demand.site.g_per_kwh, found.plan.totals.tonnes_co2_per_year
    if carbon is None or planned is None:
        return None
    grams = np.maximum(_drawn(carbon, rng, len(watts)), 0.0)
    return _spread(planned, watts * S_PER_YEAR / J_PER_KWH * grams / G_PER_T)


def _part(found: Answered, flow: Flow, z_tpot: Floats, z_ttft: Floats) -> _Part:
    """Ask the curve on a grid of both factors, and read the draws from it between."""
    option, tier = flow.option, flow.tier
    at = option.gives[tier.name]
    careful = found.chosen.problem.demand.law == "slow end"
    slower = _factors(at.tpot_s, z_tpot, careful=careful)
    ttft_slower = _factors(at.ttft_s, z_ttft, careful=careful)
    curve = found.choice.curves[str(option.config), tier.name]
    planned = slower * at.tpot_s.value <= 1.0 / tier.tok_per_s, ttft_slower * at.ttft_s.value <= tier.ttft_s
    # A pool that was made for a faster tier keeps that one's batch, whoever is on it.
    made_for = next(one for one in found.chosen.problem.tiers if one.name == option.made_for)
    tok_per_s, ttft_s = max(tier.tok_per_s, made_for.tok_per_s), min(tier.ttft_s, made_for.ttft_s)
    rows = np.geomspace(slower.min(), slower.max(), _GRID)
    columns = np.geomspace(ttft_slower.min(), ttft_slower.max(), _GRID)
    table = np.full((_GRID, _GRID), np.inf)
    for i, a in enumerate(rows):
        for j, b in enumerate(columns):
            reached = curve.at_promise(
                ttft_s=ttft_s, tok_per_s=tok_per_s, slower=float(a), ttft_slower=float(b)
            )
            if reached is not None:
                table[i, j] = option.config.gpus / reached.requests_per_s
    gpus = _between(table, _place(rows, slower), _place(columns, ttft_slower))
    return _Part(flow, gpus, planned[0] & planned[1])


def _factors(interval: Interval, z: Floats, *, careful: bool) -> Floats:
    """Return the true times over the planned ones. `careful`: the plan took the slow end of the interval for
    its figure, so the middle lies below it, in the middle of the interval's logarithm."""
    if careful:
        wide = math.log(interval.value / interval.low)
        return np.asarray(np.exp(wide / 2.0 * (z / TENTH - 1.0)))
    up = math.log(max(interval.high / interval.value, 1.0)) / TENTH
    down = math.log(max(interval.value / interval.low, 1.0)) / TENTH
    return np.asarray(np.exp(np.where(z > 0.0, up, down) * z))


def _place(grid: Floats, values: Floats) -> Floats:
    if grid[0] == grid[-1]:
        return np.zeros(len(values))
    return np.asarray(np.log(values / grid[0]) / np.log(grid[-1] / grid[0]) * (len(grid) - 1))


def _between(table: Floats, row: Floats, column: Floats) -> Floats:
    """Read a table between its points; where any of the four neighbours has no answer, the worst counts."""
    last = len(table) - 1
    i = np.clip(row.astype(int), 0, last - 1)
    j = np.clip(column.astype(int), 0, last - 1)
    a, b = np.clip(row - i, 0.0, 1.0), np.clip(column - j, 0.0, 1.0)
    corners = [table[i, j], table[i + 1, j], table[i, j + 1], table[i + 1, j + 1]]
    weights = [(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b]
    sure = np.all(np.isfinite(corners), axis=0)
    mixed = sum(
        (np.where(np.isfinite(c), c, 0.0) * w for c, w in zip(corners, weights, strict=True)),
        start=np.zeros(len(row)),
    )
    return np.where(sure, mixed, np.inf)


def _drawn(given: Given, rng: np.random.Generator, draws: int) -> Floats:
    """Draw from a two-piece normal whose 80 % interval is the declared one."""
    z = rng.standard_normal(draws)  # drawn even where nothing is open, so that other draws do not move
    up = ((given.high if given.high is not None else given.value) - given.value) / TENTH
    down = (given.value - (given.low if given.low is not None else given.value)) / TENTH
    return np.asarray(given.value + np.where(z > 0.0, up, down) * z)


def _rate(found: Answered, name: str, rng: np.random.Generator, draws: int) -> Floats:
    """Draw the fixed dollars an hour of one accelerator, its energy taken out."""
    problem = found.chosen.problem
    offer = next(f for f in problem.offers if f.name == name)
    candidate = problem.demand.candidates[offer.candidate]
    cost = candidate.own if offer.own else candidate.rent
    if isinstance(cost, AllIn):
        mw = offer.provisioned_w / W_PER_MW
        inside = _drawn(cost.energy_inside_usd_per_mwh, rng, draws) * mw
        return np.maximum(_drawn(cost.usd_per_gpu_h, rng, draws) - inside, 0.0)
    given = getattr(cost, "usd_per_gpu_h", None) or getattr(cost, "usd_per_gpu", None)
    assert isinstance(given, Given)
    drawn = np.maximum(_drawn(given, rng, draws), 0.0)
    return offer.fixed_usd_per_gpu_h * (drawn / given.value if given.value else np.ones(draws))


def _borne(found: Answered) -> dict[int, float]:
    """Return, by flow, the dollars a year that one of its busy accelerators bears in the plan."""
    done = found.chosen
    nodes = {offer.name: Bought(done, offer, found.flows) for offer in done.problem.offers}
    return {
        id(flow): borne_usd(flow, nodes[flow.offer.name], done.problem.demand) / flow.busy_gpus
        for flow in found.flows
    }


def _serving_share(found: Answered) -> float:
    """Return the part of all cost that lies on tokens; the rest is training's."""
    tokens = sum(t.cost_usd_per_year for t in found.plan.tiers)
    return tokens / found.plan.totals.cost_usd_per_year


def _divided(a: Floats, b: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > 0.0, a / b, np.nan)


def _spread(planned: float, values: Floats) -> Spread:
    known = values[np.isfinite(values)]
    if not len(known):
        return Spread(planned=planned, p10=math.nan, p50=math.nan, p90=math.nan)
    p10, p50, p90 = (float(v) for v in np.quantile(known, (0.1, 0.5, 0.9)))
    return Spread(planned=planned, p10=p10, p50=p50, p90=p90)


def _by_tier(parts: list[_Part], holds: Any) -> dict[str, float]:
    out: dict[str, tuple[float, float]] = {}
    for p in parts:
        kept, per_s = out.get(p.flow.tier.name, (0.0, 0.0))
        out[p.flow.tier.name] = kept + p.flow.per_s * float(np.mean(holds(p))), per_s + p.flow.per_s
    return {name: kept / per_s for name, (kept, per_s) in out.items()}


def _influences(inputs: dict[str, Floats], outcome: Floats) -> tuple[Influence, ...]:
    if np.ptp(outcome) <= 1e-9 * max(1.0, float(np.max(np.abs(outcome)))):
        return ()  # ranks of what is always the same are ranks of its last digit
    ranked = _ranks(outcome)
    found = [
        Influence(of=name, correlation=float(np.corrcoef(_ranks(values), ranked)[0, 1]))
        for name, values in inputs.items()
        if np.ptp(values) > 0.0
    ]
    return tuple(sorted(found, key=lambda i: -abs(i.correlation)))


def _ranks(values: Floats) -> Floats:
    return np.argsort(np.argsort(values)).astype(float)
