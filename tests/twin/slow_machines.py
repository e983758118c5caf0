"""Several of the slow engines, and machines that fail: whatever comes next happens, one thing at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from slow_engine import Engine, Guest, Slot, mixed

from wattmill.twin.engine.experiment import Failures
from wattmill.twin.engine.spec import EngineLimits, StepCost

US_PS = 1_000_000
REPAIRED, ARRIVES, COMES, ENDS, FAILS = range(5)  # what happens at one instant, in this order


@dataclass
class Machine:
    cost: StepCost
    limits: EngineLimits
    prefill_only: bool = False
    link: int = 0
    engine: Engine = field(init=False)
    changes_ps: int = -1
    down: bool = False
    drawn: int = 0
    failures: int = 0
    down_ps: int = 0
    # Of engines that died here.
    busy_ps: int = 0
    steps: int = 0
    void_tok: int = 0

    def __post_init__(self) -> None:
        self.boot()

    def boot(self) -> None:
        self.engine = Engine(self.cost, self.limits)
        self.engine.prefill_only = self.prefill_only
        self.engine.slots = [Slot() for _ in range(self.limits.max_num_seqs)]

    @property
    def load(self) -> int:
        return len(self.engine.waiting) + len(self.engine.running)

    def begin(self, now: int) -> None:
        self.engine.now = now
        self.engine.begin()

    def die(self, now: int) -> list[Guest]:
        """Return who was there, without what it had. Of what was in flight nothing came but its time."""
        engine = self.engine
        guests = sorted([*engine.waiting, *engine.running], key=lambda g: g.index)
        self.busy_ps += engine.busy_ps + sum(batch.worked_ps(now) for batch in engine.flying)
        self.steps += engine.steps
        self.boot()
        for guest in guests:
            self.void_tok += guest.given_tok
            guest.target_tok, guest.there_tok, guest.given_tok = guest.input_tok, 0, 0
            guest.sent_tok = 0
            guest.joined_clock, guest.nodes, guest.slot, guest.handed = -1, 0, -1, False
            guest.begun_ps = guest.first_ps = guest.cached_tok = -1
            guest.broke += 1
        return guests


def lasts_ps(mean_s: float, seed: int, machine: int, drawn: int) -> int:
    luck = (mixed(mixed(seed, machine), drawn) // 512 + 1) / 2**53
    return max(1, int(-math.log(luck) * round(mean_s * 1e6))) * US_PS


def walked(machines: list[Machine], guests: list[Guest], fails: Failures | None) -> None:
    """Play `guests` to their end; each goes to the machine with the fewest, of those that are up."""
    takers = [machine for machine in machines if machine.prefill_only] or machines
    decoders = [machine for machine in machines if not machine.prefill_only]
    links: dict[int, int] = {}  # when each is free
    sent: list[tuple[int, Guest, Machine]] = []  # (instant at which it is over there, who, from where)
    coming = [(guest.here_ps, 0, guest) for guest in guests]  # (instant, 1 if it comes again, who)
    for guest in guests:
        guest.target_tok = guest.input_tok
    if fails is not None:
        for number, machine in enumerate(machines):
            machine.changes_ps = lasts_ps(fails.mtbf_s, fails.seed, number, 0)
            machine.drawn = 1
    while coming or any(machine.load for machine in machines):
        happens = [(at_ps, COMES, again, guest.index) for at_ps, again, guest in coming]
        happens += [(at_ps, ARRIVES, guest.index, guest.index) for at_ps, guest, _ in sent]
        for number, machine in enumerate(machines):
            if machine.engine.ends_ps >= 0:
                happens.append((machine.engine.ends_ps, ENDS, number, 0))
            if fails is not None:
                happens.append((machine.changes_ps, REPAIRED if machine.down else FAILS, number, 0))
        now, kind, number, index = min(happens)
        if kind == COMES:
            entry = next(e for e in coming if e[2].index == index)
            coming.remove(entry)
            up = [machine for machine in takers if not machine.down]
            if up:
                least = min(up, key=lambda machine: machine.load)
                least.engine.waiting.append(entry[2])
            else:
                coming.append((min(m.changes_ps for m in machines if m.down), 1, entry[2]))
        elif kind == ARRIVES:
            parcel = next(p for p in sent if p[1].index == index)
            sent.remove(parcel)
            _, guest, source = parcel
            up = [machine for machine in decoders if not machine.down]
            if up:
                source.engine.running.remove(guest)
                source.engine.let_go(guest)
                source.engine.full = False
                min(up, key=lambda machine: machine.load).engine.waiting.append(guest)
            else:
                sent.append((min(m.changes_ps for m in machines if m.down), guest, source))
        elif kind == ENDS:
            machine = machines[number]
            machine.engine.finish()
            for guest in machine.engine.leaving:
                begins = max(now, links.get(machine.link, 0))
                bytes_ps = machine.cost.handover_ps_per_tok * guest.input_tok
                links[machine.link] = begins + machine.cost.handover_ps + bytes_ps
                sent.append((links[machine.link], guest, machine))
            machine.engine.leaving.clear()
        else:
            machine = machines[number]
            machine.down = kind == FAILS
            assert fails is not None
            lasts = lasts_ps(
                fails.mttr_s if machine.down else fails.mtbf_s, fails.seed, number, machine.drawn
            )
            machine.drawn += 1
            machine.changes_ps = now + lasts
            if machine.down:
                machine.failures += 1
                machine.down_ps += lasts
                sent = [parcel for parcel in sent if parcel[2] is not machine]
                for guest in machine.die(now):
                    guest.lost = guest.broke == fails.tries
                    if not guest.lost:
                        coming.append((now, 1, guest))
        if not any(at_ps == now for at_ps, _, _ in (*coming, *sent)):
            for machine in machines:
                machine.begin(now)
