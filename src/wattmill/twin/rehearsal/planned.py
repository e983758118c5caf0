"""The site that a plan finds, as an event sees it."""

from __future__ import annotations

from wattmill.twin.planning.answer import Answered
from wattmill.twin.planning.nodes import Bought, Flow
from wattmill.twin.planning.programme import column
from wattmill.twin.rehearsal.spec import At, NodesOff, Site, SitePool, TierFlow
from wattmill.units import W_PER_MW


def site_of(
    found: Answered, *, load: float, protect: tuple[str, ...], patience_s: float, deferrable: float,
    nodes_off: NodesOff | None,
) -> Site:  # fmt: skip
    """Return a plan's factory at `load` times its mean demand.

    Args:
        found: the plan with what it was made from.
        load: 1 is the mean of the day, `peak_to_mean` its busiest hour.
        protect: tiers that are never held back; empty: the one that pays most for a request.
        patience_s: how long a request of a lower tier waits before it is refused.
        nodes_off: how idle replicas are switched off during an event; None: they stay on.
        deferrable: share of the lowest tier's requests that wait for as long as it takes.

    Raises:
        ValueError: a protected tier is not of the plan, or nothing of it stands behind our meter.
    """
    asks = {tier.name: tier for tier in found.chosen.problem.tiers}
    for name in protect:
        if name not in asks:
            raise ValueError(f"no tier {name!r} to protect; the plan has {', '.join(asks)}")
    by_pay = sorted(asks.values(), key=lambda tier: tier.usd_per_request)
    kept = set(protect) or {by_pay[-1].name}
    own = [flow for flow in found.flows if flow.offer.own]
    if not own:
        raise ValueError("the plan rents all of its accelerators: none of them draws behind our meter")
    per_s = {name: sum(flow.per_s for flow in own if flow.tier.name == name) for name in asks}
    tiers = tuple(
        TierFlow(
            name=tier.name,
            rank=rank,
            protected=tier.name in kept,
            per_s=per_s[tier.name] * load,
            input_tok=tier.input_tok,
            output_tok=tier.output_tok,
            tok_per_s=tier.tok_per_s,
            ttft_s=tier.ttft_s,
            usd_per_request=tier.usd_per_request,
            patience_s=patience_s,
            deferrable=deferrable if rank == 0 and tier.name not in kept else 0.0,
        )
        for rank, tier in enumerate(by_pay)
    )
    # One configuration may be bought twice, at the batch that suits one promise and at another's.
    groups: dict[str, list[Flow]] = {}
    for flow in own:
        groups.setdefault(f"{flow.offer.name}: {flow.option}", []).append(flow)
    pools = tuple(_pool(found, name, flows, per_s) for name, flows in groups.items())
    at_work = sum(pool.replicas * pool.gpus * pool.idle_w for pool in pools)
    bought = [Bought(found.chosen, offer, found.flows) for offer in {flow.offer for flow in own}]
    other_w = sum(one.idle_w + one.training_w for one in bought) - at_work
    return Site(
        name=found.plan.name,
        pools=pools,
        tiers=tiers,
        other_w=max(0.0, other_w),
        provisioned_w=found.plan.totals.provisioned_mw * W_PER_MW,
        nodes_off=nodes_off,
    )


def _pool(found: Answered, name: str, flows: list[Flow], per_s: dict[str, float]) -> SitePool:
    main = max(flows, key=lambda flow: flow.per_s)
    offer, option = main.offer, main.option
    curve = found.choice.curves[str(option.config), main.tier.name]
    power = found.chosen.problem.power
    batch = option.gives[main.tier.name].batch
    replicas = round(found.chosen.solution.values[column("replicas", offer, option)])
    shares: dict[str, float] = {}
    for flow in flows:
        shares[flow.tier.name] = shares.get(flow.tier.name, 0.0) + flow.per_s / per_s[flow.tier.name]
    return SitePool(
        name=name,
        replicas=replicas,
        gpus=option.config.gpus,
        batch=batch,
        idle_w=offer.idle_w,
        points=tuple(
            At(
                float(point.concurrency),
                point.prediction.tpot_s.value,
                point.prediction.ttft_s.value,
                offer.busy_w(point.concurrency, power),
            )
            for point in curve.points
        ),
        tiers=shares,
    )
