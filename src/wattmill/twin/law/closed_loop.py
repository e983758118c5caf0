"""What an engine does, step by step, under a client that holds its concurrency: the sums the law needs.

In a closed loop a prompt arrives when an answer ends, and both happen at the ends of steps. So which tokens
share a step does not depend on how long steps take: the schedule is found once, without any coefficient, and
the mean time to first token and per output token are the law of the mean `Work` in between. That makes the
law's fit exact in the simulated schedule, and linear.

The client is InferenceX's: `PROMPTS` prompts for each unit of concurrency, the first of them all at once, the
next as soon as one ends; lengths uniform between `SHORTEST` and 1 of the nominal ones; no early stop. Other
clients are taken to measure what comes after their start: no first wave, and arrivals spread over an answer.
"""

from __future__ import annotations

from functools import lru_cache
from math import log
from typing import Any, Literal

import msgspec
import numpy as np
from numba import njit

from wattmill.models.step_time import Work

PROMPTS = 10
SHORTEST = 0.8

Batching = Literal["mixed", "prefill first", "whole prompts"]
"""`mixed`: prompts are cut to what the decoding requests leave of the budget (vLLM). `prefill first`: a step
of prompts alone whenever there are some (SGLang). `whole prompts`: mixed, but uncut (TensorRT-LLM)."""

_BATCHING: tuple[Batching, ...] = ("mixed", "prefill first", "whole prompts")
_MEASURES = 8  # the fields of Work, in their order


class Loop(msgspec.Struct, frozen=True, kw_only=True):
    """Mean work over the requests of one run."""

    to_first_token: Work
    per_token: Work  # of the tokens after the first


def closed_loop(
    *,
    isl: int,
    osl: int,
    concurrency: int,
    budget_tok: int,
    batching: Batching,
    experts: int = 0,
    active_experts: int = 0,
    kv_tok: int = 1 << 60,
    padded: tuple[int, ...] = (),
    first_wave: bool = True,
    seed: int = 0,
) -> Loop:
    """Return the mean work that passes before the first token of a request, and for each further one.

    Args:
        isl, osl: nominal prompt and output tokens; drawn shorter, see above.
        concurrency: requests in the system at any time.
        budget_tok: tokens of one step, over all attention ranks.
        batching: how the engine fills a step.
        experts, active_experts: of a layer, for the experts that a step touches.
        kv_tok: cache; a request waits until its whole context fits (no preemption).
        padded: by tokens of a step, those computed for nothing to fill a recorded graph; beyond it none.
        first_wave: whether the prompts that came all at once count. If not, they end at random times, so that
            those after them, which do count, come apart.
        seed: of the lengths. The same seed gives the same run.
    """
    kind = _BATCHING.index(batching)
    waves = (isl, osl, concurrency, first_wave, seed)
    first, each = _run(waves, budget_tok, kind, experts, active_experts, kv_tok, padded)
    return Loop(to_first_token=_work(first), per_token=_work(each))


def _work(sums: tuple[float, ...]) -> Work:
    return Work(**dict(zip(Work.__struct_fields__[:_MEASURES], sums, strict=True)))


@lru_cache(maxsize=16384)
def _run(
    waves: tuple[int, int, int, bool, int],
    budget: int,
    kind: int,
    experts: int,
    active: int,
    kv: int,
    padded: tuple[int, ...],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    isl, osl, concurrency, first_wave, seed = waves
    rng = np.random.default_rng(seed)
    count = concurrency * PROMPTS
    prompts = rng.integers(max(int(isl * SHORTEST), 1), isl + 1, count)
    outputs = np.maximum(rng.integers(max(int(osl * SHORTEST), 1), osl + 1, count), 2)
    skipped = 0
    if not first_wave:
        skipped = concurrency
        outputs[:concurrency] = np.maximum(outputs[:concurrency] * rng.random(concurrency), 2)
    missed = log(1.0 - active / experts) if experts > active else 0.0
    fills = np.array(padded, np.int64)
    first, each = _compiled(
        prompts, outputs, concurrency, skipped, budget, kind, float(experts), missed, kv, fills
    )
    return tuple(first.tolist()), tuple(each.tolist())


def _schedule(
    prompts: Any,
    outputs: Any,
    concurrency: int,
    skipped: int,
    budget: int,
    kind: int,
    experts: float,
    missed: float,
    kv: int,
    fills: Any,
) -> Any:
    """Walk the run. `total` sums the work of all steps so far; a request takes the difference between two
    instants. Pure decode steps up to the next ending are taken in one closed-form sum."""
    count = prompts.size
    total = np.zeros(_MEASURES)
    to_first = np.zeros(_MEASURES)
    per_token = np.zeros(_MEASURES)
    arrived = np.zeros((count, _MEASURES))
    began = np.zeros((count, _MEASURES))
    ends = np.zeros(count + 1, np.int64)  # a heap of (decode step at which it ends, request)
    whose = np.zeros(count + 1, np.int64)
    decoding = 0
    decoded = 0  # steps in which the decoding requests went on
    context = 0
    head, tail = 0, min(concurrency, count)  # prompts that wait: [head, tail)
    part = 0  # tokens of the prompt at the head that are done
    held = 0
    finished = 0
    while finished < count:
        opened = head
        prompt_tok, pairs = 0, 0.0
        room = budget if kind == 1 else budget - decoding
        while head < tail and room > 0:
            need = prompts[head] - part
            whole = prompts[head] + outputs[head]
            if part == 0 and held + whole > kv and decoding + head - opened > 0:
                break
            if kind == 2 and need > room and prompt_tok > 0:
                break
            take = need if need <= room or kind == 2 else room
            if part == 0:
                held += whole
            upto = part + take
            pairs += (upto * upto - part * part) * 0.5
            prompt_tok += take
            room -= take
            if upto < prompts[head]:
                part = upto
                break
            part = 0
            head += 1
        if prompt_tok > 0:
            beside = 0 if kind == 1 else decoding
            total[0] += 1.0
            total[3] += prompt_tok
            total[4] += pairs
            fill = fills[beside + prompt_tok] if beside + prompt_tok < fills.size else 0
            total[5] += experts * (1.0 - np.exp(missed * (beside + prompt_tok + fill)))
            total[6] += 1.0
            total[7] += fill
            if beside > 0:
                total[1] += beside
                total[2] += context
                decoded += 1
                context += beside
        else:
            jump = max(ends[0] - decoded, 1)
            total[0] += jump
            total[1] += jump * decoding
            total[2] += jump * context + decoding * jump * (jump - 1) * 0.5
            fill = fills[decoding] if decoding < fills.size else 0
            total[5] += jump * experts * (1.0 - np.exp(missed * (decoding + fill)))
            total[7] += jump * fill
            decoded += jump
            context += decoding * jump
        while decoding > 0 and ends[0] <= decoded:
            who = whose[0]
            last_end, last_who = ends[decoding - 1], whose[decoding - 1]
            at = 0
            while True:  # sift down
                child = 2 * at + 1
                if child >= decoding - 1:
                    break
                if child + 1 < decoding - 1 and ends[child + 1] < ends[child]:
                    child += 1
                if ends[child] >= last_end:
                    break
                ends[at], whose[at] = ends[child], whose[child]
                at = child
            ends[at], whose[at] = last_end, last_who
            decoding -= 1
            context -= prompts[who] + outputs[who] - 1
            held -= prompts[who] + outputs[who]
            if who >= skipped:
                per_token += (total - began[who]) / (outputs[who] - 1)
            finished += 1
            if tail < count:
                arrived[tail] = total
                tail += 1
        for who in range(opened, head):
            if who >= skipped:
                to_first += total - arrived[who]
            began[who] = total
            at = decoding
            end = decoded + outputs[who] - 1
            while at > 0:  # sift up
                parent = (at - 1) // 2
                if ends[parent] <= end:
                    break
                ends[at], whose[at] = ends[parent], whose[parent]
                at = parent
            ends[at], whose[at] = end, who
            decoding += 1
            context += prompts[who]
    return to_first / (count - skipped), per_token / (count - skipped)


_compiled = njit(cache=True)(_schedule)
