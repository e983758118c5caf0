"""The choice as a mixed-integer programme: which nodes to get, what runs on them, which tier goes where.

Columns: whole nodes and racks of each offer, spares one by one, whole replicas of each option, requests of
each tier at each option, and the scale of the demand. Money is in millions of dollars a year and power in MW,
so that all numbers are near 1.

The load is taken as packed onto as few replicas as it needs while the others idle: energy is then linear.
A fleet that spreads its load draws more, since an accelerator is near its full power at small batches.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.jobs import flops, runs_at_once
from wattmill.twin.planning.load import Asked
from wattmill.twin.planning.offers import Offer, energy_usd_per_j, fixed_usd_per_node_year
from wattmill.twin.planning.options import BITS, Option, TierAsk
from wattmill.twin.planning.performance import Power
from wattmill.twin.planning.solver import Programme, Solution
from wattmill.twin.planning.spares import carried_by_spares
from wattmill.units import (
    G_PER_T,
    H_PER_YEAR,
    J_PER_KWH,
    S_PER_DAY,
    S_PER_YEAR,
    SI_PREFIX,
    USD_PER_MUSD,
    W_PER_MW,
)


class Problem(NamedTuple):
    """Everything that the choice depends on."""

    demand: Demand
    asked: Asked
    tiers: tuple[TierAsk, ...]
    offers: tuple[Offer, ...]
    options: tuple[Option, ...]
    power: Power

    def pairs(self) -> list[tuple[Offer, Option]]:
        """Return every option on every offer of its accelerator."""
        return [(f, o) for f in self.offers for o in self.options if o.config.candidate == f.candidate]


class Chosen(NamedTuple):
    """The programme's answer, and the prices of its limits in the relaxation."""

    problem: Problem
    solution: Solution
    prices: dict[str, float]  # M$ a year for one more unit of a row's limit
    relaxed: float  # M$ a year


def chosen(problem: Problem) -> Chosen:
    """Solve it. Raises `Infeasible`, ValueError if nothing limits the plan, RuntimeError if time runs out."""
    programme = built(problem)
    solution = programme.solve()
    prices, relaxed = programme.prices()
    return Chosen(problem, solution, prices, relaxed)


def column(kind: str, offer: Offer, option: Option | None = None, tier: TierAsk | None = None) -> str:
    """Return the name of a column: `replicas:h100/own:…`."""
    parts = [kind, offer.name]
    if option is not None:
        parts.append(str(option))
    if tier is not None:
        parts.append(tier.name)
    return ":".join(parts)


def built(problem: Problem) -> Programme:
    """Return the programme of a problem."""
    p = Programme()
    _scale(problem, p)
    cost: dict[str, float] = {}  # M$ a year
    energy: dict[str, float] = {}  # W at our meter, mean over a year
    provisioned: dict[str, float] = {}  # MW
    served: dict[str, dict[str, float]] = {tier.name: {} for tier in problem.tiers}
    for offer in problem.offers:
        _add_offer(problem, p, offer, cost, energy, provisioned, served)
    _add_jobs(problem, p, cost, energy)
    for tier in problem.tiers:
        share = tier.share * problem.asked.peak_to_mean
        p.row(f"demand:{tier.name}", {**served[tier.name], "scale": -share}, low=0.0, high=0.0)
    usd_per_w = energy_usd_per_j(problem.demand) * S_PER_YEAR / USD_PER_MUSD
    for name, watts in energy.items():
        cost[name] = cost.get(name, 0.0) + watts * usd_per_w
    _add_limits(problem, p, cost, energy, provisioned)
    return p


def _scale(problem: Problem, p: Programme) -> None:
    rate = problem.asked.requests_per_s
    revenue = sum(tier.share * tier.usd_per_request for tier in problem.tiers) * S_PER_YEAR / USD_PER_MUSD
    worth = revenue if problem.demand.goal == "margin" else 0.0
    p.column("scale", worth=worth, low=rate or 0.0, high=math.inf if rate is None else rate)
    p.column("cost", worth=-1.0)


def _add_offer(
    problem: Problem,
    p: Programme,
    offer: Offer,
    cost: dict[str, float],
    energy: dict[str, float],
    provisioned: dict[str, float],
    served: dict[str, dict[str, float]],
) -> None:
    nodes = p.column(column("nodes", offer), whole=True)
    if offer.most_nodes is not None:  # a row, so that it has a price
        p.row(column("most", offer), {nodes: 1.0}, high=float(offer.most_nodes))
    if offer.whole_racks:
        racks = p.column(column("racks", offer), whole=True)
        p.row(column("racks", offer), {nodes: 1.0, racks: -offer.nodes_per_rack}, low=0.0, high=0.0)
    if not offer.on_demand:
        cost[nodes] = fixed_usd_per_node_year(offer) / USD_PER_MUSD
    if offer.own:
        provisioned[nodes] = offer.per_node * offer.provisioned_w / W_PER_MW
        energy[nodes] = offer.per_node * offer.idle_w
    active: dict[str, float] = {}
    for pair, option in problem.pairs():
        if pair is offer:
            _add_option(problem, p, offer, option, active, cost, energy, served)
    spares, steps = _add_spares(problem, p, offer)
    p.row(
        column("up", offer),
        {**active, **{name: -step for name, step in zip(spares, steps[1:], strict=True)}},
        high=float(steps[0]),
    )
    training = {
        p.column(f"training:{offer.name}:{job}", whole=True): 1.0
        for job in problem.demand.jobs
        if offer.own or not offer.on_demand
    }
    p.row(column("nodes", offer), {**active, **dict.fromkeys(spares, 1.0), **training, nodes: -1.0}, high=0.0)


def _add_option(
    problem: Problem,
    p: Programme,
    offer: Offer,
    option: Option,
    active: dict[str, float],
    cost: dict[str, float],
    energy: dict[str, float],
    served: dict[str, dict[str, float]],
) -> None:
    gpus = option.config.gpus
    replicas = p.column(column("replicas", offer, option), whole=True)
    active[replicas] = gpus / offer.per_node
    filled: dict[str, float] = {replicas: -problem.demand.load.utilisation}
    for tier in problem.tiers:
        at = option.gives.get(tier.name)
        if at is None:
            continue
        flow = p.column(column("flow", offer, option, tier))
        served[tier.name][flow] = 1.0
        filled[flow] = 1.0 / at.requests_per_s
        busy = gpus / at.requests_per_s / problem.asked.peak_to_mean  # accelerators at work, in the mean
        if offer.own:
            energy[flow] = busy * (option.config.busy_w(offer, at.batch, problem.power) - offer.idle_w)
        if offer.on_demand:
            cost[flow] = busy * offer.fixed_usd_per_gpu_h * H_PER_YEAR / USD_PER_MUSD
    p.row(column("filled", offer, option), filled, high=0.0)


def _add_spares(problem: Problem, p: Programme, offer: Offer) -> tuple[list[str], list[float]]:
    """Add spares that are taken in order; each keeps up so many nodes more. Returns them, and how many nodes
    each keeps up, beginning with none."""
    upto = spared(offer.down, problem.demand.availability.target, _most_nodes(problem, offer))
    steps = [float(upto[0])] + [float(b - a) for a, b in itertools.pairwise(upto)]
    names = [p.column(f"spare:{offer.name}:{k}", high=1.0, whole=True) for k in range(1, len(upto))]
    for one, two in itertools.pairwise(names):
        p.row(f"order:{two}", {two: 1.0, one: -1.0}, high=0.0)
    return names, steps


@functools.lru_cache(maxsize=64)
def spared(down: float, target: float, most: int) -> tuple[int, ...]:
    """Return how many nodes at work 0, 1, 2 ... spares keep up."""
    return tuple(carried_by_spares(down=down, target=target, most=most))


def _most_nodes(problem: Problem, offer: Offer) -> int:
    """Return a number of nodes that no plan comes near. Raises ValueError if there is none.

    It is a quarter more than any limit allows, so that it is never what binds and takes no limit's price.
    """
    limits, demand = [], problem.demand
    if offer.most_nodes is not None:
        limits.append(float(offer.most_nodes))
    if offer.own and demand.limits.power_mw is not None:
        limits.append(demand.limits.power_mw * W_PER_MW / (offer.per_node * offer.provisioned_w))
    if demand.limits.usd_per_year is not None and not offer.on_demand and offer.fixed_usd_per_gpu_h > 0.0:
        limits.append(demand.limits.usd_per_year / fixed_usd_per_node_year(offer))
    rate = problem.asked.requests_per_s
    if rate is not None and not demand.jobs:
        needed = sum(
            _nodes_for(problem, offer, tier, rate * tier.share * problem.asked.peak_to_mean)
            for tier in problem.tiers
        )
        limits.append(needed + len(problem.options))  # and what is left of nodes
    if not limits:
        raise ValueError(
            f"nothing limits {offer.name}: declare `power_mw` or `usd_per_year` under [limits], `most_nodes` "
            "of the candidate, or how many requests are asked"
        )
    return math.ceil(1.25 * min(limits)) + 8


def _nodes_for(problem: Problem, offer: Offer, tier: TierAsk, requests_per_s: float) -> float:
    each = [
        o.config.gpus / offer.per_node / at.requests_per_s
        for f, o in problem.pairs()
        if f is offer and (at := o.gives.get(tier.name)) is not None
    ]
    return requests_per_s / problem.demand.load.utilisation * max(each, default=0.0)


def _add_jobs(problem: Problem, p: Programme, cost: dict[str, float], energy: dict[str, float]) -> None:
    for name, job in problem.demand.jobs.items():
        per_s: dict[str, float] = {}  # EFLOP/s of one node
        for offer in problem.offers:
            nodes = f"training:{offer.name}:{name}"
            peak = offer.accelerator.flop_per_s(BITS[job.precision])
            if not (offer.own or not offer.on_demand):
                continue
            per_s[nodes] = offer.per_node * peak * job.mfu.value * (1.0 - offer.down) / _EXA
            if offer.own:
                busy = min(1.0, job.days * S_PER_DAY * job.runs_per_year / S_PER_YEAR)
                energy[nodes] = offer.per_node * busy * (offer.full_w - offer.idle_w)
        one = flops(name, problem.demand.jobs).value / (job.days * S_PER_DAY) / _EXA
        need = one * runs_at_once(job)
        if job.usd_value is None:
            p.row(f"job:{name}", per_s, low=need)
        else:
            worth = job.usd_value * job.runs_per_year / USD_PER_MUSD
            done = p.column(f"done:{name}", worth=worth, high=1.0, whole=True)
            p.row(f"job:{name}", {**per_s, done: -need}, low=0.0)


_EXA = float(SI_PREFIX["E"])


def _add_limits(
    problem: Problem,
    p: Programme,
    cost: dict[str, float],
    energy: dict[str, float],
    provisioned: dict[str, float],
) -> None:
    limits, site = problem.demand.limits, problem.demand.site
    p.row("cost", {**cost, "cost": -1.0}, low=0.0, high=0.0)
    if limits.power_mw is not None:
        p.row("power", provisioned, high=limits.power_mw)
    if limits.usd_per_year is not None:
        p.row("budget", {"cost": 1.0}, high=limits.usd_per_year / USD_PER_MUSD)
    if limits.tonnes_co2_per_year is not None:
        assert site.g_per_kwh is not None, "checked when the file was read"
        tonnes_per_w = site.g_per_kwh.value / J_PER_KWH * S_PER_YEAR / G_PER_T
        p.row(
            "carbon",
            {name: watts * tonnes_per_w for name, watts in energy.items()},
            high=limits.tonnes_co2_per_year,
        )
