"""The event played: arrivals, the gate, the pools, and the governor that the live factory uses."""

from __future__ import annotations

from collections import deque
from math import inf, sqrt
from random import Random
from typing import NamedTuple

from wattmill.power.signal.account import Sample, reached
from wattmill.power.signal.bucket import Bucket
from wattmill.power.signal.policy import Governor
from wattmill.power.signal.spec import FlexRules, Orders, PowerEvent, Seen
from wattmill.twin.rehearsal.fluid import FluidPool
from wattmill.twin.rehearsal.spec import Rehearsal, Site, TierFlow, TierRehearsed

_DT_S = 1.0
_STRAY = 0.05  # of a tier's requests: a plan leaves crumbs in other pools
_DEFERRED_S = 60.0  # a request that waited for so long counts as put off
_DRIFT_SHARE, _DRIFT_S = 0.02, 600.0  # demand wanders slowly, beside the noise of single arrivals


class Ask(NamedTuple):
    """What is asked. Either `reduce` (share of the baseline) or `limit_w`."""

    reduce: float | None = None
    limit_w: float | None = None
    notice_s: float = 600.0
    duration_s: float = 3 * 3600.0
    after_s: float = 3600.0
    seed: int = 1


class _Queue:
    """One tier before the gate, in order of arrival: (when, requests, whether they may be refused)."""

    def __init__(self, flow: TierFlow) -> None:
        self.flow = flow
        self.line: deque[tuple[float, float]] = deque()
        self.patient: deque[tuple[float, float]] = deque()
        self.waiting = 0.0
        self.asked = self.begun = self.kept = self.refused = 0.0
        self.refused_all = self.deferred = self.longest_s = 0.0

    def come(self, now_s: float, count: float) -> None:
        patient = count * self.flow.deferrable
        self.waiting += count
        if count - patient > 0.0:
            self.line.append((now_s, count - patient))
        if patient > 0.0:
            self.patient.append((now_s, patient))

    def give_up(self, now_s: float) -> float:
        """Take out who has waited for too long; return how many."""
        gone = 0.0
        while self.line and self.line[0][0] < now_s - self.flow.patience_s:
            gone += self.line.popleft()[1]
        self.waiting -= gone
        self.refused_all += gone
        return gone

    def take(self, now_s: float, most: float) -> list[tuple[float, float]]:
        """Take at most so many, the impatient first; return (waited seconds, requests)."""
        out: list[tuple[float, float]] = []
        for line in (self.line, self.patient):
            while line and most > 1e-12:
                at_s, count = line[0]
                part = min(count, most)
                most -= part
                self.waiting -= part
                waited_s = now_s - at_s
                out.append((waited_s, part))
                self.longest_s = max(self.longest_s, waited_s)
                if waited_s >= _DEFERRED_S:
                    self.deferred += part
                if part < count:
                    line[0] = (at_s, count - part)
                else:
                    line.popleft()
        return out


def rehearse(site: Site, ask: Ask, rules: FlexRules) -> Rehearsal:
    """Play an event on a site, from `rules.baseline_s` before its notice to `after_s` behind its end.

    Raises:
        ValueError: neither or both of `reduce` and `limit_w` are asked.
    """
    if (ask.reduce is None) == (ask.limit_w is None):
        raise ValueError("ask for either reduce or limit_w")
    warm_s = 300.0
    told_s = warm_s + rules.baseline_s
    start_s = told_s + ask.notice_s
    end_s = start_s + ask.duration_s
    event = PowerEvent(
        id="rehearsal", told_s=told_s, start_s=start_s, end_s=end_s, limit_w=ask.limit_w,
        keep=None if ask.reduce is None else 1.0 - ask.reduce,
    )  # fmt: skip
    flows = {flow.name: flow for flow in site.tiers}
    pools = [FluidPool(spec, flows) for spec in site.pools]
    queues = [_Queue(flow) for flow in sorted(site.tiers, key=lambda flow: -flow.rank)]
    governor, orders = Governor(rules), Orders()
    dice, drift = Random(ask.seed), 0.0
    protected_pools = {id(pool) for pool in pools if _serves_protected(pool, flows)}
    samples: list[Sample] = []
    made_before = made_during = 0.0
    least_share, gone_s = 1.0, None
    bucket = Bucket()
    floor_w, max_off = inf, 0
    now_s = 0.0
    while now_s < end_s + ask.after_s:
        during = start_s <= now_s < end_s
        drift += -drift * _DT_S / _DRIFT_S + dice.gauss(0.0, _DRIFT_SHARE * sqrt(2.0 * _DT_S / _DRIFT_S))
        for pool in pools:
            for tier, done in pool.advance(_DT_S).items():
                tok = done * flows[tier].output_tok
                made_before += tok if warm_s <= now_s < told_s else 0.0
                made_during += tok if during else 0.0
        lower = whole = 0.0
        bucket.fill(_DT_S)
        for queue in queues:
            flow = queue.flow
            mean = flow.per_s * _DT_S * max(0.0, 1.0 + drift)
            coming = max(0.0, dice.gauss(mean, sqrt(mean)))
            queue.come(now_s, coming)
            queue.asked += coming if during else 0.0
            for pool in pools:
                share = pool.spec.tiers.get(flow.name, 0.0)
                if share <= 0.0:
                    continue
                most = min(pool.room, queue.waiting * share if share < 1.0 else inf)
                if not flow.protected:
                    most = min(most, inf if bucket.pace is None else max(0.0, bucket.level) / flow.work)
                begun = queue.take(now_s, most)
                count = sum(n for _, n in begun)
                pool.inside[flow.name] += count
                whole += count * flow.work
                if not flow.protected:
                    bucket.take(count * flow.work)
                    lower += count * flow.work
                if during and count > 0.0:
                    at = pool.at()
                    queue.begun += count
                    in_time = sum(n for s, n in begun if s + at.ttft_s * pool.slowdown <= flow.ttft_s)
                    queue.kept += in_time if pool.keeps(flow.name) else 0.0
            gone = queue.give_up(now_s)
            if during:
                queue.refused += gone
        short = site.nodes_off is not None and orders.phase in ("ramp", "active")
        for pool in pools:
            pool.switch(now_s, short=short and id(pool) not in protected_pools, off=site.nodes_off)
        watts = site.other_w + sum(
            pool.watts(1.0 if id(pool) in protected_pools else orders.engine_share) for pool in pools
        )
        idle_w = site.other_w + sum(pool.idle_w for pool in pools)
        floor_w = min(floor_w, idle_w)
        max_off = max(max_off, sum(pool.off for pool in pools))
        if abs(now_s - told_s) < _DT_S / 2:
            governor.tell(event)
        waiting = sum(queue.waiting for queue in queues if not queue.flow.protected)
        orders = governor.look(
            Seen(
                now_s=now_s, power_w=watts, idle_w=idle_w, lower_work_per_s=lower / _DT_S,
                all_work_per_s=whole / _DT_S, lower_waiting=int(waiting),
            )
        )  # fmt: skip
        bucket.order(orders.lower_work_per_s)
        least_share = min(least_share, orders.engine_share)
        if now_s >= end_s and gone_s is None and waiting < sum(q.flow.per_s for q in queues) * _DT_S:
            gone_s = now_s - end_s
        samples.append(
            Sample(now_s, orders.phase, watts, orders.target_w, orders.lower_work_per_s, orders.engine_share)
        )
        now_s += _DT_S
    judged = [one for one in samples if one.at_s >= warm_s]
    limit_w = governor.limit_of(event)
    assert limit_w is not None, "the baseline was played"
    got = reached(
        judged, start_s=start_s, end_s=end_s, limit_w=limit_w, baseline_w=governor.baseline_w(event)
    )
    assert got is not None
    down, up = _ramps(judged, start_s, end_s)
    per_s_before = made_before / (told_s - warm_s)
    return Rehearsal(
        site=site.name,
        seed=ask.seed,
        notice_s=ask.notice_s,
        duration_s=ask.duration_s,
        reached=got,
        tiers=tuple(_tier(queue) for queue in queues),
        idle_w=floor_w,
        infeasible_floor_w=got.mean_w if not got.met else None,
        most_replicas_off=max_off,
        least_engine_share=least_share,
        backlog_gone_after_s=gone_s,
        ramp_down_w_per_s=down,
        ramp_up_w_per_s=up,
        tok_not_made=per_s_before * ask.duration_s - made_during,
        samples=tuple(judged),
    )


def _serves_protected(pool: FluidPool, flows: dict[str, TierFlow]) -> bool:
    """A few stray requests of a protected tier do not make a pool one of its own."""
    return any(flows[tier].protected and share > _STRAY for tier, share in pool.spec.tiers.items())


def _tier(queue: _Queue) -> TierRehearsed:
    flow = queue.flow
    # Who was refused got nothing of what was promised.
    judged = queue.begun + queue.refused
    return TierRehearsed(
        tier=flow.name,
        protected=flow.protected,
        asked=queue.asked,
        refused=queue.refused,
        kept=queue.kept / judged if judged > 0.0 else None,
        deferred_tok=queue.deferred * flow.output_tok,
        longest_wait_s=queue.longest_s,
        refused_tok=queue.refused_all * flow.output_tok,
        value_lost_usd=queue.refused_all * flow.usd_per_request,
    )


def _ramps(samples: list[Sample], start_s: float, end_s: float) -> tuple[float, float]:
    """Return the steepest fall before the limit holds and the steepest rise after it, in watts per second,
    of ten seconds each."""
    by_s = {round(one.at_s): one.power_w for one in samples}
    down = up = 0.0
    for at, watts in by_s.items():
        later = by_s.get(at + 10)
        if later is None:
            continue
        if start_s - 120 <= at < start_s + 30:
            down = max(down, (watts - later) / 10.0)
        if at >= end_s - 10:
            up = max(up, (later - watts) / 10.0)
    return down, up
