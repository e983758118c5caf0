"""Replicas by load: as many as keep the share of taken slots at its target, grown fast and shrunk slowly."""

from __future__ import annotations

import math

from wattmill.scheduling.scaling.spec import PoolLoad, Scaled, ScalingMemory, ScalingRules


def scale(load: PoolLoad, rules: ScalingRules, memory: ScalingMemory, *, now_s: float) -> Scaled:
    """Return how many replicas there should be, those that are starting included.

    Wanted are ceil(L / (slots x target)), where L is the number of requests at work and waiting, smoothed
    exponentially over `window_s`; a burst beyond the smoothed load counts at once for growing. Nothing is
    added within `up_after_s` of a change, nothing ends before fewer have sufficed for `down_after_s`, and no
    decision changes more than `most_at_once`. Within `least` and `most` always.
    """
    busy = float(load.in_flight + load.waiting)
    smooth = busy
    if memory.load is not None:
        part = 1.0 - math.exp(-(now_s - memory.seen_s) / rules.window_s)
        smooth = memory.load + part * (busy - memory.load)
    there = load.ready + load.starting
    per_replica = load.slots * rules.target
    wanted = min(rules.most, max(rules.least, math.ceil(max(busy, smooth) / per_replica - 1e-9)))
    enough = min(rules.most, max(rules.least, math.ceil(smooth / per_replica - 1e-9), wanted))
    since = None if enough >= there else now_s if memory.enough_since_s is None else memory.enough_since_s
    kept = ScalingMemory(smooth, now_s, memory.changed_s, since)
    if there < rules.least or (wanted > there and now_s - memory.changed_s >= rules.up_after_s):
        goal = max(rules.least, min(wanted, there + rules.most_at_once))
        words = f"{busy:.0f} requests want {wanted} replicas of {load.slots} slots at {rules.target:g}"
        return Scaled(goal, words, kept._replace(changed_s=now_s))
    if there > rules.most or (since is not None and now_s - since >= rules.down_after_s):
        goal = min(rules.most, max(enough, there - rules.most_at_once))
        words = f"{enough} replicas have sufficed for {now_s - (since or now_s):.0f} s"
        return Scaled(goal, words, kept._replace(changed_s=now_s, enough_since_s=None))
    return Scaled(there, "", kept)
