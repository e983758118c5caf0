"""Power limits in the supervisor: takes messages, looks at the power, gives orders, keeps the account."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import msgspec

from wattmill.app.declared.flex_settings import protected_rank
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tier_settings import PerToken, TierPlan, TierRates, tier_plans
from wattmill.app.flexing import in_force as orders_file
from wattmill.app.flexing.in_force import InForce
from wattmill.app.flexing.shelf import MOST_BYTES, EventReport, GaveWay, Shelf
from wattmill.app.home import Home
from wattmill.app.running.sampler import Power
from wattmill.app.running.throttle import Throttle
from wattmill.app.running.worker_control import ask
from wattmill.ports import Clock
from wattmill.power.signal.account import Reached, Sample, merged, reached
from wattmill.power.signal.formats import BadEvent, read_events
from wattmill.power.signal.policy import Governor, in_force
from wattmill.power.signal.spec import FREE, Orders, PowerEvent, Seen
from wattmill.units import TOK_PER_MTOK, US_PER_S, nusd_from_usd

_KEPT_SAMPLES = 3_600
_BEFORE_S = 1_800.0  # of power that is remembered between events, beside a baseline
_REPORT_S = 5.0
_FEWEST_S = 5.0  # of power: a baseline of less says nothing
_BETWEEN_S = 1.0  # two looks at the power
_LOOK_S = 0.5  # between two looks for messages
_LEARN_S = 5.0
_LAPSE_S = 30.0  # orders hold for so long without news of them

_log = logging.getLogger("wattmill.flex")


class Flexer:
    """One per factory. `tick` on the supervisor's thread, as often as one likes."""

    def __init__(
        self,
        home: Home,
        *,
        clock: Clock,
        power: Callable[[], Power | None],
        engines: Callable[[], list[int]],
        settings: Settings,
    ) -> None:
        self._home = home
        self._clock = clock
        self._power = power
        self._shelf = Shelf(home)
        self._throttle = Throttle(engines)
        self._seen: Power | None = None
        self._past: list[Sample] = []
        self._reports: dict[str, EventReport] = {}
        self._counts: dict[int, _Counted] = {}
        self._counted_s = 0.0
        self._gave = GaveWay()  # since the look before this one
        self._seen_s = 0.0
        self._told = Orders()
        self._saved_s = 0.0
        self._looked_s = 0.0
        self.use(settings)
        self._governor = Governor(settings.flex.rules())
        orders_file.path(home).unlink(missing_ok=True)  # of an earlier life
        self._remember()

    def use(self, settings: Settings) -> None:
        """Go by another declaration from now on. The rules of control change at the next start."""
        self._settings = settings
        self._tiers = tier_plans(settings.tiers)
        self._protected = protected_rank(settings.flex, self._tiers)

    @property
    def orders(self) -> Orders:
        return self._told

    def close(self) -> None:
        self._throttle.close()
        self._save(at_s=self._wall_s(), all=True)
        orders_file.path(self._home).unlink(missing_ok=True)

    def tick(self) -> None:
        self._take_messages()
        power = self._power()
        now_s = self._wall_s()
        if power is None or power is self._seen:
            self._mind_blindness(now_s)
            return
        self._seen, self._seen_s = power, now_s
        watts, idle_w = self._at_boundary(power), power.idle_w
        busy = self._told.phase != "none" or bool(self._governor.events)
        # Between events a look now and then is enough to know what a unit of work draws.
        asks = busy or now_s - self._counted_s >= _LEARN_S
        lower, all_work, waiting = self._work(now_s) if asks else (None, None, 0)
        told = self._governor.look(
            Seen(
                now_s=now_s,
                power_w=watts,
                idle_w=idle_w,
                lower_work_per_s=lower,
                all_work_per_s=all_work,
                lower_waiting=waiting,
            )
        )
        self._see(Sample(now_s, told.phase, watts, told.target_w, told.lower_work_per_s, told.engine_share))
        if told != self._told:
            self._told = told
            self._throttle.set(told.engine_share)
        if busy or told.phase != "none":
            self._write(told, now_s, watts)
        self._account(told, now_s, busy=busy)

    def _see(self, sample: Sample) -> None:
        """Remember a look. What no baseline and no event needs goes; of a long event the older half becomes
        coarser, so that its account is whole however long it lasts."""
        self._past.append(sample)
        if len(self._past) <= _KEPT_SAMPLES:
            return
        baseline_s = self._settings.flex.baseline_s
        starts_s = [one.event.start_s for one in self._reports.values() if one.problem is None]
        since_s = min([sample.at_s - _BEFORE_S, *starts_s]) - baseline_s
        past = [one for one in self._past if one.at_s >= since_s]
        half = len(past) // 2
        if len(past) > _KEPT_SAMPLES * 3 // 4:
            past = [*merged(past[:half], half // 2), *past[half:]]
        self._past = past

    def _mind_blindness(self, now_s: float) -> None:
        """Nobody tells the power any more. The last word holds until its event ends, then all are let go."""
        if self._told.phase == "none" or now_s - self._seen_s < _LAPSE_S:
            return
        if in_force(self._governor.events, now_s) is None:
            _log.warning("no meter tells the power: what was held back is let go")
            self._told = FREE
            self._throttle.set(1.0)
            self._write(FREE, now_s, None)

    # ---- messages

    def _take_messages(self) -> None:
        now_s = self._clock.now()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        for path in self._shelf.waiting():
            try:
                if path.stat().st_size > MOST_BYTES:
                    raise BadEvent(f"the message must be at most {MOST_BYTES} bytes")
                message = path.read_bytes()
            except OSError as error:
                self._shelf.refuse(path, f"cannot be read: {error.strerror}")
                continue
            except BadEvent as error:
                self._shelf.refuse(path, str(error))
                continue
            try:
                events = read_events(message, now_s=self._wall_s(), id=path.stem)
            except BadEvent as error:
                _log.warning("power event %s refused: %s", path.name, error)
                self._shelf.refuse(path, str(error))
                continue
            except Exception as error:  # noqa: BLE001 - the boundary to strangers' words: left there, they would end every life of ours
                _log.exception("power event %s cannot be read", path.name)
                self._shelf.refuse(path, f"a defect of the reader: {type(error).__name__}: {error}")
                continue
            for event in events:
                self._tell(event)
            path.unlink(missing_ok=True)

    def _tell(self, event: PowerEvent) -> None:
        event = self._governor.tell(event)
        known = self._reports.get(event.id)
        if known is not None and known.event == event and known.problem is None:
            return  # told again, and nothing new in it
        spans = [one.at_s for one in self._past if one.at_s >= event.told_s - self._settings.flex.baseline_s]
        from_s = spans[-1] - spans[0] if spans else 0.0
        limit_w = self._governor.limit_of(event)
        problem = None
        # A meter's second does not fill a short baseline to its edges: half of it will do.
        seen_s = known.baseline_from_s if known is not None and known.event.start_s == event.start_s else None
        from_s = from_s if seen_s is None else seen_s
        if event.keep is not None and from_s < min(_FEWEST_S, self._settings.flex.baseline_s / 2):
            problem = (
                f"a reduction is against the power before it, and only {from_s:.0f} s of that were seen: "
                "nothing is done. Name limit_w, or send it again later"
            )
            self._governor.events.remove(event)
        floor_w = None
        if self._seen is not None and limit_w is not None and limit_w < self._seen.idle_w:
            floor_w = self._seen.idle_w
        report = EventReport(
            event=event,
            state="refused" if problem else "lifts" if event.lifts else "noticed",
            at_s=event.told_s,
            baseline_w=self._governor.baseline_w(event),
            baseline_from_s=from_s,
            limit_w=limit_w,
            infeasible_floor_w=floor_w,
            provenance=self._provenance,
            meter="" if self._seen is None else self._seen.source,
            boundary=self._settings.flex.boundary,
            problem=problem,
        )
        self._reports[event.id] = report
        self._keep(report)
        _log.info("power event %s: limit %s W from %s", event.id, limit_w, event.start_s)

    def _remember(self) -> None:
        """Go on with what an earlier life had begun."""
        with contextlib.suppress(OSError):
            self._shelf.make()
        now_s = self._wall_s()
        seen: dict[float, Sample] = {}
        for report in reversed(self._shelf.reports()):
            event = report.event
            ended = event.ends_s <= now_s
            if report.problem is not None or report.state == "over" or (event.lifts and ended):
                continue
            seen.update((one.at_s, one) for one in report.samples)
            if not ended:
                self._governor.tell(event, baseline_w=report.baseline_w)
                self._reports[event.id] = report
            else:  # it ended while nobody looked: what was seen of it until then stands
                state = "lifted" if report.state == "lifted" else "over"
                self._keep(msgspec.structs.replace(report, state=state, at_s=now_s))
        self._past.extend(seen[at_s] for at_s in sorted(seen))
        self._governor.recall((one.at_s, one.power_w) for one in self._past if one.at_s <= now_s)

    @property
    def _provenance(self) -> str:
        return "unknown" if self._seen is None else self._seen.provenance

    def _keep(self, report: EventReport) -> None:
        try:
            self._shelf.keep(report)
        except OSError as error:  # a full disk must not end the supervisor
            _log.warning("power event %s: its report cannot be written: %s", report.event.id, error)

    # ---- what is seen

    def _at_boundary(self, power: Power) -> float:
        if self._settings.flex.boundary == "host":
            return power.host_w
        return power.idle_w + sum(power.by_pool_w.values())

    def _work(self, now_s: float) -> tuple[float, float, int]:
        """Return work per second let in since the last look, of lower tiers and of all, and how many wait."""
        lower = whole = 0.0
        waiting = 0
        self._gave = GaveWay()
        for number in range(self._settings.gateway.workers):
            answer = ask(self._home.worker_socket(number), "status", timeout_s=0.2)
            told = None if answer is None else answer.get("power")
            if told is None:
                continue  # busy or gone: what it has counted comes with its next answer
            counted = msgspec.convert(told, _Counted)
            before = self._counts.get(number)
            self._counts[number] = counted
            waiting += counted.lower_waiting
            if before is None:
                continue
            if counted.work < before.work:
                before = _NOTHING  # another life of this worker
            lower += counted.lower_work - before.lower_work
            whole += counted.work - before.work
            self._gave = _sum(self._gave, counted, before)
        since_s = now_s - self._counted_s if self._counted_s else 0.0
        self._counted_s = now_s
        return (lower / since_s, whole / since_s, waiting) if since_s > 0.0 else (0.0, 0.0, waiting)

    # ---- orders

    def _write(self, told: Orders, now_s: float, watts: float | None) -> None:
        event = next((one for one in self._governor.events if one.id == told.event), None)
        until_s = None
        if event is not None and event.end_s is not None:
            # To the event's end without us; coming back may take longer, as long as we are there to say so.
            until_s = max(event.end_s + self._settings.flex.rebound_s, now_s + _LAPSE_S)
        with contextlib.suppress(OSError):  # a full disk must not end the supervisor; workers go on as told
            orders_file.write(
                self._home,
                InForce(
                    orders=told,
                    at_s=now_s,
                    until_s=until_s,
                    protected_rank=self._protected,
                    workers=self._settings.gateway.workers,
                    power_w=watts,
                    provenance=self._provenance,
                ),
            )

    # ---- the account

    def _account(self, told: Orders, now_s: float, *, busy: bool) -> None:
        if told.phase == "none":
            if busy and not any(event.ends_s > now_s for event in self._governor.events):
                self._save(at_s=now_s, all=True)
                self._governor.forget(now_s)
                self._reports = {id: one for id, one in self._reports.items() if one.event.ends_s > now_s}
            return
        report = self._reports.get(told.event or "")
        if report is not None:
            self._reports[report.event.id] = msgspec.structs.replace(
                report,
                state=report.state if report.state == "lifted" and told.phase == "recovering" else told.phase,
                least_engine_share=min(report.least_engine_share, told.engine_share),
                infeasible_floor_w=told.floor_w if told.floor_w is not None else report.infeasible_floor_w,
                gave_way=self._priced(report.gave_way),
            )
        if now_s - self._saved_s >= _REPORT_S:
            self._save(at_s=now_s)

    def _save(self, *, at_s: float, all: bool = False) -> None:
        self._saved_s = at_s
        for id, report in list(self._reports.items()):
            event = report.event
            if report.problem is not None or (not all and report.state in ("noticed", "lifts")):
                continue
            end_s = min(event.ends_s, at_s)
            mine = [one for one in self._past if one.at_s >= event.start_s - self._settings.flex.baseline_s]
            # What is drawn once nobody asks for it any more, or while nobody looks, is not this event's.
            held = [one.at_s for one in mine if one.phase == "active" and one.target_w == report.limit_w]
            end_s = min(end_s, held[-1] + _BETWEEN_S if held else event.start_s)
            state = self._state_of(report, at_s, all=all)
            got = self._reached(report, mine, end_s)
            report = msgspec.structs.replace(report, reached=report.reached if got is None else got)
            report = msgspec.structs.replace(report, state=state, at_s=at_s, samples=tuple(merged(mine, 900)))
            self._reports[id] = report
            self._keep(report)

    @staticmethod
    def _reached(report: EventReport, samples: list[Sample], end_s: float) -> Reached | None:
        event, was = report.event, report.reached
        if report.limit_w is None or end_s <= event.start_s:
            return None
        got = reached(
            samples,
            start_s=event.start_s,
            end_s=end_s,
            limit_w=report.limit_w,
            baseline_w=report.baseline_w,
        )
        if got is None or was is None or was.met_after_s is None or was.limit_w != got.limit_w:
            return got
        # To the second, as it was seen: what is remembered of it becomes coarser.
        return msgspec.structs.replace(got, met_after_s=was.met_after_s)

    def _state_of(self, report: EventReport, at_s: float, *, all: bool) -> str:
        """Return where an event is, when it is not the one that steers."""
        event = report.event
        if event.start_s <= at_s < event.ends_s and not event.lifts:
            holds = in_force(self._governor.events, at_s)
            if holds is None:
                return "lifted"
            return report.state if holds.id == event.id else "replaced"
        ended = event.ends_s <= at_s
        if ended and report.state != "lifted":
            recovered = event.ends_s + self._settings.flex.rebound_s <= at_s
            return "over" if all or recovered or self._told.event != event.id else report.state
        return report.state

    def _priced(self, before: GaveWay) -> GaveWay:
        """Return what was given up until now: what is known, and since the last look."""
        now = _sum(before, self._gave, _NOTHING)
        lost: dict[str, int] = {}
        unknown: list[str] = []
        for tier, tok in now.refused_work.items():
            rate = _nusd_per_mtok(self._tiers.get(tier))
            if rate is None:
                unknown.append(tier)
            else:
                lost[tier] = round(tok * rate / TOK_PER_MTOK)
        return msgspec.structs.replace(now, value_lost_nusd=lost, value_unknown=tuple(unknown))

    def _wall_s(self) -> float:
        return self._clock.wall_us() / US_PER_S


class _Counted(msgspec.Struct, frozen=True):
    """What a worker's gate has counted since it began."""

    work: float
    lower_work: float
    refused: dict[str, int]
    refused_work: dict[str, float]
    lower_waiting: int = 0
    held_work: float = 0.0  # of lower tiers that waited while power was short


_NOTHING = _Counted(work=0.0, lower_work=0.0, refused={}, refused_work={})


def _sum(known: GaveWay, counted: _Counted | GaveWay, before: _Counted) -> GaveWay:
    """Return `known` and what was counted since `before`."""
    held = counted.deferred_work if isinstance(counted, GaveWay) else counted.held_work - before.held_work
    refused, work = dict(known.refused), dict(known.refused_work)
    for tier, count in counted.refused.items():
        refused[tier] = refused.get(tier, 0) + count - before.refused.get(tier, 0)
        more = counted.refused_work.get(tier, 0.0) - before.refused_work.get(tier, 0.0)
        work[tier] = work.get(tier, 0.0) + more
    return GaveWay(deferred_work=known.deferred_work + held, refused=refused, refused_work=work)


def _nusd_per_mtok(plan: TierPlan | None) -> int | None:
    """Return what a tier pays per million output tokens, None where that depends on the place."""
    match None if plan is None else plan.price:
        case PerToken(usd_per_mtok=usd):
            return nusd_from_usd(usd)
        case TierRates(output_usd_per_mtok=usd) if usd is not None:
            return nusd_from_usd(usd)
        case _:
            return None
