"""Own, rent, or buy tokens: what a million output tokens cost by how well the bought capacity is used.

The factory is the planned one and its capacity what its working replicas make at their promises. Owned and
reserved hours are paid whether used or not; on-demand hours and tokens of an API are paid by use.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from wattmill.twin.planning.answer import Answered
from wattmill.twin.planning.nodes import Flow
from wattmill.twin.planning.offers import energy_usd_per_j
from wattmill.units import H_PER_YEAR, S_PER_YEAR, TOK_PER_MTOK

UTILISATIONS = (0.05, 0.40, 0.60, 1.0)

Way = Literal["own", "reserved", "on demand", "api"]


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """One way to get the same tokens: dollars a year = fixed + used x utilisation."""

    name: str
    way: Way
    fixed_usd_per_year: float
    used_usd_per_year: float  # at 100 %
    usd_per_mtok_output: dict[str, float]  # by utilisation, e.g. "40 %"
    owning_pays_from: (
        float | None
    )  # utilisation from which owning costs no more; None: never, or it is owning
    source: str
    owning_pays_to: float | None = None  # utilisation up to which it does; None: to the full, or never


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """Owning beside each alternative."""

    capacity_output_tok_per_s: float  # at 100 %: working replicas full, all year
    planned_utilisation: float  # in the mean
    alternatives: tuple[Alternative, ...]
    left: tuple[str, ...]


def break_even(found: Answered) -> BreakEven | None:
    """Return the comparison; None where the plan owns nothing."""
    problem, totals = found.chosen.problem, found.plan.totals
    own = [p for p in found.plan.purchases if p.offer.endswith("/own")]
    used = totals.utilisation_mean
    if not own or not used:
        return None
    capacity = totals.output_tok_per_s / used
    usd_per_j = energy_usd_per_j(problem.demand)
    above_w = sum(flow.busy_w for flow in found.flows)
    idle_w = {offer.name: offer.idle_w if offer.own else 0.0 for offer in problem.offers}
    # Nodes that train make no tokens: neither their hours nor their watts are part of what is compared.
    serving_gpus = {p.offer: p.gpus * (1.0 - p.training_nodes / p.nodes) for p in found.plan.purchases}
    idle_usd = sum(gpus * idle_w[name] for name, gpus in serving_gpus.items()) * S_PER_YEAR * usd_per_j
    fixed_usd = sum(p.fixed_usd_per_year * serving_gpus[p.offer] / p.gpus for p in found.plan.purchases)
    owning = _alternative(
        "this plan",
        "own",
        fixed_usd + idle_usd,
        above_w * S_PER_YEAR * usd_per_j / used,
        capacity,
        None,
        "the plan",
    )
    others: list[Alternative] = []
    left: list[str] = []
    for name, rental in problem.demand.rentals.items():
        part = [p for p in own if p.offer == f"{rental.candidate}/own"]
        if len(part) != len(own):
            left.append(f"{name}: the plan does not stand on {rental.candidate} alone")
            continue
        hours = H_PER_YEAR * rental.usd_per_gpu_h.value
        if rental.on_demand:
            usd = hours * sum(flow.busy_gpus for flow in found.flows) / used
            others.append(
                _alternative(name, "on demand", 0.0, usd, capacity, owning, rental.usd_per_gpu_h.source)
            )
        else:
            usd = hours * sum(serving_gpus[p.offer] for p in part)
            others.append(
                _alternative(name, "reserved", usd, 0.0, capacity, owning, rental.usd_per_gpu_h.source)
            )
    for name, api in problem.demand.apis.items():
        usd = (
            S_PER_YEAR
            / used
            * sum(
                flow.per_s * _api_usd(flow, api.usd_per_mtok_input, api.usd_per_mtok_output)
                for flow in found.flows
            )
        )
        others.append(_alternative(name, "api", 0.0, usd, capacity, owning, api.source))
    return BreakEven(
        capacity_output_tok_per_s=capacity,
        planned_utilisation=used,
        alternatives=(owning, *others),
        left=tuple(left),
    )


def _api_usd(flow: Flow, usd_per_mtok_input: float, usd_per_mtok_output: float) -> float:
    tier = flow.tier
    return (tier.input_tok * usd_per_mtok_input + tier.output_tok * usd_per_mtok_output) / TOK_PER_MTOK


def _alternative(
    name: str,
    way: Way,
    fixed: float,
    used: float,
    capacity: float,
    owning: Alternative | None,
    source: str,
) -> Alternative:
    mtok = capacity * S_PER_YEAR / TOK_PER_MTOK
    return Alternative(
        name=name,
        way=way,
        fixed_usd_per_year=fixed,
        used_usd_per_year=used,
        usd_per_mtok_output={f"{u:.0%}": (fixed / u + used) / mtok for u in UTILISATIONS},
        owning_pays_from=None if owning is None else crossing(owning, fixed, used),
        owning_pays_to=None if owning is None else until(owning, fixed, used),
        source=source,
    )


def crossing(owning: Alternative, fixed: float, used: float) -> float | None:
    """Return the utilisation from which owning costs no more than fixed + used x utilisation; None: never.

    Own fixed + own used u = fixed + used u. Hand check: 80 + 20 u against 200 u crosses at 80 / 180 = 44 %.
    """
    ahead = owning.fixed_usd_per_year - fixed
    saved = used - owning.used_usd_per_year
    if ahead <= 0.0:
        return 0.0
    if saved <= 0.0 or ahead > saved:
        return None
    return ahead / saved


def until(owning: Alternative, fixed: float, used: float) -> float | None:
    """Return the utilisation up to which owning costs no more, where use makes it dearer than the other; None
    where it stays cheaper to the full, or never is.

    Hand check: 80 + 30 u against 100 crosses at 20 / 30 = 67 %: below that owning pays.
    """
    ahead = owning.fixed_usd_per_year - fixed
    saved = used - owning.used_usd_per_year
    if ahead <= 0.0 and saved < ahead:
        return ahead / saved + 0.0
    return None
