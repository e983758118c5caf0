"""Who gives way when power is short: the batch lane, then lower tiers, then the engines' speed.

The governor looks about once a second. Lower tiers are let in at a pace `L` (work per second). Work that was
let in draws for a while, so the pace is the integral of what is missing or left, and half of that shows at
once:

    L += (aim_w - power_w) / j_per_work * dt / settle_s

where `j_per_work` is what a unit of work was seen to draw before the event. A wrong `j_per_work` makes the
approach faster or slower, not its end wrong. Where power stays above the limit because answers in flight take
long to end, engines are slowed in the ratio of what they may draw to what they draw. They are back at full
speed before lower tiers get more: what was promised to the top tier is spent last.

After the end power goes back to the baseline in a straight line and stays at or below it for a while: the
work that was put off must not make the peak that the next bill is for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from wattmill.power.signal.spec import FREE, FlexRules, Orders, PowerEvent, Seen

_FAST_S = 1.5  # of power, for control
_TRY = 0.1  # of the room that is left may be allowed before anybody was seen to use it
_AT_ONCE = 0.5  # of what is over or left shows in the pace at once, the rest as it lasts
_FLOW_S = 3.0  # of what lower tiers are seen to begin
_SLOW_S = 60.0  # of what a unit of work draws
_BRAKE_AFTER_S = 2.0  # engines are slowed only if holding back lower tiers was not enough in this time
_RISE_PER_S = 0.05  # of the engines' share, once there is room again


def in_force(events: Sequence[PowerEvent], now_s: float) -> PowerEvent | None:
    """Return the event that holds at `now_s`: of those over this moment the one that was told last."""
    over = [event for event in events if event.start_s <= now_s < event.ends_s]
    newest = max(over, key=lambda event: event.told_s, default=None)
    return None if newest is None or newest.lifts else newest


def ahead(events: Sequence[PowerEvent], now_s: float) -> PowerEvent | None:
    """Return the next event that will hold."""
    coming = [event for event in events if event.start_s > now_s and not event.lifts]
    coming = [event for event in coming if in_force(events, event.start_s) is event]
    return min(coming, key=lambda event: event.start_s, default=None)


def told_again(known: PowerEvent, event: PowerEvent) -> PowerEvent:
    """Return an event that is told a second time while it lasts: senders deliver at least once, and a poller
    brings the same one each minute. It began when it began; the same words change nothing."""
    if known.start_s <= event.told_s:
        event = replace(event, start_s=known.start_s)
    same = replace(event, told_s=known.told_s)
    return known if same == known else event


class Governor:
    """Orders from what was seen so far. The same in a live factory and in the twin; it reads no clock."""

    def __init__(self, rules: FlexRules) -> None:
        self.rules = rules
        self.events: list[PowerEvent] = []
        self._past: deque[tuple[float, float]] = deque()  # (when, watts), for baselines
        self._baselines: dict[str, float] = {}
        self._fast_w: float | None = None
        self._dynamic_w = self._work = self._lower = self._flow = 0.0
        self._seen_s: float | None = None
        self._told_s: float | None = None  # when work was told last
        self._pace: float | None = None  # L, None while nothing is held back
        self._began_s = 0.0  # of holding back
        self._share = 1.0
        self._over_since_s: float | None = None
        self._last: PowerEvent | None = None  # the one that holds, or held last
        self._last_limit_w = 0.0
        self._ended_s = 0.0

    def tell(self, event: PowerEvent, *, baseline_w: float | None = None) -> PowerEvent:
        """Take an event and return it as it holds. `baseline_w`: as it was reckoned at its notice, by an
        earlier life of ours. One that is told again while it lasts keeps the baseline of its first notice:
        power has followed it by then, and a share of a share was not asked for."""
        known = next((one for one in self.events if one.id == event.id), None)
        if known is not None and known.ends_s > event.told_s:
            event = told_again(known, event)
            baseline_w = self._baselines.get(event.id) if baseline_w is None else baseline_w
        self.events = [one for one in self.events if one.id != event.id]
        self.events.append(event)
        if baseline_w is None:
            baseline_w = self.mean_w(event.told_s - self.rules.baseline_s, event.told_s)
        self._baselines.pop(event.id, None)
        if baseline_w is not None:
            self._baselines[event.id] = baseline_w
        return event

    def recall(self, past: Iterable[tuple[float, float]]) -> None:
        """Take (when, watts) that an earlier life of ours saw, the oldest first: baselines rest on them."""
        self._past.extend(past)

    def forget(self, before_s: float) -> None:
        """Drop events that ended, and have been recovered from, before `before_s`."""
        self.events = [event for event in self.events if event.ends_s + self.rules.rebound_s >= before_s]

    def baseline_w(self, event: PowerEvent) -> float | None:
        return self._baselines.get(event.id)

    def limit_of(self, event: PowerEvent) -> float | None:
        """Return the watts that an event asks for, None for a share of a baseline that nobody measured."""
        if event.limit_w is not None:
            return event.limit_w
        base = self.baseline_w(event)
        return None if base is None or event.keep is None else base * event.keep

    def mean_w(self, from_s: float, to_s: float) -> float | None:
        watts = [w for at, w in self._past if from_s <= at <= to_s]
        return sum(watts) / len(watts) if watts else None

    # ---- one look

    def look(self, seen: Seen) -> Orders:
        dt_s = self._remember(seen)
        now_s, rules = seen.now_s, self.rules
        holds, coming = in_force(self.events, now_s), ahead(self.events, now_s)
        if holds is not None:
            limit_w = self.limit_of(holds)
            if limit_w is None:
                return Orders(
                    phase="active", event=holds.id
                )  # a share of nothing measured: nothing to aim at
            self._last, self._last_limit_w, self._ended_s = holds, limit_w, now_s
            return self._steer(seen, dt_s, holds, limit_w, limit_w, "active")
        if coming is not None:
            limit_w, base_w = self.limit_of(coming), self._baselines.get(coming.id, self._fast_w or 0.0)
            lead_s = min(rules.lead_s, max(0.0, coming.start_s - coming.told_s))
            if limit_w is not None and lead_s > 0.0 and now_s >= coming.start_s - lead_s:
                # What is let in goes on drawing: aim at the end a little before it.
                down_s = max(lead_s - rules.settle_s, 1e-9)
                share = max(0.0, (coming.start_s - rules.settle_s - now_s) / down_s)
                target_w = limit_w + max(0.0, base_w - limit_w) * min(1.0, share)
                return self._steer(seen, dt_s, coming, limit_w, target_w, "ramp")
        last = self._last
        if last is not None and self._recovers(seen):
            base_w = max(self._baselines.get(last.id, 0.0), self._last_limit_w)
            share = min(1.0, (now_s - self._ended_s) / rules.ramp_up_s) if rules.ramp_up_s > 0 else 1.0
            target_w = self._last_limit_w + (base_w - self._last_limit_w) * share
            return self._steer(seen, dt_s, last, self._last_limit_w, target_w, "recovering")
        self._last, self._pace, self._share, self._over_since_s = None, None, 1.0, None
        if coming is None:
            return FREE
        limit_w = self.limit_of(coming)
        return Orders(
            phase="noticed",
            event=coming.id,
            baseline_w=self.baseline_w(coming),
            limit_w=limit_w,
            floor_w=seen.idle_w if limit_w is not None and limit_w < seen.idle_w else None,
        )

    def _recovers(self, seen: Seen) -> bool:
        """Return whether work that was put off may yet come back all at once."""
        since_s = seen.now_s - self._ended_s
        if since_s < self.rules.rebound_s:
            return True
        return seen.lower_waiting > 0 and since_s < self.rules.longest_rebound_s

    def _steer(
        self, seen: Seen, dt_s: float, event: PowerEvent, limit_w: float, target_w: float, phase: str
    ) -> Orders:
        rules = self.rules
        watts = self._fast_w if self._fast_w is not None else seen.power_w
        aim_w = target_w * (1.0 - rules.margin)
        active = phase == "active"
        over = watts > target_w
        self._over_since_s = (self._over_since_s or seen.now_s) if over and active else None
        self._set_pace(seen, dt_s, aim_w - watts)
        assert self._pace is not None
        # Nobody asks for so much, or nothing is left that could do it: nothing is saved up for later.
        most = 1.25 * self._flow + self._first_step(aim_w - watts)
        unused = self._pace > most
        if unused:
            self._pace = max(most, self._pace * (1.0 - dt_s / rules.settle_s))
        unused = unused and seen.lower_waiting == 0
        self._slow_engines(seen, watts, aim_w, dt_s, active=active)
        # On the way back, once nobody asks for more than there is, nothing is held back any longer.
        free = phase == "recovering" and unused and seen.now_s >= self._ended_s + rules.ramp_up_s
        return Orders(
            phase=phase,  # type: ignore[arg-type]  # one of the three that call this
            event=event.id,
            baseline_w=self.baseline_w(event),
            limit_w=limit_w,
            target_w=target_w,
            lower_work_per_s=None if free else self._now(aim_w - watts),
            batches=phase == "recovering" and (free or not over),
            engine_share=self._share,
            floor_w=seen.idle_w if limit_w < seen.idle_w else None,
        )

    def _set_pace(self, seen: Seen, dt_s: float, room_w: float) -> None:
        j_per_work = self._dynamic_w / self._work if self._work > 0.0 else 0.0
        if self._pace is None:  # straight to where it should end, as far as that is known
            self._pace = max(0.0, self._lower + room_w / j_per_work) if j_per_work > 0.0 else 0.0
            self._began_s = seen.now_s
        elif seen.now_s - self._began_s < self.rules.settle_s and room_w < 0.0:
            pass  # what was let in before goes on drawing for so long: that says nothing of this pace
        elif room_w < 0.0 or self._share >= 1.0:
            if j_per_work > 0.0:
                self._pace += room_w / j_per_work * dt_s / self.rules.settle_s
            else:  # nothing known yet: feel the way
                self._pace += max(1.0, self._pace) * dt_s / self.rules.settle_s * (1 if room_w > 0 else -1)
            self._pace = max(0.0, self._pace)

    def _first_step(self, room_w: float) -> float:
        """Return what may be allowed beyond what is being used: enough to find out whether more is asked."""
        j_per_work = self._dynamic_w / self._work if self._work > 0.0 else 0.0
        return max(1.0, _TRY * room_w / j_per_work if j_per_work > 0.0 else 0.0)

    def _now(self, room_w: float) -> float:
        """Return the pace at this moment: the steady one, and a part of what is over or left at once."""
        assert self._pace is not None
        if self._dynamic_w <= 0.0 or self._work <= 0.0:
            return self._pace if room_w > 0.0 else 0.0
        return max(0.0, self._pace + _AT_ONCE * room_w * self._work / self._dynamic_w)

    def _slow_engines(self, seen: Seen, watts: float, aim_w: float, dt_s: float, *, active: bool) -> None:
        since_s = self._over_since_s
        if active and since_s is not None and seen.now_s - since_s >= _BRAKE_AFTER_S:
            drawn_w, may_w = watts - seen.idle_w, max(0.0, aim_w - seen.idle_w)
            if drawn_w > 0.0:
                # The filter lags the power: a whole step each look would overshoot.
                step = min(1.0, dt_s / (2.0 * _FAST_S))
                wanted = self._share * may_w / drawn_w
                self._share += (wanted - self._share) * step
        elif not active or watts <= aim_w:
            self._share += _RISE_PER_S * dt_s
        self._share = min(1.0, max(self.rules.least_engine_share, self._share))

    def _remember(self, seen: Seen) -> float:
        dt_s = 1.0 if self._seen_s is None else max(0.0, seen.now_s - self._seen_s)
        self._seen_s = seen.now_s
        self._past.append((seen.now_s, seen.power_w))
        while self._past and self._past[0][0] < seen.now_s - self.rules.baseline_s - 60.0:
            self._past.popleft()
        fast = min(1.0, dt_s / _FAST_S)
        self._fast_w = (
            seen.power_w if self._fast_w is None else self._fast_w + (seen.power_w - self._fast_w) * fast
        )
        if seen.all_work_per_s is None or seen.lower_work_per_s is None:
            return dt_s
        told_s = dt_s if self._told_s is None else max(0.0, seen.now_s - self._told_s)
        self._told_s = seen.now_s
        self._flow += (seen.lower_work_per_s - self._flow) * min(1.0, told_s / _FLOW_S)
        near = min(1.0, told_s / self.rules.settle_s)
        self._lower += (seen.lower_work_per_s - self._lower) * near
        if self._share >= 1.0:  # slowed engines draw less for the same work
            slow = min(1.0, told_s / _SLOW_S)
            self._dynamic_w += (max(0.0, self._fast_w - seen.idle_w) - self._dynamic_w) * slow
            self._work += (seen.all_work_per_s - self._work) * slow
        return dt_s
