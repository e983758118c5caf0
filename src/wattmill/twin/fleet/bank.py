"""Many replicas in the compiled engine core, seen from the factory: one clock, one look at what comes next.

The bank tells first tokens and ends in the order of time over all its replicas. Where nothing that it tells
can change what comes before the next arrival, it is let go up to that arrival in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.build import rows_of
from wattmill.twin.engine.live import END, Engine
from wattmill.twin.engine.spec import CERTAIN, EngineLimits, SchedulerKind, StepCost, tokens_per_step
from wattmill.twin.fleet import pool as machines
from wattmill.twin.fleet.spec import Counts, EngineLaw, ProviderLaw, SimPool, Speculation
from wattmill.twin.fleet.timers import Clock
from wattmill.twin.spec import BLOCK_TOK, Broken, Served, StepLaw, Work
from wattmill.units import PS_PER_S

KV_BLOCK_TOK = 16
_COUNTED = [c.DRAWS, c.DRAWN, c.UNDONE, c.VOID_UJ]  # in the order of `Counts`, and then of the links
_OF_LINKS = [c.LINK_SENT, c.LINK_TOK, c.LINK_BUSY, c.LINK_WAIT]


def lowered(
    law: StepLaw, *, slots: int, overhead_ps: int, scheduler: SchedulerKind
) -> tuple[StepCost, EngineLimits]:
    """Return a step law and the limits of a place as the compiled core takes them."""
    cost = StepCost(
        step_ps=(law.step_ps,),
        decode_ps=law.decode_ps,
        context_ps_per_tok=law.kv_ps_per_tok,
        prefill_ps_per_tok=law.prefill_ps_per_tok,
        attention_ps_per_ktok=law.attention_ps_per_ktok,
        overhead_ps=overhead_ps,
    )
    limits = EngineLimits(
        scheduler=scheduler,
        max_num_seqs=slots,
        budget_tok=law.budget_tok,
        kv_blocks=-(-law.kv_tok // KV_BLOCK_TOK) + 1,
        block_tok=KV_BLOCK_TOK,
        prefix_cache=bool(law.cache_blocks),
        prefix_tok=BLOCK_TOK,
    )
    return cost, limits


def speculating(
    law: tuple[StepCost, EngineLimits], speculation: Speculation, seed: int
) -> tuple[StepCost, EngineLimits]:
    """Return the law of a replica that drafts tokens, with room for those that it verifies."""
    cost, limits = law
    verify_tok = 1 + speculation.drafted
    per_step = tokens_per_step(drafted=speculation.drafted, accept=speculation.accept)
    cost = replace(
        cost,
        verify_tok=verify_tok,
        tokens_per_step=per_step,
        accept=speculation.accept if speculation.draws else 0,
        draw_seed=seed % CERTAIN,
    )
    return cost, replace(
        limits,
        budget_tok=max(limits.budget_tok, limits.max_num_seqs * verify_tok + 1),
        kv_blocks=limits.kv_blocks + -(-verify_tok // limits.block_tok),
    )


class Bank:
    """Compiled replicas. `next_ps` is when something happens at any of them next."""

    def __init__(
        self,
        replicas: Sequence[tuple[StepCost, EngineLimits]],
        *,
        clock: Clock,
        on_first: Callable[[int, int], None],
        on_end: Callable[[Served], None],
        prefixes: bool,
        hands_to: Sequence[tuple[range, int] | None] | None = None,
    ) -> None:
        self.engine = Engine(replicas, prefixes=prefixes, hands_to=hands_to)
        self.places = [0] * len(replicas)  # of each replica: the pool that it stands in
        self.cached_tok = [0] * len(replicas)  # found in its cache, by requests that have ended
        self._common = self.engine.common
        self.broken_tok = [0] * len(replicas)  # of prompts that were computed for what broke off
        self._clock = clock
        self._on_first = on_first
        self._on_end = on_end
        s = self.engine.state
        self._new = {
            name: getattr(s, name).copy() for name in ("rep", "tree", "node", "slot", "residue", "heap")
        }

    def replica(self, number: int, place: int) -> BankReplica:
        """Return a replica that has done nothing yet; who was its machine before has left nothing in it."""
        s = self.engine.state
        for name, fresh in self._new.items():
            rows = number if name in ("tree", "node") else rows_of(s, number)
            getattr(s, name)[rows] = fresh[rows]
        self.places[number] = place
        self.cached_tok[number] = self.broken_tok[number] = 0
        return BankReplica(self, number)

    @property
    def next_ps(self) -> int:
        return self._common[c.SOONEST]

    def advance(self, to_ps: int, *, to_news: bool = False) -> None:
        """Let everything happen until `to_ps`, and tell it at its own instant. `to_news`: only until there is
        something to tell."""
        clock, places = self._clock, self.places
        for at_ps, kind, tag, _, number, came_ps, begun_ps, first_ps, cached_tok, _ in self.engine.told(
            to_ps, to_news=to_news
        ):
            clock.now_ps = at_ps
            place = places[number]
            if kind == END:
                if cached_tok:
                    self.cached_tok[number] += cached_tok
                self._on_end(Served(tag, place, came_ps, begun_ps, first_ps, at_ps, cached_tok))
            else:
                self._on_first(tag, place)


class BankReplica:
    """One replica of a bank: implements `pool.Engine`, but for what only the bank can do."""

    def __init__(self, bank: Bank, number: int) -> None:
        self.bank = bank
        self.number = number
        self._take = bank.engine.take
        self._counts_joules = bool(bank.engine.state.law[number, c.POWERS])

    @property
    def in_flight(self) -> int:
        return int(self.bank.engine.load[self.number])

    @property
    def next_ps(self) -> int:
        return int(self.bank.engine.state.next_ps[self.number])

    @property
    def prompt_tok(self) -> int:
        """Prompt tokens computed once, by the core's own counts: what was computed again after a preemption
        is not counted twice. Exact while nothing is under way."""
        rep = self.bank.engine.state.rep[self.number]
        computed = rep[c.COMPUTED] - rep[c.LOST] + rep[c.REUSED] - self.bank.cached_tok[self.number]
        once = computed + rep[c.GIVEN_OUT] - rep[c.COMPLETED] + rep[c.ENDED] - rep[c.ENDED_OUT]
        return int(once) + self.bank.broken_tok[self.number]

    @property
    def output_tok(self) -> int:
        return int(self.bank.engine.state.rep[self.number, c.GIVEN_OUT])

    @property
    def steps_uj(self) -> int:
        return int(self.bank.engine.state.rep[self.number, c.ENERGY])

    def take(self, index: int, work: Work, now_ps: int) -> None:
        self._take(
            index,
            self.number,
            now_ps,
            input_tok=work.input_tok,
            output_tok=work.output_tok,
            max_output_tok=work.max_output_tok,
            prefix=work.blocks,
        )

    def advance(self, to_ps: int) -> None:
        raise RuntimeError("a bank advances all its replicas together")

    def busy_until(self, now_ps: int) -> int:
        rep = self.bank.engine.state.rep[self.number]
        if rep[c.BOUNDARY] == c.NEVER or self._counts_joules:
            return int(rep[c.BUSY])  # of steps that have ended, as their joules are
        return int(rep[c.BUSY] + now_ps - rep[c.FROM])

    def break_off(self, now_ps: int) -> list[Broken]:
        """The machine dies; a step that had not ended, or ends at this instant, made nothing."""
        broken = [Broken(*told) for told in self.bank.engine.break_off(self.number, now_ps)]
        self.bank.broken_tok[self.number] += sum(one.prompt_tok - one.cached_tok for one in broken)
        return broken


class Kept(NamedTuple):
    """What a bank keeps for one pool: machines by number, the first `prefill` of which compute prompts apart,
    and links."""

    place: int
    numbers: range
    prefill: int
    links: range


class Numbers:
    """The replicas of one pool in a bank: implements `pool.Source`."""

    def __init__(self, bank: Bank, kept: Kept) -> None:
        self._bank = bank
        self._place = kept.place
        self._numbers = kept.numbers
        self._links = kept.links
        self._first_decode = kept.numbers.start + kept.prefill
        # Where prompts are computed apart, those that decode are handed over to only once they are `up`.
        self._apart = bool(kept.prefill)
        self._free_prefill = list(kept.numbers[: kept.prefill])[::-1]
        self._free = list(kept.numbers[kept.prefill :])[::-1]
        self._gone = Counts()  # of those that were taken back
        if self._apart:
            for number in self._free:
                bank.engine.down(number)

    def new(self, *, prefill: bool = False, up: bool = True) -> machines.Engine:
        number = (self._free_prefill if prefill else self._free).pop()
        engine = self._bank.replica(number, self._place)
        if self._apart and not up:
            self._bank.engine.down(number)
        return engine

    def done_with(self, engine: machines.Engine) -> None:
        assert isinstance(engine, BankReplica)
        rep = self._bank.engine.state.rep[engine.number]
        counted = (*rep[_COUNTED].tolist(), 0, 0, 0, 0)
        self._gone = Counts(*(gone + here for gone, here in zip(self._gone, counted, strict=True)))
        self._bank.engine.state.rep[engine.number, _COUNTED] = 0
        if self._apart:
            self._bank.engine.down(engine.number)
        (self._free if engine.number >= self._first_decode else self._free_prefill).append(engine.number)

    def down(self, engine: machines.Engine) -> None:
        assert isinstance(engine, BankReplica)
        self._bank.engine.down(engine.number)

    def up(self, engine: machines.Engine, now_ps: int) -> None:
        assert isinstance(engine, BankReplica)
        self._bank.engine.up(engine.number, now_ps)

    @property
    def counts(self) -> Counts:
        s = self._bank.engine.state
        there = s.rep[self._numbers.start : self._numbers.stop][:, _COUNTED].sum(axis=0).tolist()
        there += s.link[self._links.start : self._links.stop][:, _OF_LINKS].sum(axis=0).tolist()
        return Counts(*(gone + here for gone, here in zip(self._gone, there, strict=True)))


def banked(
    pools: Sequence[SimPool],
    *,
    clock: Clock,
    on_first: Callable[[int, int], None],
    on_end: Callable[[Served], None],
    prefixes: bool,
    seed: int = 0,
) -> tuple[Bank | None, dict[str, machines.Source]]:
    """Return a bank, and by pool where its engines are in it: of all owned pools."""
    laws: list[tuple[StepCost, EngineLimits]] = []
    hands_to: list[tuple[range, int] | None] = []
    kept: list[tuple[SimPool, Kept]] = []
    links = 0
    for place, pool in enumerate(pools):
        if isinstance(pool.law, ProviderLaw):
            continue
        if isinstance(pool.law, EngineLaw):
            law = pool.law.cost, pool.law.limits
        else:
            overhead_ps = round(pool.overhead_s * PS_PER_S)
            law = lowered(pool.law, slots=pool.slots, overhead_ps=overhead_ps, scheduler=pool.scheduler)
        if pool.speculation is not None:
            law = speculating(law, pool.speculation, seed)
        prefill, most = _most(pool)
        numbers = range(len(laws), len(laws) + most)
        used = range(links, links)
        to: list[tuple[range, int] | None] = [None] * most
        split = pool.disaggregation
        if split is not None:
            used = range(links, links + (1 if split.shared_link else prefill))
            decode = range(numbers.start + prefill, numbers.stop)
            to[:prefill] = [(decode, links if split.shared_link else links + n) for n in range(prefill)]
            cost = replace(
                law[0], handover_ps=split.handover_ps, handover_ps_per_tok=split.handover_ps_per_tok
            )
            law = cost, law[1]
        links = used.stop
        kept.append((pool, Kept(place, numbers, prefill, used)))
        laws += [law] * most
        hands_to += to
    if not laws:
        return None, {}
    bank = Bank(
        laws,
        clock=clock,
        on_first=on_first,
        on_end=on_end,
        prefixes=prefixes,
        hands_to=hands_to if any(hands_to) else None,
    )
    return bank, {pool.name: Numbers(bank, its) for pool, its in kept}


def _most(pool: SimPool) -> tuple[int, int]:
    """Return how many machines are kept for a pool: those that compute prompts apart, and all.

    While some are ending, others may start: twice as many of each kind as there may ever be.
    """
    split, rules = pool.disaggregation, pool.scaling
    there = pool.replicas
    if split is None:
        return 0, there if rules is None else 2 * max(there, rules.most)
    prefill, decode = split.prefill, there - split.prefill
    if split.scaling is not None:
        prefill = 2 * max(prefill, split.scaling.most)
        decode = decode if rules is None else 2 * max(decode, rules.most)
    elif rules is not None:
        most = max(there, rules.most)
        prefill = 2 * split.prefill_of(most, there)
        decode = 2 * (most - split.prefill_of(most, there))
    return prefill, prefill + decode
