"""The client that holds its concurrency, against a slow and obvious walk of the same steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.models.step_time import Work
from wattmill.twin.law.closed_loop import PROMPTS, closed_loop


def walked(isl, osl, concurrency, budget, kind, experts, active, kv):
    """Every step, one by one, with lists."""
    rng = np.random.default_rng(0)
    count = concurrency * PROMPTS
    prompts = [int(x) for x in rng.integers(max(int(isl * 0.8), 1), isl + 1, count)]
    outputs = [max(int(x), 2) for x in rng.integers(max(int(osl * 0.8), 1), osl + 1, count)]
    waiting, coming = list(range(concurrency)), list(range(concurrency, count))
    done = dict.fromkeys(range(count), 0)  # prompt tokens
    left = dict(enumerate(outputs))
    running, steps = [], []
    arrived, began, ended = dict.fromkeys(waiting, 0), {}, {}
    while len(ended) < count:
        decoding = list(running)
        room = budget - (0 if kind == "prefill first" else len(decoding))
        first, prompt_tok, pairs = [], 0, 0.0
        for who in list(waiting):
            held = sum(prompts[w] + outputs[w] for w in [*running, *first])
            if room <= 0 or (done[who] == 0 and held + prompts[who] + outputs[who] > kv and running + first):
                break
            need = prompts[who] - done[who]
            if kind == "whole prompts":
                if need > room and prompt_tok:
                    break
                take = need
            else:
                take = min(need, room)
            pairs += ((done[who] + take) ** 2 - done[who] ** 2) / 2
            done[who] += take
            prompt_tok += take
            room -= take
            if done[who] < prompts[who]:
                break
            waiting.remove(who)
            first.append(who)
        if kind == "prefill first" and prompt_tok:
            decoding = []
        tokens = len(decoding) + prompt_tok
        steps.append(
            [
                1,
                len(decoding),
                sum(prompts[w] + outputs[w] - left[w] - 1 for w in decoding),
                prompt_tok,
                pairs,
                experts * (1 - (1 - active / experts) ** tokens) if experts else 0,
                1 if prompt_tok else 0,
            ]
        )
        for who in decoding:
            left[who] -= 1
            if left[who] == 0:
                running.remove(who)
                ended[who] = len(steps)
                if coming:
                    new = coming.pop(0)
                    waiting.append(new)
                    arrived[new] = len(steps)
        for who in first:
            began[who] = len(steps)
            left[who] -= 1
            running.append(who)
    total = np.vstack([np.zeros(7), np.cumsum(np.array(steps, dtype=float), axis=0)])
    to_first = np.mean([total[began[w]] - total[arrived[w]] for w in range(count)], axis=0)
    each = np.mean([(total[ended[w]] - total[began[w]]) / (outputs[w] - 1) for w in range(count)], axis=0)
    return to_first, each


def _flat(work: Work):
    return [getattr(work, name) for name in Work.__struct_fields__[:7]]


@settings(max_examples=25, deadline=None)
@given(
    isl=st.integers(1, 40),
    osl=st.integers(2, 20),
    concurrency=st.integers(1, 5),
    budget=st.integers(6, 60),
    kind=st.sampled_from(["mixed", "prefill first", "whole prompts"]),
    experts=st.sampled_from([0, 8]),
    kv=st.sampled_from([130, 10**6]),
)
def test_the_compiled_schedule_is_the_obvious_one(isl, osl, concurrency, budget, kind, experts, kv):
    active = 2 if experts else 0
    loop = closed_loop(
        isl=isl,
        osl=osl,
        concurrency=concurrency,
        budget_tok=budget,
        batching=kind,
        experts=experts,
        active_experts=active,
        kv_tok=kv,
    )
    to_first, each = walked(isl, osl, concurrency, budget, kind, experts, active, kv)
    assert _flat(loop.to_first_token) == pytest.approx(list(to_first))
    assert _flat(loop.per_token) == pytest.approx(list(each))


def test_one_user_alone_waits_for_its_own_prompt_only():
    loop = closed_loop(isl=100, osl=50, concurrency=1, budget_tok=8192, batching="mixed")
    assert loop.to_first_token.steps == loop.to_first_token.mixed_steps == 1
    assert 80 <= loop.to_first_token.prefill_tok <= 100
    assert loop.per_token.steps == loop.per_token.decode_n == 1


def test_the_first_wave_is_what_makes_a_burst_late():
    burst, calm = (
        closed_loop(isl=1000, osl=500, concurrency=64, budget_tok=8192, batching="mixed", first_wave=wave)
        for wave in (True, False)
    )
    assert burst.to_first_token.prefill_tok > 2 * calm.to_first_token.prefill_tok


def test_a_full_cache_makes_prompts_wait():
    room, full = (
        closed_loop(isl=1000, osl=100, concurrency=16, budget_tok=8192, batching="mixed", kv_tok=kv)
        for kv in (10**6, 4_500)
    )
    assert full.to_first_token.steps > 50 * room.to_first_token.steps / 2
    assert full.per_token.decode_n < 5 < room.per_token.decode_n
