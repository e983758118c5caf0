"""A simulated factory: the gateway's own objects decide, books balance, caps hold, runs repeat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_factory import HEAD, bought, holds, owned, run, stream

import wattmill.app.running.worker_tiers as live_tiers
import wattmill.app.simulating.factory as simulated
import wattmill.app.worker as live
import wattmill.distribution.gateway as live_gateway
import wattmill.twin.fleet.ends as twin_ends
import wattmill.twin.fleet.gateway as twin_gateway
import wattmill.twin.fleet.services as twin_services
from wattmill.app.seeing.replay import replay
from wattmill.app.simulating.demand import Who
from wattmill.app.simulating.factory import Core
from wattmill.distribution import breaker, placing, retry_budget, trying_again
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.ledger.stores.sqlite_tiers import tier_sums
from wattmill.twin.fleet import books as twin_books
from wattmill.twin.fleet.books import SimulatedBooks
from wattmill.units import NUSD_PER_USD
from wattmill.vocab.fact import End

TWO = HEAD + owned("near") + owned("far", usd_out="2")


# ---- the same objects


def test_the_twin_decides_reserves_and_rates_by_the_workers_own_objects() -> None:
    assert simulated.FleetView is live.FleetView
    assert simulated.Allotments is live.Allotments
    assert simulated.AdmissionGate is live_tiers.AdmissionGate
    assert simulated.SeenByAll is live_tiers.SeenByAll
    assert simulated.route_weights is live.route_weights
    assert twin_ends.rate is live.rate
    assert twin_services.worst_case_nusd is live.worst_case_nusd
    assert twin_services.output_affordable is live.output_affordable
    assert twin_gateway.worst_spend is placing.worst_spend
    assert twin_gateway.output_room is placing.output_room
    assert twin_services.BackendState is live_gateway.BackendState
    assert issubclass(twin_services.BackendState, breaker.Breaker)
    assert twin_gateway.RetryBudget is retry_budget.RetryBudget
    assert trying_again.Placing is placing.Placing


def test_the_gates_of_a_simulation_are_a_workers_gates(tmp_path: Path) -> None:
    text = HEAD + "[tiers.free]\n[tiers.premium]\n" + owned("near")
    factory = run(text, tmp_path).factory
    first, last = factory.world.gate._setup.gates
    assert type(first) is live_tiers.TierGate
    assert type(last) is live_tiers.AdmissionGate


def test_who_waited_for_a_slot_teaches_the_twin_no_pace_of_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    real = twin_services.BackendState.observe

    def observe(state: Any, **seen: Any) -> None:
        told.append(seen.get("waited", False))
        real(state, **seen)

    monkeypatch.setattr(twin_services.BackendState, "observe", observe)
    run(HEAD + owned("near"), tmp_path, stream(per_s=30.0, duration_s=5.0))
    assert any(told) and not all(told)


def test_the_books_are_kept_by_the_ledgers_own_bookkeeper() -> None:
    from wattmill.ledger import following

    assert twin_books.Bookkeeper is following.Bookkeeper
    assert twin_books.settle_held is following.settle_held


def test_decisions_of_a_simulated_period_replay_from_its_journal(tmp_path: Path) -> None:
    ran = run(TWO + bought("cloud"), tmp_path, stream(per_s=15.0))
    report = replay(ran.home)
    assert report.decisions == len(ran.attempts) > 200
    assert (report.identical, report.different, report.not_replayable) == (report.decisions, 0, 0)


# ---- laws


DEMANDS = st.builds(
    stream,
    per_s=st.sampled_from([0.5, 4.0, 25.0]),
    duration_s=st.sampled_from([2.0, 8.0]),
    input_tok=st.sampled_from(["1", "40-2000", "p50 200 p95 3000"]),
    output_tok=st.sampled_from(["1", "2-90", "p50 30 p95 200"]),
    max_output_tok=st.sampled_from([None, 32]),
    turns=st.sampled_from([None, "1-4"]),
    clients=st.sampled_from(
        [
            (Who(team="acme/search"),),
            (Who(team="acme/search", tries=3), Who(team="acme/chat", share=0.5, privacy="private")),
            (Who(team="acme/chat", stream=False),),
        ]
    ),
)
TWINS = st.sampled_from(
    [
        "",
        "[pools.near.twin.outages]\nmtbf_h = 0.002\nmttr_s = 2.0\n",
        "[pools.near.twin.outages]\ndown_s = [[1.0, 3.0], [4.0, 4.5]]\n",
        "[pools.near.twin.scaling]\nmost = 3\nlook_s = 1.0\nup_after_s = 1.0\ndown_after_s = 2.0\n",
    ]
)


@settings(deadline=None, max_examples=20)
@given(
    DEMANDS, TWINS, st.sampled_from([None, "0.002", "0.00002"]), st.booleans(), st.integers(0, 99),
    st.sampled_from(["python", "compiled"]),
)  # fmt: skip
def test_tokens_money_and_joules_are_conserved_and_caps_hold(
    asked: object, twin: str, cap: str | None, tiers: bool, seed: int, core: Core
) -> None:
    text = HEAD.replace("[tenants.acme.teams.search]", "[tenants.acme.teams.search]\n" + (
        f'cap_usd = "{cap}"' if cap else ""
    ))  # fmt: skip
    text += "[tiers.free]\n" if tiers else ""
    text += owned("near", twin=twin, slots=2) + bought("cloud", twin="requests_per_min = 200\nspread = 0.4")
    with tempfile.TemporaryDirectory() as folder:
        ran = run(text, Path(folder), asked, seed=seed, core=core)  # type: ignore[arg-type]
        assert holds(ran.audit)  # every commodity sums to zero, told charges are usage times price ...
        assert not ran.audit.in_doubt and not ran.audit.overrun_nusd
        for place in ran.audit.places:
            assert place.witness == "engine counter" and place.difference_tok == 0
        in_facts = sum(a.prefill_tok + a.output_tok for a in ran.attempts)
        assert in_facts == sum(sum(pool.counted_tok) for pool in ran.factory.pools)
        drawn = sum(pool.drawn.idle_uj + pool.drawn.dynamic_uj for pool in ran.factory.pools)
        assert drawn == ran.overview.energy.total_uj
        with Books(ran.home.ledger_db) as books:
            for state in ran.factory._states:
                assert (state.busy, state.serving, state.ahead_tok) == (0, 0, 0)
            if cap is not None:
                keys = [c.caller.key for c in ran.factory.clients if c.name.startswith("acme/search/")]
                spent = sum(books.by_node()[key].charge_nusd for key in keys if key in books.by_node())
                assert spent <= float(cap) * NUSD_PER_USD


def test_a_cap_holds_when_a_crowd_comes_at_once_and_most_of_it_is_used(tmp_path: Path) -> None:
    cap_nusd = 2_000_000
    text = HEAD.replace("[tenants.acme.teams.search]", '[tenants.acme.teams.search]\ncap_usd = "0.002"')
    crowd = stream(per_s=2_000.0, duration_s=0.5, output_tok="20", input_tok="10")
    ran = run(text + owned("near", slots=64, queue=5_000), tmp_path, crowd)
    spent = sum(attempt.charge_nusd for attempt in ran.attempts)
    assert 0.85 * cap_nusd < spent <= cap_nusd
    assert set(ran.overview.refused) <= {"budget_exceeded", "limit_reached"}
    assert len(ran.attempts) + sum(ran.overview.refused.values()) == ran.factory.world.asked
    assert holds(ran.audit)


def test_an_answer_is_clamped_to_what_the_cap_still_allows(tmp_path: Path) -> None:
    # 100 prompt tokens at most 400 by bound: 200,000 nUSD, and 1 for rounding its classes; what is left for
    # output, 99,999 at 1,000 each with 1 for rounding, is 99 tokens.
    text = HEAD.replace("[tenants.acme.teams.search]", '[tenants.acme.teams.search]\ncap_usd = "0.0003"')
    ran = run(text + owned("near"), tmp_path, stream(per_s=9.0, duration_s=1.0, output_tok="500"))
    first = ran.attempts[0]
    assert first.output_tok == 99
    assert first.charge_nusd == 100 * 500 + 99 * 1_000


OTHER_PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/twin")
from small_factory import HEAD, bought, owned, run, stream
from wattmill.twin.fleet.files import fact_lines
ran = run(HEAD + owned("near") + bought("cloud", twin="spread = 0.5"), Path(sys.argv[1]), stream(per_s=9.0),
          seed=int(sys.argv[2]))
lines = fact_lines(ran.home.journal / ran.factory.books.epoch)
sys.stdout.buffer.write(b"\\n".join(lines))
"""


def test_the_same_seed_writes_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    said = []
    for number, (seed, hashes) in enumerate([(3, "1"), (3, "2"), (4, "2")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        told = subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS, str(folder), str(seed)],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hashes},
        )
        said.append(told.stdout)
    assert said[0] == said[1] != said[2]
    assert json.loads(said[0].splitlines()[0])["fact"] == "Snapshot"


def test_both_cores_agree_to_the_microsecond_where_memory_is_no_question(tmp_path: Path) -> None:
    """In steps of whole microseconds; the compiled one lets time pass from arrival to arrival."""
    said = []
    for core in ("python", "compiled"):
        (tmp_path / core).mkdir()
        ran = run(TWO, tmp_path / core, stream(per_s=12.0, input_tok="100-400", output_tok="5-80"), core=core)
        said.append(
            sorted((a.request, a.pool, a.ttft_us, a.duration_us, a.charge_nusd) for a in ran.attempts)
        )
        assert holds(ran.audit)
    assert len(said[0]) > 200
    same = sum(a == b for a, b in zip(*said, strict=True))
    assert same > 0.97 * len(said[0])  # who learns first of two that end at one instant may differ


# ---- tiers


def test_the_highest_tier_keeps_its_promise_while_the_lowest_waits(tmp_path: Path) -> None:
    text = HEAD + (
        "[tiers.free]\n"
        "[tiers.premium]\nttft_s = 1.0\ntok_per_s = 20.0\n"
        + owned("near", slots=8)
    )  # fmt: skip
    # 8 slots x 100 tok/s, 50 tokens an answer: 16 requests a second; 4 of premium and 28 of free come.
    crowd = stream(
        per_s=32.0,
        duration_s=20.0,
        output_tok="50",
        clients=(
            Who(team="acme/search", tier="premium", share=4),
            Who(team="acme/chat", tier="free", share=28),
        ),
    )
    ran = run(text, tmp_path, crowd)
    with Books(ran.home.ledger_db) as books:
        tiers = {one.tier: one for one in tier_sums(books.db, 0)}
    premium, free = tiers["premium"], tiers["free"]
    assert premium.kept_share == 1.0 and premium.refused == 0
    assert free.queued_n > 100 and free.refused > 0
    assert free.queued_us / free.queued_n > 5 * premium.queued_us / max(1, premium.queued_n)
    assert holds(ran.audit)


# ---- failures, by hand


def test_what_a_dying_place_was_at_goes_to_the_next_and_the_operator_pays_for_it(tmp_path: Path) -> None:
    down = "[pools.near.twin.outages]\ndown_s = [[10.0, 15.0]]\n"
    text = HEAD + owned("near", twin=down) + owned("far", usd_out="9")
    # One stream of long prompts: 30,000 would not fit; 8,000 tokens take 0.8 s + 4 steps before any output.
    ran = run(text, tmp_path, stream(per_s=4.0, duration_s=20.0, input_tok="2000", output_tok="21"))
    failed = [a for a in ran.attempts if a.status == "failed"]
    assert failed and all(
        a.pool == "near" and 9.9e6 < a.ended_us - ran.factory.clock.start_us < 15e6 for a in failed
    )
    unseen = [a for a in failed if a.output_tok == 0]
    assert all(a.charge_nusd == 0 for a in unseen)
    for attempt in [a for a in failed if a.output_tok]:  # its reader had a part: it is charged for that
        assert attempt.charge_nusd == attempt.output_tok * 1_000 + 2_000 * 500
        assert attempt.cost_nusd > 0
    again = {a.request for a in ran.attempts if a.number == 1}
    assert {a.request for a in unseen} == again
    assert all(a.pool == "far" and a.status == "finished" for a in ran.attempts if a.number == 1)
    during = [a for a in ran.attempts if 11e6 < a.started_us - ran.factory.clock.start_us < 14.9e6]
    assert during and {a.pool for a in during if a.status == "finished"} == {"far"}
    after = [a for a in ran.attempts if a.started_us - ran.factory.clock.start_us > 16.5e6]
    assert after and "near" in {a.pool for a in after}
    assert holds(ran.audit)


def test_what_an_outage_took_unseen_costs_all_that_was_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody saw how much was made of an answer that was to come at once: it is never zero, nor a count."""
    told: list[End] = []
    real = SimulatedBooks.append_intent

    def append_end(books: SimulatedBooks, fact: End) -> None:
        told.append(fact)
        real(books, fact)

    monkeypatch.setattr(SimulatedBooks, "append_end", append_end)
    down = "[pools.cloud.twin.outages]\ndown_s = [[10.0, 15.0]]\n"
    text = HEAD + bought("cloud", twin=down, usd_out="1") + owned("far", usd_out="9")
    whole = stream(per_s=8.0, clients=(Who(team="acme/search", stream=False),))
    ran = run(text, tmp_path, whole)
    lost = [end for end in told if end.usage_source == "unmetered"]
    assert lost and {(end.status, end.usage, end.charge_nusd) for end in lost} == {("failed", None, 0)}
    # The worst case that was reserved: 400 tokens bound the prompt and 21 follow, at 1 USD per million.
    assert all(421_000 <= end.cost_nusd < 421_010 for end in lost)
    assert all(421_000 <= end.kept_nusd < 421_010 for end in lost)
    assert holds(ran.audit)


def test_a_request_alone_takes_what_the_law_says(tmp_path: Path) -> None:
    # 100 prompt tokens: one step of 10 ms + 100 x 0.1 ms = 20 ms; then 20 steps of 10 ms.
    ran = run(HEAD + owned("near"), tmp_path, stream(per_s=0.2, duration_s=60.0))
    alone = [a for a in ran.attempts if a.duration_us == 220_000]
    assert alone and all(a.ttft_us == 20_000 for a in alone)


# ---- providers, by hand


def test_beyond_its_limit_a_provider_says_when_to_come_back_and_gets_nothing_until_then(
    tmp_path: Path,
) -> None:
    text = HEAD + bought("cloud", twin="requests_per_min = 12")
    # 12 at once, then the 13th is told: (1 - room) / 12 x 60 s <= 5 s.
    ran = run(text, tmp_path, stream(per_s=40.0, duration_s=1.0, clients=(Who(team="acme/chat"),)))
    limited = [a for a in ran.attempts if a.cause == "upstream_rate_limited"]
    assert len([a for a in ran.attempts if a.status == "finished"]) == 12
    assert len(limited) == 1 and limited[0].output_tok == 0 and limited[0].cost_nusd == 0
    assert ran.overview.refused == {"no_healthy_place": ran.factory.world.asked - 13}


def test_a_client_that_comes_back_when_it_was_told_to_is_served(tmp_path: Path) -> None:
    text = HEAD + bought("cloud", twin="requests_per_min = 60")
    patient = stream(per_s=70.0, duration_s=1.0, clients=(Who(team="acme/chat", tries=20),))
    ran = run(text, tmp_path, patient)
    served = [a for a in ran.attempts if a.status == "finished"]
    assert len(served) == ran.factory.world.asked - ran.factory.world.came_back
    assert ran.factory.world.came_back > 0


# ---- what must be refused


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"per_s": None}, "neither `trace` nor `per_s`"),
        ({"input_tok": "many"}, "a length is 'many'"),
        ({"clients": (Who(team="acme/nobody"),)}, "no team 'acme/nobody'"),
        ({"clients": (Who(team="acme/chat", tier="gold"),)}, "no tier 'gold'"),
        ({"model": "x"}, "no model 'x'"),
        ({"trace": "no.csv"}, "there is no trace"),
    ],
)
def test_a_demand_that_cannot_be_is_refused_with_what_could(
    more: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"known|must be|there is no|neither") as refused:
        run(TWO, tmp_path, stream(**more))
    assert said in str(refused.value)
