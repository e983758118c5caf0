"""A second simulator of one batching place: slow and obvious, one step and one token at a time.

It shares nothing with `wattmill.twin.place` but the declaration: no jumps, no heaps, no running sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wattmill.twin.spec import Place, StepLaw, Work


@dataclass
class Guest:
    index: int
    work: Work
    here_ps: int
    cached_tok: int = 0
    prompt_tok: int = 0  # computed or cached until now
    tokens: int = 0  # given until now
    begun_ps: int = -1
    first_ps: int = -1
    end_ps: int = -1

    @property
    def held_tok(self) -> int:
        return self.work.input_tok + self.work.max_output_tok


@dataclass
class Seen:
    """What happened, and what the fullest moment was."""

    guests: list[Guest]
    most_running: int = 0
    most_held_tok: int = 0
    busy_ps: int = 0
    idle_while_somebody_waited: bool = False
    added_ps: list[int] = field(default_factory=list)


def walked(place: Place, works: list[Work]) -> Seen:
    law = place.law
    assert isinstance(law, StepLaw)
    guests = [Guest(i, work, work.at_us * 1_000_000 + place.overhead_ps) for i, work in enumerate(works)]
    coming, waiting, running = list(guests), [], []  # type: ignore[var-annotated]
    cache: list[int] = []  # oldest use first
    seen = Seen(guests)
    now = 0
    while coming or waiting or running:
        while coming and coming[0].here_ps <= now:
            waiting.append(coming.pop(0))
        while (
            waiting
            and len(running) < place.pool.slots
            and sum(g.held_tok for g in running) + waiting[0].held_tok <= law.kv_tok
        ):
            guest = waiting.pop(0)
            guest.begun_ps = now
            if law.cache_blocks:
                found = 0
                for block in guest.work.blocks:
                    if block not in cache:
                        break
                    cache.remove(block)
                    cache.append(block)
                    found += 1
                if found:
                    guest.cached_tok = guest.prompt_tok = min(found * 512, guest.work.input_tok - 1)
            running.append(guest)
        if not running:
            seen.idle_while_somebody_waited |= bool(waiting)
            now = coming[0].here_ps
            continue
        seen.most_running = max(seen.most_running, len(running))
        seen.most_held_tok = max(seen.most_held_tok, sum(g.held_tok for g in running))
        decoding = [g for g in running if g.tokens]
        left = law.budget_tok - len(decoding)
        took = law.step_ps
        for guest in decoding:
            took += law.decode_ps + law.kv_ps_per_tok * (guest.work.input_tok + guest.tokens)
        done = []
        for guest in (g for g in running if not g.tokens):
            tok = min(left, guest.work.input_tok - guest.prompt_tok)
            if tok <= 0:
                break
            before, after = guest.prompt_tok, guest.prompt_tok + tok
            took += law.prefill_ps_per_tok * tok
            took += (
                law.attention_ps_per_ktok * after**2 // 2048 - law.attention_ps_per_ktok * before**2 // 2048
            )
            guest.prompt_tok, left = after, left - tok
            if after == guest.work.input_tok:
                done.append(guest)
        now += took
        seen.busy_ps += took
        for guest in decoding:
            guest.tokens += 1
        for guest in done:
            guest.tokens, guest.first_ps = 1, now
            if law.cache_blocks:
                for block in guest.work.blocks:
                    if block in cache:
                        cache.remove(block)
                    cache.append(block)
                del cache[: max(0, len(cache) - law.cache_blocks)]
        for guest in [g for g in running if g.tokens == g.work.output_tok]:
            guest.end_ps = now
            running.remove(guest)
    return seen
