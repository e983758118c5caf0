"""What a node costs and draws: an accelerator, owned behind our meter or rented elsewhere."""

from __future__ import annotations

from typing import NamedTuple

from wattmill.compute.catalogue import accelerator
from wattmill.compute.spec import Accelerator
from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.performance import Power
from wattmill.twin.planning.spares import down_share
from wattmill.twin.planning.supply import (
    AllIn,
    Candidate,
    Listed,
    energy_inside_usd_per_gpu_h,
    fixed_usd_per_gpu_h,
)
from wattmill.units import H_PER_YEAR, J_PER_MWH, W_PER_KW


class Offer(NamedTuple):
    """One way to get one accelerator. Watts are at the utility meter and of one accelerator's share."""

    name: str  # candidate/own or candidate/rent
    candidate: str
    accelerator: Accelerator
    own: bool
    on_demand: bool
    per_node: int
    nodes_per_rack: int
    whole_racks: bool
    most_nodes: int | None
    provisioned_w: float
    idle_w: float
    full_w: float  # drawn in the mean of a year by an accelerator at its rating
    overhead_inside: bool  # in an all-in figure; else watts follow the site's PUE
    tdp_drop_w: (
        float  # what the meter sees less for each watt that an accelerator draws below its rating: PUE
    )
    fixed_usd_per_gpu_h: float  # without energy
    energy_inside_usd_per_gpu_h: float | None  # what was taken out of an all-in rate; None: nothing was in it
    down: float  # share of time in which a node is down

    def busy_w(self, batch: float, power: Power) -> float:
        """Return the watts at the meter of one accelerator whose replica works on `batch`.

        What is not the accelerator is taken as drawn in full whenever the node is on, and the accelerator as
        `power` says; where nobody knows its curve it counts at its rating, so the figure is an upper bound.
        """
        drawn, rating = power(self.accelerator, batch), self.accelerator.tdp_w
        if rating is None or drawn is None:
            return self.full_w
        return self.full_w - self.tdp_drop_w * max(0.0, rating - drawn)


def offers(demand: Demand, power: Power) -> tuple[Offer, ...]:
    """Return every way in which a candidate may be had, in the order of the file."""
    found = []
    for key, candidate in demand.candidates.items():
        part = accelerator(candidate.accelerator)
        if candidate.own is not None:
            found.append(_offer(demand, key, candidate, part, power, own=True))
        if candidate.rent is not None:
            found.append(_offer(demand, key, candidate, part, power, own=False))
    return tuple(found)


def _kw(demand: Demand, candidate: Candidate) -> tuple[float, float]:
    """Return kW at the meter of one accelerator at its rating: what it is provisioned with, for the site's
    highest hour, and what it draws in the mean of a year. Exactly one of the two figures is declared."""
    if candidate.all_in_kw_per_gpu is not None:
        return candidate.all_in_kw_per_gpu.value, candidate.all_in_kw_per_gpu.value
    assert candidate.it_kw_per_gpu is not None, "checked when the file was read"
    site, it_kw = demand.site, candidate.it_kw_per_gpu.value
    return it_kw * (site.peak_pue or site.overhead).value, it_kw * site.overhead.value


def _offer(
    demand: Demand, key: str, candidate: Candidate, part: Accelerator, power: Power, *, own: bool
) -> Offer:
    kw, full_kw = _kw(demand, candidate)
    cost = candidate.own if own else candidate.rent
    assert cost is not None and not isinstance(cost, Listed), "looked up when the file was read"
    inside = energy_inside_usd_per_gpu_h(cost, all_in_kw=kw) if isinstance(cost, AllIn) else None
    a = demand.availability
    offer = Offer(
        name=f"{key}/{'own' if own else 'rent'}",
        candidate=key,
        accelerator=part,
        own=own,
        on_demand=not own and candidate.rent is not None and candidate.rent.on_demand,
        per_node=part.gpus_per_node,
        nodes_per_rack=candidate.nodes_per_rack,
        whole_racks=candidate.whole_racks,
        most_nodes=candidate.most_nodes,
        provisioned_w=kw * W_PER_KW,
        idle_w=full_kw * W_PER_KW,
        full_w=full_kw * W_PER_KW,
        overhead_inside=candidate.all_in_kw_per_gpu is not None,
        tdp_drop_w=demand.site.overhead.value,
        fixed_usd_per_gpu_h=fixed_usd_per_gpu_h(cost, all_in_kw=kw),
        energy_inside_usd_per_gpu_h=inside,
        down=down_share(
            failures_per_gpu_year=a.failures_per_gpu_year.value,
            gpus_per_node=part.gpus_per_node,
            repair_h=a.repair_h.value,
        ),
    )
    return offer._replace(idle_w=offer.busy_w(0.0, power))


def fixed_usd_per_node_year(offer: Offer) -> float:
    return offer.fixed_usd_per_gpu_h * offer.per_node * H_PER_YEAR


def energy_usd_per_j(demand: Demand) -> float:
    return demand.site.electricity.value / J_PER_MWH
