"""The machines behind one pool: replicas that start, serve, fail and end, what they draw and cost."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from wattmill.scheduling.scaling.spec import PoolLoad
from wattmill.scheduling.spec import Pool as DeclaredPool
from wattmill.twin.fleet.model import cold_start_s, hours_nusd
from wattmill.twin.fleet.provider import Provider
from wattmill.twin.fleet.spec import Counts, EngineLaw, Power, ProviderLaw, SimPool
from wattmill.twin.fleet.timers import Clock, Timers
from wattmill.twin.place import BatchPlace
from wattmill.twin.spec import Broken, Place, Served, Work
from wattmill.units import PS_PER_S, UJ_PER_J

State = Literal["starting", "ready", "down", "ending", "ended"]


class Engine(Protocol):
    """One replica's engine. It tells first tokens and ends by the two calls that it was made with."""

    @property
    def in_flight(self) -> int: ...

    @property
    def next_ps(self) -> int:
        """When something happens here next."""

    @property
    def prompt_tok(self) -> int:
        """Computed until now, by its own count."""

    @property
    def output_tok(self) -> int: ...

    @property
    def steps_uj(self) -> int:
        """Microjoules of the steps that have ended, by its own law; 0 where that says nothing of them."""

    def take(self, index: int, work: Work, now_ps: int) -> None: ...
    def advance(self, to_ps: int) -> None: ...
    def busy_until(self, now_ps: int) -> int: ...
    def break_off(self, now_ps: int) -> list[Broken]: ...


class Source(Protocol):
    """Where replicas get their engines."""

    def new(self, *, prefill: bool = False, up: bool = True) -> Engine:
        """Return an engine that has done nothing yet. `prefill`: one that computes prompts and hands them
        over. Not `up`: one that others hand nothing over to until it is."""

    def done_with(self, engine: Engine) -> None:
        """Take back one that is idle; it is asked no more."""

    def down(self, engine: Engine) -> None:
        """It has failed, or is to end: others hand nothing over to it until it is `up`."""

    def up(self, engine: Engine, now_ps: int) -> None: ...

    @property
    def counts(self) -> Counts:
        """What its engines have counted until now."""


OnFirst = Callable[[int, int], None]
OnEnd = Callable[[Served], None]
OnBroken = Callable[[Broken], None]


class Replica:
    """One machine, or one provider."""

    __slots__ = ("asked_ps", "ended_ps", "engine", "number", "on_ps", "prefill", "since_ps", "state")

    def __init__(self, number: int, engine: Engine, state: State, now_ps: int, *, prefill: bool) -> None:
        self.number = number
        self.prefill = prefill  # computes prompts and hands them over
        self.engine = engine
        self.state: State = state
        self.asked_ps = now_ps
        self.ended_ps: int | None = None  # None: it is still paid for
        self.since_ps = now_ps  # until here `on_ps` was counted
        self.on_ps = 0  # time under power


class Joules:
    """What a pool drew since it was last asked, in whole microjoules."""

    __slots__ = ("dynamic_uj", "idle_uj")

    def __init__(self) -> None:
        self.idle_uj = 0
        self.dynamic_uj = 0


class RunningPool:
    """One pool of the simulated factory."""

    def __init__(
        self,
        at: int,
        spec: SimPool,
        declared: DeclaredPool,
        *,
        clock: Clock,
        timers: Timers,
        on_first: OnFirst,
        on_end: OnEnd,
        on_broken: OnBroken,
        on_change: Callable[[], None],
        seed: int,
        source: Source | None = None,
    ) -> None:
        """`source` has engines for new replicas; None: each is simulated by itself, as `spec.law` says."""
        self.at = at
        self.spec = spec
        self.name = spec.name
        self.replicas: list[Replica] = []
        # Those that take what comes: all, or where prompts are computed apart, the machines that do it.
        self._takers = self.replicas if spec.disaggregation is None else list[Replica]()
        self.ended: list[Replica] = []
        self._numbers = 0
        self.down = False  # the whole pool, for a declared span
        self._gone_tok = (0, 0)  # by the count of engines that have ended
        self.cold_starts = 0
        self.failures = 0
        self._declared = declared
        self._clock = clock
        self._timers = timers
        self._on_first = on_first
        self._on_end = on_end
        self._on_broken = on_broken
        self._on_change = on_change
        self._rng = random.Random(seed)
        self._seed = seed
        self._source = source
        self._busy_ps = 0  # counted into joules until now
        self._gone_busy_ps = 0  # of replicas that ended
        self._gone_steps_uj = 0
        self._steps_uj = 0  # counted into joules until now
        self._token_uj = 0.0  # by the law of joules per token, not told yet
        self.drawn = Joules()  # since the beginning
        self._told = Joules()
        prefill = 0 if spec.disaggregation is None else spec.disaggregation.prefill
        for n in range(spec.replicas):
            self._add("ready", prefill=n < prefill)
        for begin_s, end_s in spec.outages.spans_s:
            timers.call_later(begin_s, self._outage)
            timers.call_later(end_s, self._outage_over)

    # ---- requests

    @property
    def banked(self) -> bool:
        """Whether its engines go together with others', and not each by itself."""
        return self._source is not None

    @property
    def ready(self) -> int:
        return sum(replica.state == "ready" for replica in self.replicas)

    @property
    def in_flight(self) -> int:
        return sum(replica.engine.in_flight for replica in self.replicas)

    @property
    def connects(self) -> bool:
        """Whether somebody answers at its address."""
        if not self.down:
            for replica in self._takers:
                if replica.state == "ready":
                    return True
        return False

    def refuses(self, work: Work) -> float | None:
        """Return when to come back if a provider's limit is reached, else None."""
        engine = self.replicas[0].engine
        return engine.refuses(work, self._clock.now_ps) if isinstance(engine, Provider) else None

    def take(self, index: int, work: Work) -> None:
        """Send to the replica with the fewest requests; of equals to the first. One must be ready."""
        takers = self._takers
        best = takers[0]
        if len(takers) > 1:
            best = min(
                (replica for replica in takers if replica.state == "ready"),
                key=lambda replica: (replica.engine.in_flight, replica.number),
            )
        best.engine.take(index, work, self._clock.now_ps)

    def load(self, waiting: int, *, prefill: bool | None = None) -> PoolLoad:
        """Return how it is, or how the replicas of one kind are, where prompts are computed apart."""
        of = [r for r in self.replicas if prefill is None or r.prefill == prefill]
        return PoolLoad(
            ready=sum(r.state == "ready" for r in of),
            starting=sum(r.state == "starting" for r in of),
            slots=self.spec.slots,
            in_flight=sum(r.engine.in_flight for r in of),
            waiting=waiting,
        )

    # ---- replicas come and go

    def resize(self, replicas: int) -> None:
        """Start or end replicas until there will be so many. Where prompts are computed apart, the part of
        those that do it stays as it was declared."""
        split = self.spec.disaggregation
        if split is None:
            self.resize_kind(replicas, prefill=False)
            return
        prefill = split.prefill_of(replicas, self.spec.replicas)
        self.resize_kind(prefill, prefill=True)
        self.resize_kind(replicas - prefill, prefill=False)

    def resize_kind(self, replicas: int, *, prefill: bool) -> None:
        """Start or end replicas of a kind until there will be so many. Those that start are ended first, then
        the ones with the least to do; what they are at is finished, and nothing more is handed to them."""
        there = [r for r in self.replicas if r.prefill == prefill and r.state in ("starting", "ready")]
        for _ in range(replicas - len(there)):
            self.cold_starts += 1
            replica = self._add("starting", prefill=prefill)
            self._timers.call_later(cold_start_s(self.spec.cold_start), self._started, replica)
        order = sorted(there, key=lambda r: (r.state == "ready", r.engine.in_flight, -r.number))
        for replica in order[: max(0, len(there) - replicas)]:
            replica.state = "ending"
            if self._apart:
                self._apart.down(replica.engine)
            self._end_if_idle(replica)
        self._on_change()

    @property
    def ending(self) -> bool:
        return any(replica.state == "ending" for replica in self.replicas)

    def tend(self) -> None:
        """Let replicas end that were asked to and have nothing left to do."""
        for replica in [r for r in self.replicas if r.state == "ending"]:
            self._end_if_idle(replica)

    @property
    def _apart(self) -> Source | None:
        """Where its engines come from, if some of them hand over to others."""
        return None if self.spec.disaggregation is None else self._source

    def _add(self, state: State, *, prefill: bool) -> Replica:
        law, now_ps = self.spec.law, self._clock.now_ps
        self._numbers += 1
        engine: Engine
        if self._source is not None:
            engine = self._source.new(prefill=prefill, up=state == "ready")
        elif isinstance(law, EngineLaw) or self.spec.speculation or self.spec.disaggregation:
            what = "a deployment's law" if isinstance(law, EngineLaw) else "what its twin declares"
            raise ValueError(
                f"pool {self.name!r}: {what} is played by the compiled core, which needs numba: "
                "pip install 'wattmill[twin]'"
            )
        elif isinstance(law, ProviderLaw):
            engine = Provider(self.at, law, self._on_first, self._on_end, seed=self._seed)
        else:
            place = Place(pool=self._declared, law=law, overhead_ps=round(self.spec.overhead_s * PS_PER_S))
            engine = BatchPlace(self.at, place, self._on_first, self._on_end)
        replica = Replica(self._numbers, engine, state, now_ps, prefill=prefill)
        self.replicas.append(replica)
        if prefill:
            self._takers.append(replica)
        if state == "ready":
            self._may_fail(replica)
        return replica

    def _started(self, replica: Replica) -> None:
        if replica.state == "starting":
            replica.state = "ready"
            if self._apart:
                self._apart.up(replica.engine, self._clock.now_ps)
            self._may_fail(replica)
            self._on_change()

    def _end_if_idle(self, replica: Replica) -> None:
        if not replica.engine.in_flight:
            self._count_power()
            engine = replica.engine
            self._gone_busy_ps += engine.busy_until(self._clock.now_ps)
            self._gone_steps_uj += engine.steps_uj
            self._gone_tok = (self._gone_tok[0] + engine.prompt_tok, self._gone_tok[1] + engine.output_tok)
            replica.state = "ended"
            replica.ended_ps = self._clock.now_ps
            self.replicas.remove(replica)
            if replica.prefill:
                self._takers.remove(replica)
            self.ended.append(replica)
            if self._source is not None:
                self._source.done_with(engine)
            self._on_change()

    # ---- failures

    def _may_fail(self, replica: Replica) -> None:
        mtbf_s = self.spec.outages.mtbf_s
        if mtbf_s is not None:
            self._timers.call_later(self._rng.expovariate(1.0 / mtbf_s), self._fail, replica)

    def _fail(self, replica: Replica) -> None:
        if replica.state not in ("ready", "ending"):
            return
        self.failures += 1
        self._break(replica)
        if replica.state == "ending":
            self._end_if_idle(replica)
            return
        replica.state = "down"
        if self._source is not None:
            self._source.down(replica.engine)
        self._timers.call_later(
            self._rng.expovariate(1.0 / self.spec.outages.mttr_s), self._repaired, replica
        )
        self._on_change()

    def _repaired(self, replica: Replica) -> None:
        self._count_power()
        replica.state = "ready"
        if self._source is not None:
            self._source.up(replica.engine, self._clock.now_ps)
        self._may_fail(replica)
        self._on_change()

    def _outage(self) -> None:
        self.down = True
        self.failures += 1
        for replica in self.replicas:
            self._break(replica)

    def _outage_over(self) -> None:
        self.down = False

    def _break(self, replica: Replica) -> None:
        self._count_power()
        for broken in replica.engine.break_off(self._clock.now_ps):
            self._on_broken(broken)

    # ---- power and money

    @property
    def counted_tok(self) -> tuple[int, int]:
        """Prompt tokens computed and output tokens made, as its engines count them."""
        prompt, output = self._gone_tok
        return (
            prompt + sum(r.engine.prompt_tok for r in self.replicas),
            output + sum(r.engine.output_tok for r in self.replicas),
        )

    @property
    def counts(self) -> Counts | None:
        """What its compiled engines have counted; None: it has none."""
        return None if self._source is None else self._source.counts

    def made(self, computed_tok: int, output_tok: int) -> None:
        """Take down the joules of what its engines did for one request."""
        power = self.spec.power
        if power is not None and (power.j_per_in_tok or power.j_per_out_tok):
            joules = power.j_per_in_tok * computed_tok + power.j_per_out_tok * output_tok
            self._token_uj += joules * UJ_PER_J

    def joules(self) -> Joules:
        """Return what it drew since this was last asked."""
        self._count_power()
        now = Joules()
        now.idle_uj = self.drawn.idle_uj - self._told.idle_uj
        now.dynamic_uj = self.drawn.dynamic_uj - self._told.dynamic_uj
        self._told.idle_uj, self._told.dynamic_uj = self.drawn.idle_uj, self.drawn.dynamic_uj
        return now

    def _count_power(self) -> None:
        now_ps, power = self._clock.now_ps, self.spec.power
        busy_ps, steps_uj = self._gone_busy_ps, self._gone_steps_uj
        for replica in self.replicas:
            if replica.state != "down":
                replica.on_ps += now_ps - replica.since_ps
                if power is not None:
                    self.drawn.idle_uj += _uj(power.idle_w, now_ps - replica.since_ps)
            replica.since_ps = now_ps
            busy_ps += replica.engine.busy_until(now_ps)
            steps_uj += replica.engine.steps_uj
        if power is not None:
            busy = busy_ps - self._busy_ps
            if power.by_batch:
                self.drawn.dynamic_uj += steps_uj - self._steps_uj - _uj(power.idle_w, busy)
            else:
                self.drawn.dynamic_uj += _uj(power.busy_w - power.idle_w, busy)
            whole = int(self._token_uj)
            self.drawn.dynamic_uj += whole
            self._token_uj -= whole
        self._busy_ps, self._steps_uj = busy_ps, steps_uj

    @property
    def drawn_uj(self) -> int:
        """What it drew since the beginning, in microjoules."""
        self._count_power()
        return self.drawn.idle_uj + self.drawn.dynamic_uj

    @property
    def busy_ps(self) -> int:
        """Time in which steps ran, over all replicas."""
        now_ps = self._clock.now_ps
        return self._gone_busy_ps + sum(r.engine.busy_until(now_ps) for r in self.replicas)

    @property
    def paid_ps(self) -> int:
        """Replica time that is paid for: from the order of a replica until its end, repairs included."""
        return self._paid_ps((*self.replicas, *self.ended))

    @property
    def prefill_ps(self) -> int:
        """The same of those that compute prompts and hand them over; each of them has a link."""
        return self._paid_ps([r for r in (*self.replicas, *self.ended) if r.prefill])

    def _paid_ps(self, of: Sequence[Replica]) -> int:
        now_ps = self._clock.now_ps
        return sum((now_ps if r.ended_ps is None else r.ended_ps) - r.asked_ps for r in of)

    @property
    def hours_nusd(self) -> int | None:
        """What its hours and its energy cost; None: a bought place, or nobody declared it."""
        if self.spec.hours is None:
            return None
        return hours_nusd(self.spec.hours, self.paid_ps, self.drawn_uj)


def _uj(watts: float, ps: int) -> int:
    return round(watts * ps / PS_PER_S * UJ_PER_J)


def provenance_of(power: Power | None) -> str:
    return "unknown" if power is None else power.origin.provenance
