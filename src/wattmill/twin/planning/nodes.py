"""Nodes that a plan buys, what they cost and draw, and the requests that flow through them."""

from __future__ import annotations

import math
from typing import NamedTuple

from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.offers import Offer, energy_usd_per_j
from wattmill.twin.planning.options import Option, TierAsk
from wattmill.twin.planning.plan import Purchase
from wattmill.twin.planning.programme import Chosen, column
from wattmill.units import H_PER_YEAR, S_PER_DAY, S_PER_H, S_PER_YEAR, W_PER_MW

_NOTHING = 1e-6


class Flow(NamedTuple):
    """Requests of one tier at one pool, and the accelerators that they keep busy in the mean."""

    offer: Offer
    option: Option
    tier: TierAsk
    per_s: float  # mean
    busy_gpus: float
    busy_w: float  # above idle, at the meter


def flows_of(done: Chosen) -> list[Flow]:
    problem, values = done.problem, done.solution.values
    found = []
    for offer, option in problem.pairs():
        for tier in problem.tiers:
            peak = values.get(column("flow", offer, option, tier), 0.0)
            if peak <= _NOTHING:
                continue
            at = option.gives[tier.name]
            per_s = peak / problem.asked.peak_to_mean
            gpus = per_s / at.requests_per_s * option.config.gpus
            above = option.config.busy_w(offer, at.batch, problem.power) - offer.idle_w if offer.own else 0.0
            found.append(Flow(offer, option, tier, per_s, gpus, gpus * above))
    return found


class Bought:
    """Nodes of one offer, and what they cost and draw whether they work or not."""

    def __init__(self, done: Chosen, offer: Offer, flows: tuple[Flow, ...]) -> None:
        values = done.solution.values
        self.offer = offer
        self.nodes = round(values[column("nodes", offer)])
        self.training = {
            job: round(values.get(f"training:{offer.name}:{job}", 0.0)) for job in done.problem.demand.jobs
        }
        self.spares = round(sum(v for name, v in values.items() if name.startswith(f"spare:{offer.name}:")))
        self.working_gpus = sum(
            round(values[column("replicas", offer, option)]) * option.config.gpus
            for pair, option in done.problem.pairs()
            if pair is offer
        )
        own = [flow for flow in flows if flow.offer is offer]
        self.busy_gpus = sum(flow.busy_gpus for flow in own)
        paid = self.busy_gpus if offer.on_demand else float(self.nodes * offer.per_node)
        self.fixed_usd = paid * offer.fixed_usd_per_gpu_h * H_PER_YEAR
        serving = self.nodes - sum(self.training.values())
        self.serving_share = serving / self.nodes if self.nodes else 0.0
        self.idle_w = self.nodes * offer.per_node * offer.idle_w if offer.own else 0.0
        self.training_w = sum(
            nodes * offer.per_node * duty(done, job) * (offer.full_w - offer.idle_w)
            for job, nodes in self.training.items()
            if offer.own
        )
        self.drawn_w = self.idle_w + self.training_w + sum(flow.busy_w for flow in own)
        self._energy_usd_per_j = energy_usd_per_j(done.problem.demand)

    @property
    def provisioned_mw(self) -> float:
        return (
            self.nodes * self.offer.per_node * self.offer.provisioned_w / W_PER_MW if self.offer.own else 0.0
        )

    def purchase(self) -> Purchase:
        gpus = self.nodes * self.offer.per_node
        drawn = self.drawn_w / gpus * self._energy_usd_per_j * S_PER_H
        return Purchase(
            offer=self.offer.name,
            accelerator=self.offer.accelerator.name,
            nodes=self.nodes,
            racks=math.ceil(self.nodes / self.offer.nodes_per_rack),
            gpus=gpus,
            working_gpus=self.working_gpus,
            spare_nodes=self.spares,
            training_nodes=sum(self.training.values()),
            provisioned_mw=self.provisioned_mw,
            fixed_usd_per_year=self.fixed_usd,
            fixed_usd_per_gpu_h=self.offer.fixed_usd_per_gpu_h,
            energy_inside_usd_per_gpu_h=self.offer.energy_inside_usd_per_gpu_h,
            drawn_usd_per_gpu_h=drawn,
        )


def borne_w(flow: Flow, nodes: Bought) -> float:
    """Return the watts that a flow bears: the idle power of its part of the offer's serving nodes, by the
    accelerators that it keeps busy, and the power above idle that it draws itself."""
    return nodes.idle_w * nodes.serving_share * flow.busy_gpus / nodes.busy_gpus + flow.busy_w


def borne_usd(flow: Flow, nodes: Bought, demand: Demand) -> float:
    """Return the dollars a year that a flow bears: fixed cost by the same part, and its energy."""
    part = flow.busy_gpus / nodes.busy_gpus
    fixed = nodes.fixed_usd * part * (1.0 if flow.offer.on_demand else nodes.serving_share)
    return fixed + borne_w(flow, nodes) * S_PER_YEAR * energy_usd_per_j(demand)


def duty(done: Chosen, job: str) -> float:
    """Return the part of the year in which a job runs."""
    declared = done.problem.demand.jobs[job]
    return min(1.0, declared.days * S_PER_DAY * declared.runs_per_year / S_PER_YEAR)
