"""A second simulator of one engine: slow and obvious, one step and one token at a time.

It shares nothing with `wattmill.twin.engine` but the declaration: lists and dictionaries, no jumps, no heap,
no running sums, every block counted anew in every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from wattmill.twin.engine.spec import CERTAIN, ONE, EngineLimits, StepCost


def mixed(seed: int, index: int) -> int:
    """Return 62 bits of a seed and an index: splitmix64 with halved constants, in 64 bits without a sign."""
    whole = (1 << 64) - 1
    z = (seed * 0x1E3779B97F4A7C15 + (index + 1) * 0x3C6EF372FE94F82B) & whole
    z = (z ^ (z >> 30)) * 0x3F58476D1CE4E5B9 & whole
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * 0x14D049BB133111EB & whole
    return (z ^ (z >> 31)) & (1 << 62) - 1


@dataclass(eq=False)
class Guest:
    index: int
    here_ps: int
    input_tok: int
    output_tok: int
    asked_tok: int
    ids: tuple[int, ...] = ()
    target_tok: int = 0  # whose memory must be there before it decodes
    there_tok: int = 0  # whose memory is there
    sent_tok: int = 0  # whose memory is there, or computed by a batch in flight
    given_tok: int = 0
    joined_clock: int = -1  # -1: does not decode
    lane: int = 0  # with which batch it decodes
    nodes: int = 0  # leading ids that it uses in the cache
    slot: int = -1
    begun_ps: int = -1
    first_ps: int = -1
    end_ps: int = -1
    cached_tok: int = -1
    preemptions: int = 0
    broke: int = 0  # how many machines died with it
    lost: bool = False
    handed: bool = False  # its prompt is complete, and somebody else is to decode it

    @property
    def decodes(self) -> bool:
        return self.joined_clock >= 0


@dataclass(eq=False)
class Batch:
    """What is in flight. Of an engine without a pipeline: its step."""

    lane: int
    chunks: list[tuple[Guest, int]]
    decodes: bool
    decoding: list[Guest]
    took_ps: int  # at each stage
    left_ps: list[int]  # when it leaves each stage
    blocks: int  # that those who decode in it have got for what they will be given

    @property
    def ends_ps(self) -> int:
        return self.left_ps[-1]

    def worked_ps(self, now: int) -> int:
        """Return how long it was worked on until `now`, in the mean of the stages."""
        worked = [min(max(now - left + self.took_ps, 0), self.took_ps) for left in self.left_ps]
        return sum(worked) // len(self.left_ps)


@dataclass
class Slot:
    guest: Guest | None = None
    ids: tuple[int, ...] = ()
    used_ps: int = 0


@dataclass
class Engine:
    cost: StepCost
    limits: EngineLimits
    now: int = 0
    steps: int = 0
    busy_ps: int = 0
    lane: int = 0  # which batch's turn it is
    came_out: int = -1  # whose batch came out, and has not gone on
    lane_steps: dict[int, int] = field(default_factory=dict)  # of each: steps in which it decoded
    waiting: list[Guest] = field(default_factory=list)
    running: list[Guest] = field(default_factory=list)  # in order of admission
    users: dict[int, int] = field(default_factory=dict)  # prefix id: how many use it
    idle: list[int] = field(default_factory=list)  # ids that nobody uses, the first to go first
    slots: list[Slot] = field(default_factory=list)
    ratio: int = round(0.7 * ONE)
    full: bool = False
    most_blocks: int = 0
    flying: list[Batch] = field(default_factory=list)  # the first to end first
    left_ps: list[int] = field(default_factory=list)  # when the batch before left each stage
    prefill_only: bool = False
    leaving: list[Guest] = field(default_factory=list)  # whose prompts the last step completed

    @property
    def ends_ps(self) -> int:
        """When the batch ends that is next, -1: none is in flight."""
        return self.flying[0].ends_ps if self.flying else -1

    @property
    def decode_steps(self) -> int:
        return self.lane_steps.get(self.lane, 0)

    def ready(self) -> list[Guest]:
        """Return who decodes with the batch whose turn it is, and is not in flight."""
        away = [guest for batch in self.flying for guest in batch.decoding]
        return [g for g in self.running if g.decodes and g.lane == self.lane and g not in away]

    def prompts(self) -> list[Guest]:
        """Return those of whose prompts something is still to be sent off."""
        return [g for g in self.running if not g.decodes and not g.handed and g.sent_tok < g.target_tok]

    def in_flight(self, guest: Guest) -> bool:
        return any(guest in b.decoding or guest in [g for g, _ in b.chunks] for b in self.flying)

    # Memory.
    def clock(self) -> int:
        """Return how many tokens a request that decoded from the first step on would have: none where each
        one's are drawn."""
        return 0 if self.cost.accept else self.decode_steps * self.cost.tokens_per_step // ONE

    def own_blocks(self, guest: Guest) -> int:
        kind, size = self.limits.scheduler, self.limits.block_tok
        if kind == "llamacpp":
            return 0
        tokens = guest.input_tok + guest.asked_tok if kind == "trtllm" else guest.there_tok
        if kind != "trtllm" and not guest.decodes:
            tokens = guest.target_tok  # a prompt's blocks are taken when it is admitted
        return -(-tokens // size) - guest.nodes * (self.limits.prefix_tok // size)

    def used(self) -> int:
        tree = len(self.users) * (self.limits.prefix_tok // self.limits.block_tok)
        flying = sum(batch.blocks for batch in self.flying)
        return sum(self.own_blocks(guest) for guest in self.running) + tree + flying

    def room(self) -> int:
        idle = len(self.idle) * (self.limits.prefix_tok // self.limits.block_tok)
        return self.limits.kv_blocks - self.used() + idle

    def make_room(self, need: int) -> None:
        while self.limits.kv_blocks - self.used() < need:
            del self.users[self.idle.pop(0)]

    def keep(self, guest: Guest, tokens: int) -> None:
        if not self.limits.prefix_cache or self.limits.scheduler == "llamacpp":
            return
        for key in guest.ids[guest.nodes : tokens // self.limits.prefix_tok]:
            self.use(key)
            guest.nodes += 1

    def use(self, key: int) -> None:
        if key in self.idle:
            self.idle.remove(key)
        self.users[key] = self.users.get(key, 0) + 1

    def let_go(self, guest: Guest, *, ids: tuple[int, ...] = ()) -> None:
        for key in reversed(guest.ids[: guest.nodes]):
            self.users[key] -= 1
            if self.users[key] == 0:
                self.idle.append(key)
        guest.nodes = 0
        if guest.slot >= 0:
            self.slots[guest.slot] = Slot(None, ids, self.now)
            guest.slot = -1

    # Who runs.
    def cacheable(self, guest: Guest) -> tuple[int, ...]:
        if not self.limits.prefix_cache:
            return ()
        return guest.ids[: (guest.target_tok - 1) // self.limits.prefix_tok]

    def start(self, guest: Guest, found: int) -> None:
        self.waiting.remove(guest)
        if guest.handed:
            guest.handed, guest.joined_clock, guest.lane = False, self.clock(), self.lane
            guest.there_tok = guest.sent_tok = guest.target_tok
            self.decoders.append(guest)
            self.running.append(guest)
            return
        guest.there_tok = guest.sent_tok = found * self.limits.prefix_tok
        if guest.begun_ps < 0:
            guest.begun_ps, guest.cached_tok = self.now, guest.there_tok
        self.running.append(guest)

    def admit(self, guest: Guest, left: int) -> bool:
        found = 0
        for key in self.cacheable(guest):
            if key not in self.users:
                break
            found += 1
        computes = not guest.handed
        if (
            computes
            and not self.limits.chunked_prefill
            and guest.target_tok - found * self.limits.prefix_tok > left
        ):
            return False
        whole = self.limits.scheduler == "trtllm"
        tokens = guest.input_tok + guest.asked_tok if whole else guest.target_tok
        unit = self.limits.prefix_tok // self.limits.block_tok
        need = -(-tokens // self.limits.block_tok) - found * unit
        if guest.handed and self.limits.scheduler == "vllm":
            need += self.first_growth(guest)
        would_be_pinned = [key for key in guest.ids[:found] if key in self.idle]
        if need > self.room() - len(would_be_pinned) * unit:
            return False
        for key in guest.ids[:found]:
            self.use(key)
        self.make_room(need)
        if guest.handed and self.limits.scheduler == "vllm":
            self.promise(self.first_growth(guest))
        guest.nodes = found
        self.start(guest, found)
        return True

    def take_slot(self, guest: Guest) -> None:
        def same(slot: Slot) -> int:
            count = 0
            for mine, theirs in zip(self.cacheable(guest), slot.ids, strict=False):
                if mine != theirs:
                    break
                count += 1
            return count

        free = [i for i, slot in enumerate(self.slots) if slot.guest is None]
        chosen = max(free, key=lambda i: (same(self.slots[i]), -i))
        if same(self.slots[chosen]) * self.limits.prefix_tok * 10 <= guest.target_tok:
            chosen = min(free, key=lambda i: (self.slots[i].used_ps, i))
        found = same(self.slots[chosen])
        self.slots[chosen] = Slot(guest)
        guest.slot = chosen
        self.start(guest, found)

    def take_back(self, guest: Guest) -> None:
        self.running.remove(guest)
        self.let_go(guest)
        guest.target_tok = guest.input_tok + guest.given_tok
        guest.there_tok, guest.sent_tok, guest.joined_clock = 0, 0, -1
        guest.preemptions += 1
        if self.limits.scheduler == "sglang":
            self.waiting.append(guest)
        else:
            self.waiting.insert(0, guest)

    def wanted(self) -> int:
        """Return the blocks that decoding requests need for the next step."""
        if self.limits.scheduler in ("trtllm", "llamacpp"):
            return 0
        if self.cost.accept:
            return self.tokens_to_blocks(self.cost.verify_tok)  # all that may be accepted
        return self.tokens_to_blocks(self.next_tokens())

    def next_tokens(self) -> int:
        return (self.decode_steps + 1) * self.cost.tokens_per_step // ONE - self.clock()

    def first_growth(self, guest: Guest) -> int:
        """Return the blocks that the first step of one who decodes at once takes besides its prompt's."""
        more = self.cost.verify_tok if self.cost.accept else self.next_tokens()
        size = self.limits.block_tok
        return -(-(guest.target_tok + more) // size) - -(-guest.target_tok // size)

    promised: int = 0

    def promise(self, blocks: int) -> None:
        """What decoding requests will take in this step is not there for newcomers."""
        self.promised += blocks
        self.limits = msgspec.structs.replace(self.limits, kv_blocks=self.limits.kv_blocks - blocks)

    def tokens_to_blocks(self, more: int) -> int:
        size = self.limits.block_tok
        return sum(
            -(-(guest.there_tok + more) // size) - -(-guest.there_tok // size) for guest in self.ready()
        )

    def plan(self) -> tuple[list[tuple[Guest, int]], bool]:
        """Return the prompt tokens of the next step by guest, and whether decoding requests take part."""
        if self.limits.scheduler == "sglang":
            chunks = self.prompts_alone()
            if chunks:
                return chunks, False
            self.retract()
            self.make_room(self.wanted())
            return [], True
        evicted = False
        if self.limits.scheduler == "vllm":
            while self.wanted() > self.room():
                self.take_back([guest for guest in self.running if not self.in_flight(guest)][-1])
                evicted = True
        self.make_room(self.wanted())
        promised = self.wanted()
        if self.limits.scheduler == "llamacpp":
            while self.waiting and len(self.running) < self.limits.max_num_seqs:
                self.take_slot(self.waiting[0])
        left = self.limits.budget_tok - self.cost.verify_tok * len(self.ready())
        chunks = []
        prompts = self.prompts()
        if self.limits.scheduler == "llamacpp":
            prompts.sort(key=lambda guest: guest.slot)
        stuck = False
        for guest in prompts:
            tokens = min(left, guest.target_tok - guest.sent_tok)
            if tokens <= 0 or (
                not self.limits.chunked_prefill and tokens < guest.target_tok - guest.sent_tok
            ):
                stuck = True
                break
            chunks.append((guest, tokens))
            left -= tokens
        if evicted or stuck or self.limits.scheduler == "llamacpp":
            return chunks, True
        self.promise(promised)
        while left > 0 and self.waiting and len(self.running) < self.limits.max_num_seqs:
            guest = self.waiting[0]
            if not self.admit(guest, left):
                break
            if guest.decodes:
                left -= self.cost.verify_tok
                continue
            tokens = min(left, guest.target_tok - guest.sent_tok)
            chunks.append((guest, tokens))
            left -= tokens
        self.promise(-self.promised)
        return chunks, True

    def prompts_alone(self) -> list[tuple[Guest, int]]:
        left = self.limits.budget_tok
        chunks = []
        most = max(1, self.limits.max_num_seqs // self.cost.stages)  # in one batch
        here = len(self.ready()) + len(self.prompts())
        for guest in self.prompts():
            tokens = min(left, guest.target_tok - guest.sent_tok)
            if tokens:
                chunks.append((guest, tokens))
            left -= tokens
        if self.full:
            return chunks
        ahead = sum(min(g.asked_tok - g.given_tok, 4_096) for g in self.ready())
        ahead = ahead * self.ratio // ONE
        while left > 0 and self.waiting and len(self.running) < self.limits.max_num_seqs and here < most:
            here += 1
            guest = self.waiting[0]
            found = 0
            for key in self.cacheable(guest):
                if key not in self.users:
                    break
                found += 1
            pinned = sum(key in self.idle for key in guest.ids[:found])
            unit = self.limits.prefix_tok // self.limits.block_tok
            fresh = guest.target_tok - found * self.limits.prefix_tok
            future = min(guest.asked_tok - guest.given_tok, 4_096)
            free = (self.room() - pinned * unit) * self.limits.block_tok - ahead
            if fresh + future >= free and self.running:
                self.full = True
                break
            if not self.limits.chunked_prefill and fresh > left and not guest.handed:
                break
            if not self.admit(guest, left):
                self.full = True
                break
            if not guest.decodes:
                tokens = min(left, fresh)
                chunks.append((guest, tokens))
                left -= tokens
                if tokens < fresh:
                    break
            ahead += future
        return chunks

    def retract(self) -> None:
        if self.wanted() <= self.room():
            return
        first = True
        decoding = self.ready()
        decoding.sort(key=lambda g: (g.given_tok, -g.input_tok, -self.order.index(g)))
        while len(decoding) > 1 and (first or self.room() * self.limits.block_tok < len(decoding) * 20):
            self.take_back(decoding.pop(0))
            first = False
        while self.cost.stages > 1 and self.wanted() > self.room():  # others hold what one alone would have
            self.take_back(decoding.pop(0))
        self.full = False
        if not decoding:
            return
        had = sum(guest.given_tok for guest in decoding)
        asked = sum(guest.asked_tok for guest in decoding)
        self.ratio = min(ONE, (had + 20 * len(decoding)) * ONE // asked)

    @property
    def order(self) -> list[Guest]:
        """Decoding requests by when they began to decode."""
        return self.decoders

    decoders: list[Guest] = field(default_factory=list)

    def at(self, tokens: int) -> int:
        table = self.cost.step_ps
        over = max(0, tokens - len(table) + 1)
        return table[min(tokens, len(table) - 1)] + over * self.cost.beyond_ps_per_tok

    def in_pieces(self, chunks: list[tuple[Guest, int]], decoding: list[Guest]) -> int:
        """Cut the batch as a list of slots, one entry a token, in the order in which it is written."""
        batch = [guest.slot for guest in sorted(decoding, key=lambda g: g.slot)]
        batch = [slot for slot in batch for _ in range(self.cost.verify_tok)]
        batch += [guest.slot for guest, tokens in chunks for _ in range(tokens)]
        took = 0
        while batch:
            chosen: list[int] = []
            for slot in batch:
                if slot not in chosen and (not chosen or slot == chosen[-1] + 1):
                    chosen.append(slot)
            each = 0
            while each < min(batch.count(slot) for slot in chosen) and (
                each == 0 or (each + 1) * len(chosen) <= self.cost.piece_tok
            ):
                each += 1
            for slot in chosen * each:
                batch.remove(slot)
            took += self.at(each * len(chosen))
        return took

    def gives(self, guest: Guest, expected: int) -> int:
        """Return the tokens of one step: what is expected, or each drafted one by its own luck."""
        if not self.cost.accept:
            return expected
        luck = mixed(mixed(self.cost.draw_seed, guest.index), guest.given_tok) % CERTAIN
        chance, tokens = self.cost.accept, 1
        for _ in range(self.cost.verify_tok - 1):
            if luck >= chance:
                break
            tokens += 1
            chance = chance * self.cost.accept // CERTAIN
        return tokens

    def begin(self) -> None:
        """Send off as many batches as there are places for; the one that came out goes on first."""
        if self.came_out >= 0:
            self.lane, self.came_out = self.came_out, -1
            self.send_off()
        while len(self.flying) < self.cost.stages:
            self.lane = min(set(range(self.cost.stages)) - {batch.lane for batch in self.flying})
            if not self.send_off():
                return

    def send_off(self) -> bool:
        """Send off a batch of who is in none; return whether there is anything to compute."""
        chunks, decodes = self.plan()
        decoding = self.ready() if decodes else []
        if not chunks and not decoding:
            return False  # it waits for room that others take, and nobody computes
        tokens = sum(tokens for _, tokens in chunks) + len(decoding) * self.cost.verify_tok
        took = self.in_pieces(chunks, decoding) if self.cost.piece_tok else self.at(tokens)
        for guest in decoding:
            took += self.cost.decode_ps + self.cost.context_ps_per_tok * (guest.there_tok + 1)
        a = self.cost.attention_ps_per_ktok
        for guest, tokens in chunks:
            took += self.cost.prefill_ps_per_tok * tokens
            took += a * (guest.sent_tok + tokens) ** 2 // 2048 - a * guest.sent_tok**2 // 2048
            guest.sent_tok += tokens
        left_ps: list[int] = []
        for before in self.left_ps or [0] * self.cost.stages:
            left_ps.append(max(left_ps[-1] if left_ps else self.now, before) + took)
        self.left_ps = left_ps
        blocks = self.wanted() if decodes else 0
        self.flying.append(Batch(self.lane, chunks, decodes, decoding, took, left_ps, blocks))
        return True

    def finish(self) -> None:
        """The batch that is next comes out, and goes on with those who decode in it."""
        batch = self.flying.pop(0)
        self.lane = self.came_out = batch.lane
        chunks, decoding = batch.chunks, batch.decoding
        self.busy_ps += batch.took_ps
        self.now = batch.ends_ps
        self.steps += 1
        if batch.decodes:
            if self.limits.scheduler == "sglang":
                self.ratio = max(self.ratio - round(0.7 * 0.86 * ONE / 600), round(0.7 * 0.14 * ONE))
            before = self.clock()
            self.lane_steps[self.lane] = self.decode_steps + 1
            for guest in decoding:
                tokens = self.gives(guest, self.clock() - before)
                guest.there_tok += tokens
                guest.given_tok += tokens
        self.most_blocks = max(self.most_blocks, self.used())
        for guest in sorted(
            (g for g in decoding if g.given_tok >= g.output_tok),
            key=lambda g: (0 if self.cost.accept else g.joined_clock + g.output_tok, g.index),
        ):
            self.end(guest)
        for guest, tokens in chunks:
            guest.there_tok += tokens
            if guest.there_tok < guest.target_tok:
                continue
            self.keep(guest, guest.target_tok)
            guest.given_tok += 1
            if guest.first_ps < 0:
                guest.first_ps = self.now
            if guest.given_tok == guest.output_tok:
                self.end(guest)
            elif self.prefill_only:
                guest.handed = True
                self.leaving.append(guest)
            else:
                guest.joined_clock, guest.lane = self.clock(), self.lane
                self.decoders.append(guest)

    def end(self, guest: Guest) -> None:
        if guest.decodes:
            self.decoders.remove(guest)
            guest.there_tok = guest.input_tok + guest.output_tok - 1
            self.keep(guest, guest.there_tok)
        guest.end_ps = self.now
        self.running.remove(guest)
        self.let_go(guest, ids=guest.ids[: guest.there_tok // self.limits.prefix_tok])
        self.full = False


def walked(cost: StepCost, limits: EngineLimits, guests: list[Guest]) -> Engine:
    """Play `guests`, in order of `here_ps`, to their end."""
    engine = Engine(cost, limits)
    engine.slots = [Slot() for _ in range(limits.max_num_seqs)]
    for guest in guests:
        guest.target_tok = guest.input_tok
    coming = list(guests)
    while coming or engine.waiting or engine.running:
        comes_ps, ends_ps = coming[0].here_ps if coming else -1, engine.ends_ps
        if coming and (ends_ps < 0 or comes_ps <= ends_ps):
            engine.now = comes_ps
            while coming and coming[0].here_ps == comes_ps:
                engine.waiting.append(coming.pop(0))
        else:
            engine.finish()
        engine.begin()
    return engine
