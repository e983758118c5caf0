"""The planner may compute prompts on replicas of their own, and may draft: the law by hand, the search by
brute force, the steps beside the closed form."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st
from planning_house import answer, demand, given, interval, own

from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.twin.engine.experiment import Clients, Requests, simulate
from wattmill.twin.law.closed_loop import PROMPTS, SHORTEST
from wattmill.twin.law.disaggregated import handed_over_s
from wattmill.twin.law.spec import Disaggregation
from wattmill.twin.planning.apart import RATIOS, Apart, ratios_of
from wattmill.twin.planning.options import Config
from wattmill.twin.planning.played import replicas_of
from wattmill.twin.prediction import Prediction, Speculation, predict
from wattmill.units import PS_PER_S

LLAMA = Deployment(
    architecture=architecture("Llama-3.1-70B"),
    accelerator=accelerator("H200-SXM"),
    engine="vllm",
    weight_bits=8.0,
    kv_bits=8.0,
    tp=4,
)
KV_BYTES = 80 * 2 * 8 * 128  # of a token: 80 layers, keys and values of 8 heads of 128, a byte each


def over_links(link_bytes_per_s: float, *, prefill: int = 1, latency_s: float = 0.0) -> Disaggregation:
    return Disaggregation(
        prefill=LLAMA, prefill_workers=prefill, link_bytes_per_s=link_bytes_per_s, latency_s=latency_s
    )


# --- the law -----------------------------------------------------------------------------------------------


def test_a_hand_over_takes_latency_and_bytes_and_its_turn_by_hand() -> None:
    """Prompts of 900 tokens in the mean over four devices of 50 GB/s: 900 x 163,840 / 200e9 s, and 1 ms."""
    one_s = 0.001 + 900 * KV_BYTES / 200e9
    apart = over_links(50e9, latency_s=0.001)
    alone = handed_over_s(LLAMA, apart, isl=1_000, users=1, cycle_s=1e6)
    assert alone == pytest.approx(one_s, rel=1e-6)
    # A hundred users every 2 s: the link is busy for 50 x 1.74 ms of each second, 8.7 %, and a hand-over
    # waits 0.087 / (2 x 0.913) of its own time.
    full = 100 / (2.0 + 1.05 * one_s) * one_s
    some = handed_over_s(LLAMA, apart, isl=1_000, users=100, cycle_s=2.0)
    assert some == pytest.approx(one_s * (1 + full / (2 * (1 - full))), rel=1e-4)
    nothing = Disaggregation(prefill=LLAMA)
    assert handed_over_s(LLAMA, nothing, isl=1_000, users=100, cycle_s=2.0) == 0.0


@settings(max_examples=60, deadline=None)
@over(st.integers(1, 4_000), st.floats(0.1, 100.0), st.sampled_from([1e8, 1e9, 50e9]), st.integers(1, 4))
def test_no_link_carries_more_than_it_can(users: int, cycle_s: float, link: float, prefill: int) -> None:
    apart = over_links(link, prefill=prefill)
    late_s = handed_over_s(LLAMA, apart, isl=1_000, users=users, cycle_s=cycle_s)
    one_s = 900 * KV_BYTES / (4 * link)
    assert one_s <= late_s <= one_s * (1 + users / prefill) * (1 + 1e-9)
    if users > prefill:  # as many as there are links have theirs at once
        assert users / (cycle_s + late_s) * one_s / prefill <= 1.0
    more = handed_over_s(LLAMA, apart, isl=1_000, users=users + 1, cycle_s=cycle_s)
    assert more >= late_s * (1 - 1e-9)


def test_the_law_puts_the_hand_over_between_the_first_token_and_the_second() -> None:
    def said(apart: Disaggregation) -> Prediction:
        return predict(LLAMA, isl=1_000, osl=101, concurrency=8, disaggregation=apart)

    free, linked = said(Disaggregation(prefill=LLAMA)), said(over_links(1e9))
    assert linked.ttft_s == free.ttft_s
    cycle_s = free.ttft_s.value + 100 * free.tpot_s.value
    late_s = handed_over_s(LLAMA, over_links(1e9), isl=1_000, users=8, cycle_s=cycle_s)
    assert linked.tpot_s.value - free.tpot_s.value == pytest.approx(late_s / 100)
    assert linked.tpot_s.high - free.tpot_s.high == pytest.approx(late_s / 100)


@pytest.mark.parametrize(("ratio", "users"), [((1, 2), 128), ((2, 1), 16)])
def test_the_steps_of_a_unit_take_as_long_as_the_law_says(ratio: tuple[int, int], users: int) -> None:
    """Both kinds of replicas, the link and its queue, by events: time per token and requests per second."""
    prefill, decode = ratio
    apart = Apart(LLAMA, prefill, decode, 4 * prefill, 50e9, 0.001)
    config = Config("h200", "llama", "vllm", "fp8", LLAMA, decode * LLAMA.kv_tokens(), 12, apart)
    isl = osl = 1_024
    count = users * PROMPTS
    rng = np.random.default_rng(0)
    inputs = rng.integers(int(isl * SHORTEST), isl + 1, count)
    outputs = rng.integers(int(osl * SHORTEST), osl + 1, count)
    replicas, hand_over = replicas_of(config, isl=isl, osl=osl, users=users)
    ran = simulate(
        replicas,
        Requests(input_tok=inputs, output_tok=outputs),
        clients=Clients(concurrency=users),
        hand_over=hand_over,
    )
    said = predict(LLAMA, isl=isl, osl=osl, concurrency=users, disaggregation=apart.asked)
    tpot_s = float(((ran.end_ps - ran.first_ps) / (outputs - 1)).mean()) / PS_PER_S
    assert tpot_s == pytest.approx(said.tpot_s.value, rel=0.03)
    per_s = count / (float(ran.end_ps.max()) / PS_PER_S)
    whole_s = said.ttft_s.value + said.tpot_s.value * (0.9 * osl - 1)
    assert per_s == pytest.approx(users / whole_s, rel=0.05)
    assert int(ran.handed.sum()) == count


# --- the search --------------------------------------------------------------------------------------------


def unit_law(prompts_per_s: float, each_ms: float) -> Any:
    """A law that a hand can follow: a prefill replica does so many prompts a second, users queue for it, and
    a token takes 8 ms and so much for each user of a decode replica. Together, prompts make tokens wait."""

    def predicted(
        d: Deployment, *, isl: int, osl: int, concurrency: int, disaggregation: Disaggregation | None = None
    ) -> Prediction:
        if disaggregation is None:
            tpot_s, ttft_s = (20.0 + 2 * each_ms * concurrency) / 1e3, 0.2
        else:
            apart = disaggregation
            tpot_s = (8.0 + each_ms * concurrency / apart.decode_workers) / 1e3
            cycle_s = max(0.2 + tpot_s * (osl - 1), concurrency / prompts_per_s / apart.prefill_workers)
            ttft_s = cycle_s - tpot_s * (osl - 1)
        return Prediction(
            ttft_s=interval(ttft_s),
            tpot_s=interval(tpot_s),
            output_tok_per_s=interval(concurrency * osl / (ttft_s + tpot_s * (osl - 1))),
            klass="interpolated",
            nearest="by hand",
        )

    return predicted


def one_tier(ratios: Any, *, drafts: dict[str, Any] | None = None, **promise: float) -> Any:
    model: dict[str, Any] = {"name": "Llama-3.1-70B", "precisions": ["fp8"]}
    return demand(
        models={"llama": model | ({} if drafts is None else {"speculation": drafts})},
        tiers={
            "one": {"share": 1.0, "tok_per_s_per_user": 40.0, "ttft_s": 1.0, "usd_per_mtok_output": 90.0}
            | promise
        },
        candidates={
            "h200": {
                "accelerator": "H200-SXM",
                "tp": [4],
                "all_in_kw_per_gpu": given(1.73),
                "own": own(2.0),
                "disaggregate": ratios,
            }
        },
    )


@settings(max_examples=12, deadline=None)
@over(st.floats(2.0, 40.0), st.floats(0.05, 1.0))
def test_the_best_proportion_is_that_of_a_brute_force(prompts_per_s: float, each_ms: float) -> None:
    """Every proportion and every number of users, one by one, within the promise."""
    law = unit_law(prompts_per_s, each_ms)
    found = answer(one_tier(True), law)
    most = {
        (prefill, decode): max(
            (
                users / (said.ttft_s.value + said.tpot_s.value * 199.0) / (4 * (prefill + decode))
                for users in range(1, 700 * decode)
                if (
                    said := law(
                        LLAMA, isl=1_000, osl=200, concurrency=users,
                        disaggregation=Disaggregation(
                            prefill=LLAMA, prefill_workers=prefill, decode_workers=decode
                        ),
                    )
                ).tpot_s.value <= 1 / 40.0
                and said.ttft_s.value <= 1.0
            ),
            default=0.0,
        )
        for prefill, decode in RATIOS
    }  # fmt: skip
    together = max(
        users / (said.ttft_s.value + said.tpot_s.value * 199.0) / 4
        for users in range(1, 600)
        if (said := law(LLAMA, isl=1_000, osl=200, concurrency=users)).tpot_s.value <= 1 / 40.0
    )
    offered = [
        option.gives["one"].requests_per_s / option.config.gpus
        for option in (*found.choice.options, *(b.option for b in found.choice.beaten))
    ]
    # The planner reads between batches that it asked at: at most a few per cent of the curve's bend.
    assert max(offered) == pytest.approx(max(together, *most.values()), rel=0.04)


def test_the_plan_says_which_proportion_and_which_came_next() -> None:
    """12 prompts a second against some 4 answers a second and decode replica: one to three."""
    found = answer(one_tier(True), unit_law(12.0, 0.8))
    pool = max(found.plan.pools, key=lambda one: one.tiers["one"])  # others fill the last nodes
    assert (pool.prefill, pool.decode_replicas, pool.split) == ("1 x TP4", 3, "1 x TP4 to 3 x TP4")
    assert "next best is vllm fp8" in pool.instead and "fewer requests per accelerator" in pool.instead
    plain = answer(one_tier(False), unit_law(12.0, 0.8)).plan.pools[0]
    assert (plain.prefill, plain.split) == ("", "TP4")
    asked = answer(one_tier(["2:1"]), unit_law(12.0, 0.8))
    assert {one.config.split for one in asked.choice.options} == {"TP4", "2 x TP4 to 1 x TP4"}


def test_splits_for_prompts_are_looked_at_by_the_lengths_of_every_tier() -> None:
    """Short prompts are done three times as soon on four accelerators as on two, long ones hardly sooner: two
    are worth looking at for the long ones alone, whichever tier is named first."""

    def law(
        d: Deployment, *, isl: int, osl: int, concurrency: int, disaggregation: Disaggregation | None = None
    ) -> Prediction:
        ttft_s = {2: 0.3, 4: 0.1}[d.tp] if isl < 2_000 else {2: 0.3, 4: 0.28}[d.tp]
        tpot_s = (8.0 + 0.1 * concurrency) / 1e3
        return Prediction(
            ttft_s=interval(ttft_s),
            tpot_s=interval(tpot_s),
            output_tok_per_s=interval(concurrency / tpot_s),
            klass="interpolated",
            nearest="by hand",
        )

    tier = {"share": 0.5, "tok_per_s_per_user": 40.0, "ttft_s": 1.0, "usd_per_mtok_output": 90.0}
    tiers = {"short": tier | {"input_tok": 1_000.0}, "long": tier | {"input_tok": 8_000.0}}
    for order in (("short", "long"), ("long", "short")):
        both = demand(
            models={"llama": {"name": "Llama-3.1-70B", "precisions": ["fp8"]}},
            tiers={name: tiers[name] for name in order},
            candidates={
                "h200": {
                    "accelerator": "H200-SXM",
                    "tp": [2, 4],
                    "all_in_kw_per_gpu": given(1.73),
                    "own": own(2.0),
                    "disaggregate": ["1:1"],
                }
            },
        )
        prefill = {c.apart.prefill.tp for c in answer(both, law).choice.configs.values() if c.apart}
        assert prefill == {2, 4}


def test_proportions_are_all_up_to_four_or_those_declared() -> None:
    assert len(RATIOS) == 11 and (2, 2) not in RATIOS and (4, 3) in RATIOS
    assert (
        ratios_of(True) == RATIOS and ratios_of(False) == () and ratios_of(("1:2", "3:1")) == ((1, 2), (3, 1))
    )
    with pytest.raises(msgspec.ValidationError, match="disaggregate"):
        one_tier(["1-2"])


def test_the_watts_of_a_unit_are_those_of_its_two_kinds() -> None:
    found = answer(one_tier(["1:3"]), unit_law(12.0, 0.8))
    offer = found.chosen.problem.offers[0]
    config = next(o.config for o in found.choice.options if o.config.apart is not None)

    def power(part: object, batch: float) -> float:
        return 7.0 * batch

    each = offer.busy_w(10.0, power)
    assert config.busy_w(offer, 30.0, power) == pytest.approx(0.25 * offer.full_w + 0.75 * each)


# --- drafts ------------------------------------------------------------------------------------------------


DRAFTS = {"drafted_tok": 3, "acceptance": 0.7, "source": "made up"}


def test_drafted_tokens_are_extrapolated_and_taken_where_few_users_share_the_weights() -> None:
    """A step verifies four tokens of each request and gives 1 + 0.7 + 0.49 + 0.343 = 2.53: that pays where
    the weights are most of the step, and not where the products are."""
    said = predict(
        LLAMA, isl=1_000, osl=200, concurrency=4, speculation=Speculation(drafted=3, acceptance=0.7)
    )
    assert said.klass == "extrapolated"
    assert "3 drafted tokens: no measured row has any" in " ".join(map(str, said.outside))
    found = answer(one_tier(False, drafts=DRAFTS), predict, extrapolate=True)
    ways = {o.config.split for o in (*found.choice.options, *(b.option for b in found.choice.beaten))}
    assert ways == {"TP4", "TP4, 3 drafted"}
    fast = answer(one_tier(False, drafts=DRAFTS, tok_per_s_per_user=150.0), predict, extrapolate=True)
    assert fast.plan.pools[0].split == "TP4, 3 drafted" and fast.plan.pools[0].drafted_tok == 3
    with pytest.raises(ValueError, match="3 drafted tokens: no measured row has any"):
        answer(one_tier(False, drafts=DRAFTS, tok_per_s_per_user=150.0), predict)


def test_every_way_is_asked_of_the_law_as_it_is() -> None:
    asked: set[tuple[bool, bool]] = set()

    def law(d: Deployment, *, isl: int, osl: int, concurrency: int, **more: Any) -> Prediction:
        asked.add(("disaggregation" in more, "speculation" in more))
        more.pop("speculation", None)
        found: Prediction = unit_law(12.0, 0.8)(d, isl=isl, osl=osl, concurrency=concurrency, **more)
        return found

    answer(one_tier(["1:3"], drafts=DRAFTS), law)
    assert asked == set(itertools.product((False, True), repeat=2))
