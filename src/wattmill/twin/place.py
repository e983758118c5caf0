"""A simulated place, event by event: continuous batching with chunked prefill, or a bought stream.

First come, first served. At the start of a step waiting requests are admitted while a slot and room for their
whole context are free (nothing is ever evicted); every decoding request gets a token; what is left of the
step's token budget goes to prompts in order of admission. A prompt that is complete gives its first token at
the end of that step. While nothing waits for its prompt, the steps until the next end are one jump.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import heappop, heappush

from wattmill.twin.model import prompt_ps, steps_ps, steps_until, steps_within, whole_blocks_tok
from wattmill.twin.spec import Broken, Place, Served, StepLaw, StreamLaw, Work

NEVER = 1 << 62


class Job:
    """One piece of work at a place, from the decision to its last token."""

    __slots__ = (
        "at_ps",
        "begun_ps",
        "blocks",
        "cached_tok",
        "done_tok",
        "first_ps",
        "hold_tok",
        "index",
        "input_tok",
        "output_tok",
    )

    def __init__(self, index: int, work: Work, at_ps: int) -> None:
        self.index = index
        self.at_ps = at_ps
        self.input_tok = work.input_tok
        self.output_tok = work.output_tok
        self.hold_tok = work.input_tok + work.max_output_tok
        self.blocks = work.blocks
        self.done_tok = 0  # of the prompt
        self.cached_tok = 0
        self.begun_ps = 0
        self.first_ps = 0


OnEnd = Callable[[Served], None]
OnFirst = Callable[[int, int], None]


class PrefixCache:
    """Blocks of prompts that need not be computed again; the least recently used goes first."""

    def __init__(self, most_blocks: int) -> None:
        self._most = most_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def leading(self, blocks: tuple[int, ...]) -> int:
        """Return how many leading blocks are here; they count as used now."""
        kept = self._blocks
        count = 0
        for block in blocks:
            if block not in kept:
                break
            kept.move_to_end(block)
            count += 1
        return count

    def clear(self) -> None:
        self._blocks.clear()

    def keep(self, blocks: tuple[int, ...]) -> None:
        kept = self._blocks
        for block in blocks:
            kept[block] = None
            kept.move_to_end(block)
        while len(kept) > self._most:
            kept.popitem(last=False)


class BatchPlace:
    """A continuous batch under a `StepLaw`. `next_ps` is when something happens here next."""

    def __init__(self, at: int, place: Place, on_first: OnFirst, on_end: OnEnd) -> None:
        assert isinstance(place.law, StepLaw)
        self.in_flight = 0  # from the decision to the last token
        self.next_ps = NEVER
        self.busy_ps = 0  # time in which steps ran
        self.steps = 0
        self.prompt_tok = 0  # computed, of whole steps
        self.output_tok = 0
        self.steps_uj = 0  # its law says nothing of joules
        self.log: list[tuple[int, int, int]] | None = None  # (from, to, steps), where somebody wants it
        self._at = at
        self._law = place.law
        self._slots = place.pool.slots
        self._overhead_ps = place.overhead_ps
        self._on_end = on_end
        self._on_first = on_first
        self._cache = PrefixCache(place.law.cache_blocks) if place.law.cache_blocks else None
        self._inbox: deque[tuple[int, Job]] = deque()  # on the way
        self._waiting: deque[Job] = deque()
        self._prompts: deque[Job] = deque()  # admitted, prompt not complete
        self._chunks: list[tuple[Job, int]] = []  # (job, prompt tokens done after this step)
        self._ends: list[tuple[int, int, Job]] = []  # decoding: (step of the last token, index, job)
        self._boundary_ps = NEVER  # end of what runs now
        self._from_ps = 0  # start of what runs now
        self._planned = 0  # steps that run now
        self._running = 0  # slots taken
        self._held_tok = 0
        self._context_tok = 0  # read by one decode step

    def take(self, index: int, work: Work, now_ps: int) -> None:
        self.in_flight += 1
        here_ps = now_ps + self._overhead_ps
        self._inbox.append((here_ps, Job(index, work, now_ps)))
        if here_ps < self.next_ps:
            self.next_ps = here_ps

    def advance(self, to_ps: int) -> None:
        """Let everything happen that happens until `to_ps`, that instant included."""
        inbox = self._inbox
        while True:
            here_ps = inbox[0][0] if inbox else NEVER
            if here_ps <= self._boundary_ps:
                if here_ps > to_ps or here_ps == NEVER:
                    break
                while inbox and inbox[0][0] == here_ps:
                    self._waiting.append(inbox.popleft()[1])
                self._arrived(here_ps)
            elif self._boundary_ps <= to_ps:
                self._step_ended(self._boundary_ps)
            else:
                break
        self.next_ps = min(here_ps, self._boundary_ps)

    def busy_until(self, now_ps: int) -> int:
        """Return the time in which steps ran, up to an instant to which this was advanced."""
        return self.busy_ps if self._boundary_ps == NEVER else self.busy_ps + now_ps - self._from_ps

    def break_off(self, now_ps: int) -> list[Broken]:
        """The machine dies: return what it was at, by index, and forget it. A step that had not ended made
        nothing."""
        ran = 0
        if self._boundary_ps != NEVER:
            self.busy_ps += now_ps - self._from_ps
            if not self._chunks:
                ran = steps_within(self._law, len(self._ends), self._context_tok, now_ps - self._from_ps)
        self.steps += ran
        self.output_tok += ran * len(self._ends)
        broken = [Broken(job.index, 0, 0, 0) for job in (*[item[1] for item in self._inbox], *self._waiting)]
        broken += [Broken(job.index, job.done_tok, job.cached_tok, 0) for job in self._prompts]
        broken += [
            Broken(job.index, job.input_tok, job.cached_tok, job.output_tok - (last - self.steps))
            for last, _, job in self._ends
        ]
        for gone in (self._inbox, self._waiting, self._prompts, self._chunks, self._ends):
            gone.clear()
        self._boundary_ps = self.next_ps = NEVER
        self.in_flight = self._running = self._held_tok = self._context_tok = self._planned = 0
        if self._cache is not None:
            self._cache.clear()
        return sorted(broken)

    def _arrived(self, now_ps: int) -> None:
        if self._boundary_ps == NEVER:
            self._plan(now_ps)
        elif self._planned > 1:
            # The step that runs now is finished, then the newcomer is looked at.
            law, decoding = self._law, len(self._ends)
            ran_ps = now_ps - self._from_ps
            steps = max(1, steps_until(law, decoding, self._context_tok, ran_ps))
            if steps < self._planned:
                self._planned = steps
                self._boundary_ps = self._from_ps + steps_ps(law, decoding, self._context_tok, steps)

    def _step_ended(self, now_ps: int) -> None:
        self.busy_ps += now_ps - self._from_ps
        self.steps += self._planned
        if self.log is not None:
            self.log.append((self._from_ps, now_ps, self._planned))
        ends = self._ends
        self._context_tok += self._planned * len(ends)
        self.output_tok += self._planned * len(ends)
        while ends and ends[0][0] <= self.steps:
            job = heappop(ends)[2]
            self._context_tok -= job.input_tok + job.output_tok
            self._end(job, now_ps)
        for job, done_tok in self._chunks:
            self.prompt_tok += done_tok - job.done_tok
            job.done_tok = done_tok
            if done_tok == job.input_tok:
                self.output_tok += 1
                self._prompts.popleft()
                job.first_ps = now_ps
                self._on_first(job.index, self._at)
                if self._cache is not None:
                    self._cache.keep(job.blocks)
                if job.output_tok == 1:
                    self._end(job, now_ps)
                else:
                    heappush(ends, (self.steps + job.output_tok - 1, job.index, job))
                    self._context_tok += job.input_tok + 1
        self._plan(now_ps)

    def _end(self, job: Job, now_ps: int) -> None:
        self._running -= 1
        self._held_tok -= job.hold_tok
        self.in_flight -= 1
        self._on_end(
            Served(job.index, self._at, job.at_ps, job.begun_ps, job.first_ps, now_ps, job.cached_tok)
        )

    def _plan(self, now_ps: int) -> None:
        """Decide what runs from now on, until when."""
        law = self._law
        if self._waiting:
            self._admit(now_ps)
        ends = self._ends
        self._from_ps = now_ps
        self._chunks.clear()
        if self._prompts:
            left_tok = law.budget_tok - len(ends)
            extra_ps = 0
            for job in self._prompts:
                done_tok = min(job.input_tok, job.done_tok + left_tok)
                extra_ps += prompt_ps(law, job.done_tok, done_tok)
                self._chunks.append((job, done_tok))
                left_tok -= done_tok - job.done_tok
                if left_tok == 0:
                    break
            self._planned = 1
            self._boundary_ps = now_ps + extra_ps + steps_ps(law, len(ends), self._context_tok, 1)
        elif ends:
            self._planned = ends[0][0] - self.steps
            self._boundary_ps = now_ps + steps_ps(law, len(ends), self._context_tok, self._planned)
        else:
            self._boundary_ps = NEVER

    def _admit(self, now_ps: int) -> None:
        waiting, kv_tok = self._waiting, self._law.kv_tok
        while waiting and self._running < self._slots:
            job = waiting[0]
            if self._held_tok + job.hold_tok > kv_tok:
                return
            waiting.popleft()
            self._running += 1
            self._held_tok += job.hold_tok
            job.begun_ps = now_ps
            if self._cache is not None and job.blocks:
                job.cached_tok = whole_blocks_tok(self._cache.leading(job.blocks), job.input_tok)
                job.done_tok = job.cached_tok
            self._prompts.append(job)


class StreamPlace:
    """A bought place under a `StreamLaw`: `slots` requests at a time, each at its own pace."""

    def __init__(self, at: int, place: Place, on_first: OnFirst, on_end: OnEnd) -> None:
        assert isinstance(place.law, StreamLaw)
        self.in_flight = 0
        self.next_ps = NEVER
        self.busy_ps = 0  # of all slots together
        self.steps = 0
        self._at = at
        self._law = place.law
        self._slots = place.pool.slots
        self._overhead_ps = place.overhead_ps
        self._on_end = on_end
        self._on_first = on_first
        self._inbox: deque[tuple[int, Job]] = deque()
        self._waiting: deque[Job] = deque()
        self._firsts: list[tuple[int, int]] = []
        self._ends: list[tuple[int, int, Job]] = []

    def take(self, index: int, work: Work, now_ps: int) -> None:
        self.in_flight += 1
        here_ps = now_ps + self._overhead_ps
        self._inbox.append((here_ps, Job(index, work, now_ps)))
        if here_ps < self.next_ps:
            self.next_ps = here_ps

    def advance(self, to_ps: int) -> None:
        while True:
            here_ps = self._inbox[0][0] if self._inbox else NEVER
            end_ps = self._ends[0][0] if self._ends else NEVER
            first_ps = self._firsts[0][0] if self._firsts else NEVER
            if min(here_ps, end_ps, first_ps) > to_ps:
                break
            if first_ps <= min(here_ps, end_ps):
                self._on_first(heappop(self._firsts)[1], self._at)
            elif end_ps <= here_ps:
                job = heappop(self._ends)[2]
                self.in_flight -= 1
                self._on_end(Served(job.index, self._at, job.at_ps, job.begun_ps, job.first_ps, end_ps, 0))
                if self._waiting:
                    self._begin(self._waiting.popleft(), end_ps)
            else:
                job = self._inbox.popleft()[1]
                if len(self._ends) < self._slots:
                    self._begin(job, here_ps)
                else:
                    self._waiting.append(job)
        self.next_ps = min(here_ps, end_ps, first_ps)

    def _begin(self, job: Job, now_ps: int) -> None:
        law = self._law
        job.begun_ps = now_ps
        job.first_ps = now_ps + law.prefill_ps_per_tok * job.input_tok
        end_ps = job.first_ps + law.decode_ps * (job.output_tok - 1)
        self.busy_ps += end_ps - now_ps
        heappush(self._firsts, (job.first_ps, job.index))
        heappush(self._ends, (end_ps, job.index, job))


def simulated(at: int, place: Place, on_first: OnFirst, on_end: OnEnd) -> BatchPlace | StreamPlace:
    match place.law:
        case StepLaw():
            return BatchPlace(at, place, on_first, on_end)
        case StreamLaw():
            return StreamPlace(at, place, on_first, on_end)
