"""What a request makes others wait, and what it waits for prompts before it: by hand calculation."""

from __future__ import annotations

import msgspec
import pytest

from wattmill.scheduling.policies import POLICIES
from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.request import Request
from wattmill.vocab.route import NO_HINTS, Hints, Route

ASK = Request(
    id="", endpoint="chat", model="m", pool=None, stream=True, input_bound_tok=800, max_output_tok=40
)  # fmt: skip
CALLER = Caller(key=3, name="key", path=(1, 2, 3))
CHEAP = Pool(
    name="cheap",
    models=frozenset({"m"}),
    capabilities=frozenset({"chat"}),
    context_tok=2_048,
    privacy="private",
    slots=64,
    queue=64,
    charge_in_nusd_per_mtok={"m": 100_000_000},
    charge_out_nusd_per_mtok={"m": 400_000_000},
    prefill_tok_per_s=200.0,
    decode_tok_per_s=40.0,
    slowdown=0.05,
    ahead_share=1.0,
)
CALM = msgspec.structs.replace(
    CHEAP, name="calm", charge_out_nusd_per_mtok={"m": 500_000_000}, decode_tok_per_s=13.0, slowdown=0.0
)


def decide(*pools: Pool, busy: tuple[int, ...], others: float = 1.0, hints: Hints = NO_HINTS) -> Route:
    answer = POLICIES["cheapest-adequate"](
        ASK, CALLER, Fleet(id=1, at_us=0, pools=pools), busy=busy, weights=Weights(others=others), hints=hints
    )
    assert isinstance(answer, Route)
    return answer


def test_a_prompt_waits_for_those_before_it_where_prompts_wait_for_each_other() -> None:
    alone = decide(CHEAP, busy=(0,)).candidates[0]
    behind = decide(CHEAP, busy=(0,), hints=Hints(ahead_tok=(400,))).candidates[0]
    assert behind.expected_ttft_s - alone.expected_ttft_s == pytest.approx(400 / 200.0)
    apart = msgspec.structs.replace(CHEAP, ahead_share=0.0)
    assert decide(apart, busy=(0,), hints=Hints(ahead_tok=(400,))).candidates[0].expected_ttft_s == 1.0


def test_the_waits_of_others_are_in_the_score_and_not_in_its_own_seconds() -> None:
    """40 others wait for a prompt of 200 / 200 = 1 s and for half of 40 tok x 0.05 / 40 s = 0.05 s each; and
    a place that is 1 + 40 x 0.05 = 3 times slower than empty passes each wait on threefold."""
    selfish, fair = (decide(CHEAP, busy=(40,), others=o).candidates[0] for o in (0.0, 1.0))
    assert fair.expected_s == selfish.expected_s
    assert fair.score - selfish.score == pytest.approx(0.0001 * 40 * 3 * (1.0 + 0.5 * 0.05))


def test_a_busy_place_is_spared_only_where_others_count() -> None:
    kind = decide(CHEAP, CALM, busy=(40, 0))
    assert decide(CHEAP, CALM, busy=(40, 0), others=0.0).candidates[0].pool == "cheap"
    assert kind.candidates[0].pool == "calm"
    assert kind.reason == "calm keeps others from waiting more than the cheaper cheap saves"


def test_in_a_full_place_as_many_come_behind_as_are_ahead() -> None:
    """6 wait: (6 + 1) / 64 of a service time each way, service 1 s + 40 x (1 + 63 x 0.05) / 40 s."""
    selfish, fair = (decide(CHEAP, busy=(70,), others=o).candidates[0] for o in (0.0, 1.0))
    queued_s = 7 / 64 * (1.0 + 1.0 + 63 * 0.05)
    assert selfish.expected_ttft_s == pytest.approx(1.0 + queued_s)
    assert fair.score - selfish.score == pytest.approx(
        0.0001 * (63 * (1.0 + 63 * 0.05) * (1.0 + 0.5 * 0.05) + queued_s)
    )
