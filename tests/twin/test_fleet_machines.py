"""Machines of a simulated factory: they start cold, draw power, cost by the hour. Each law by hand."""

from __future__ import annotations

import xml.dom.minidom
from pathlib import Path

import pytest
from small_factory import HEAD, bought, holds, owned, run, stream

from wattmill.app.simulating.laws import CannotSimulate
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.twin.fleet.demand import Between, Fixed, Skewed, lengths
from wattmill.twin.fleet.model import cold_start_s, hours_nusd
from wattmill.twin.fleet.provider import Bucket
from wattmill.twin.fleet.spec import ColdStart, Disaggregation, EngineLaw, Hours
from wattmill.twin.plots.svg import Axis, Series, lines, scatter, stacked, ticks
from wattmill.units import NUSD_PER_USD, PS_PER_S, UJ_PER_J


def test_by_hand_a_cold_start_is_the_sum_of_its_parts() -> None:
    # 60 + 10e9 / 0.5e9 + 16e9 / 2e9 + 30 + 5 = 60 + 20 + 8 + 35
    start = ColdStart(
        provisioning_s=60.0, image_bytes=10e9, image_bytes_per_s=0.5e9, weight_bytes=16e9,
        storage_bytes_per_s=2e9, compile_s=30.0, warm_up_s=5.0,
    )  # fmt: skip
    assert cold_start_s(start) == 123.0


def test_by_hand_hours_and_energy_cost_what_was_declared() -> None:
    # Two hours at 3.60 USD, 1.5 kWh at 0.20 USD: 7.20 + 0.30.
    hours = Hours(nusd_per_h=3_600_000_000, nusd_per_kwh=200_000_000)
    assert hours_nusd(hours, 2 * 3_600 * PS_PER_S, round(1.5 * 3.6e6) * UJ_PER_J) == 7_500_000_000


COLD = """
[pools.near.twin.scaling]
most = 3
target = 1.0
look_s = 5.0
up_after_s = 1000.0
down_after_s = 60.0
most_at_once = 2
[pools.near.twin.cold_start]
provisioning_s = 10.0
image_gb = 4.0
image_gb_per_s = 2.0
storage_gb_per_s = 4.0
compile_s = 3.0
warm_up_s = 1.0
source = "made up"
"""


def test_by_hand_new_replicas_serve_when_they_have_started_and_their_idle_joules_and_dollars_are_booked(
    tmp_path: Path,
) -> None:
    # Cold start: 10 + 4 / 2 + 16 (two bytes for each of 8e9 parameters) / 4 + 3 + 1 = 20 s; asked at 5 s.
    crowd = stream(per_s=40.0, duration_s=30.0, output_tok="50")
    ran = run(HEAD + owned("near", slots=4, twin=COLD, queue=5_000), tmp_path, crowd)
    timeline, pool = ran.factory.timeline, ran.factory.pools[0]
    assert timeline is not None
    resized = timeline.resizes[0]
    assert (resized.at_s, resized.replicas) == (5.0, 3)
    ready = {m.at_s: m.ready for m in timeline.moments}
    starting = {m.at_s: m.starting for m in timeline.moments}
    assert (ready[24.0], starting[24.0]) == (1, 2)
    assert (ready[26.0], starting[26.0]) == (3, 0)
    before = sum(4.0 < a.ended_us / 1e6 - ran.factory.clock.start_us / 1e6 <= 24.0 for a in ran.attempts)
    after = sum(26.0 < a.ended_us / 1e6 - ran.factory.clock.start_us / 1e6 <= 46.0 for a in ran.attempts)
    assert after > 2 * before
    # Idle watts: 100 of the pool's one replica, so 100 W each while it is on, busy or starting.
    on_s = pool.paid_ps / PS_PER_S
    assert pool.drawn.idle_uj == pytest.approx(100.0 * on_s * UJ_PER_J, rel=1e-6)
    assert pool.drawn.dynamic_uj == pytest.approx(200.0 * pool.busy_ps / PS_PER_S * UJ_PER_J, rel=1e-6)
    hours = pool.hours_nusd
    assert hours is not None
    joules = (pool.drawn.idle_uj + pool.drawn.dynamic_uj) / UJ_PER_J
    assert hours == pytest.approx((3.6 / 3_600 * on_s + 0.36 / 3.6e6 * joules) * NUSD_PER_USD, abs=2)
    with Books(ran.home.ledger_db) as books:
        balances = books.balances()
    absorbed = balances["nusd", "cost:near"]
    assert balances["nusd", "idle:near"] == hours - absorbed
    assert balances["nusd", "payable:near"] == -hours
    assert holds(ran.audit)


def test_what_waits_at_the_gateway_fills_new_replicas_at_once(tmp_path: Path) -> None:
    """Without tiers each place has its own queue, and who waits there stays there; with them the gateway has
    it."""
    crowd = stream(per_s=40.0, duration_s=30.0, output_tok="50")
    text = HEAD + "[tiers.free]\nqueue = 5000\nqueue_s = 600.0\n" + owned("near", slots=4, twin=COLD)
    ran = run(text, tmp_path, crowd)
    ended_s = [a.ended_us / 1e6 - ran.factory.clock.start_us / 1e6 for a in ran.attempts]
    before = sum(4.0 < at <= 24.0 for at in ended_s)
    after = sum(26.0 < at <= 46.0 for at in ended_s)
    assert after > 2.8 * before
    assert holds(ran.audit)


def test_replicas_that_are_ended_finish_what_they_are_at(tmp_path: Path) -> None:
    twin = """
[pools.near.twin.scaling]
target = 1.0
look_s = 1.0
down_after_s = 3.0
most = 4
"""
    short = stream(per_s=3.0, duration_s=40.0, output_tok="100")
    ran = run(HEAD + owned("near", slots=16, replicas=4, twin=twin), tmp_path, short)
    assert ran.factory.timeline is not None and ran.factory.timeline.resizes
    assert min(m.ready for m in ran.factory.timeline.moments) < 4
    assert all(a.status == "finished" for a in ran.attempts) and len(ran.attempts) > 80
    assert holds(ran.audit)


def test_machines_that_fail_at_random_are_repaired_and_what_they_cost_meanwhile_is_paid(
    tmp_path: Path,
) -> None:
    twin = "[pools.near.twin.outages]\nmtbf_h = 0.005\nmttr_s = 5.0\n"
    text = HEAD + owned("near", replicas=2, slots=8, twin=twin) + bought("cloud")
    ran = run(text, tmp_path, stream(per_s=5.0, duration_s=120.0))
    pool = ran.factory.pools[0]
    assert pool.failures > 3
    end_s = ran.factory.clock.now()
    assert pool.paid_ps == 2 * ran.factory.clock.now_ps
    on_s = pool.drawn.idle_uj / UJ_PER_J / 50.0  # idle watts of one of two replicas
    assert on_s < 2 * end_s - 5.0  # no power while it was down
    assert holds(ran.audit)


DEPLOYED = """
[pools.near.twin]
replicas = 2
[pools.near.twin.deployment]
accelerator = "H100-SXM"
model = "Llama-3.1-8B-Instruct"
weight_bits = 16
"""


def deployed(name: str) -> str:
    text = owned(name, slots=16, replicas=2)
    return text[: text.index(f"[pools.{name}.twin]")] + DEPLOYED


def test_a_deployment_runs_by_the_fitted_law_and_draws_what_its_batch_says(tmp_path: Path) -> None:
    ran = run(HEAD + deployed("near"), tmp_path, stream(per_s=0.5, duration_s=20.0), core="compiled")
    pool = ran.factory.pools[0]
    assert pool.spec.origin.provenance == "modelled" and "H100-SXM" in pool.spec.origin.source
    law = pool.spec.law
    assert isinstance(law, EngineLaw) and law.limits.kv_blocks > 10_000
    # Each request is alone: every step has one sequence, so that busy time draws the table's first watts.
    busy_s = pool.busy_ps / PS_PER_S
    alone_w = law.cost.power_mw[1] / 1_000
    idle_w = law.cost.idle_mw / 1_000
    assert 0.5 * 700 < alone_w < 700 and idle_w == pytest.approx(0.14 * 700)
    assert pool.drawn.dynamic_uj == pytest.approx((alone_w - idle_w) * busy_s * UJ_PER_J, rel=1e-3)
    assert pool.drawn.idle_uj == pytest.approx(idle_w * pool.paid_ps / PS_PER_S * UJ_PER_J, rel=1e-6)
    assert holds(ran.audit)


def test_a_deployment_that_does_not_fit_is_refused_with_the_way_out(tmp_path: Path) -> None:
    text = HEAD + deployed("near").replace("Llama-3.1-8B", "Llama-3.1-70B")
    with pytest.raises(ValueError, match="take more devices"):
        run(text, tmp_path, core="compiled")


def test_by_hand_a_bucket_gives_what_a_minute_allows_and_says_when_there_is_more() -> None:
    bucket = Bucket(60)
    assert bucket.wait_s(60.0, 0) == 0.0
    bucket.take(60.0)
    assert bucket.wait_s(1.0, 0) == 1.0
    assert bucket.wait_s(30.0, 10 * PS_PER_S) == 20.0
    assert bucket.wait_s(1_000.0, 60 * PS_PER_S) == 0.0  # more than a minute's worth waits for a full bucket


def test_lengths_say_what_they_mean() -> None:
    import random

    assert lengths(" 512 ") == Fixed(512)
    assert lengths("100-200") == Between(100, 200)
    assert lengths("p50 500 p95 2000") == Skewed(500.0, 2000.0)
    rng = random.Random(1)
    drawn = sorted(Skewed(500.0, 2_000.0).draw(rng) for _ in range(4_000))
    assert 470 < drawn[2_000] < 530 and 1_800 < drawn[3_800] < 2_200
    for bad in ("0", "9-3", "p50 10 p95 5", "about 5", ""):
        with pytest.raises(ValueError, match="must be tokens such as '512'"):
            lengths(bad)


def test_pictures_are_svg_with_a_name_and_round_numbers() -> None:
    one = lines(
        'Batch & "queue"', Axis("s"), Axis("requests"),
        [Series("a<b", [(0.0, 0.0), (10.0, 7.0)]), Series("limit", [(0.0, 8.0), (10.0, 8.0)], dashed=True)],
        steps=True,
    )  # fmt: skip
    two = scatter("Speed", Axis("tok/s", log=True), Axis("tok/s", log=True), [Series("p", [(1.0, 2.0)])])
    three = scatter(
        "Front", Axis("x"), Axis("y"), [Series("p", [(1, 2), (3, 3)])], diagonal=True, joined=True
    )
    empty = lines("Nothing", Axis("s"), Axis("W"), [Series("a", [])])
    for picture in (one, two, three, empty, stacked([one, two])):
        xml.dom.minidom.parseString(picture)
    assert 'aria-label="Batch &amp; &quot;queue&quot;"' in one or "aria-label='Batch &amp; \"queue\"'" in one
    assert ticks(0.0, 10.0, log=False) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert ticks(0.5, 2_000.0, log=True) == [1.0, 10.0, 100.0, 1_000.0]


DRAFTING = """
[pools.near.twin.speculation]
drafted_tok = 3
acceptance = 0.7
source = "made up"
"""


def test_a_pool_that_drafts_tokens_gives_what_the_law_says_in_the_mean_and_says_so(tmp_path: Path) -> None:
    """1 + 0.7 + 0.49 + 0.343 = 2.533 tokens a step of 10 ms: an answer of 200 takes some 79 of them."""
    text = HEAD + owned("near", slots=16, twin=DRAFTING)
    ran = run(text, tmp_path, stream(per_s=2.0, duration_s=60.0, output_tok="200"), core="compiled")
    pool = ran.factory.pools[0]
    assert pool.counts is not None and pool.counts.draws > 5_000
    assert pool.counts.drawn_tok / pool.counts.draws == pytest.approx(2.533, abs=0.05)
    decode_s = [(a.duration_us - a.ttft_us) / 1e6 for a in ran.attempts if a.ttft_us is not None]
    assert 0.6 < min(decode_s) < max(decode_s) < 1.3
    assert sum(decode_s) / len(decode_s) == pytest.approx(0.010 * 199 / 2.533, rel=0.1)
    assert holds(ran.audit)


def test_speculation_is_not_declared_for_a_place_that_is_bought(tmp_path: Path) -> None:
    text = HEAD + bought("cloud", twin=DRAFTING.replace("near", "cloud"))
    with pytest.raises(CannotSimulate, match="speculation is declared for an engine that we own"):
        run(text, tmp_path, core="compiled")


def test_machines_of_a_deployment_fail_and_their_engines_counts_stay_those_of_the_books(
    tmp_path: Path,
) -> None:
    twin = "[pools.near.twin.outages]\nmtbf_h = 0.005\nmttr_s = 5.0\n"
    text = HEAD + deployed("near") + twin + bought("cloud")
    ran = run(text, tmp_path, stream(per_s=5.0, duration_s=120.0, output_tok="300"), core="compiled")
    pool = ran.factory.pools[0]
    assert isinstance(pool.spec.law, EngineLaw) and pool.banked
    assert pool.failures > 3 and any(a.status == "failed" for a in ran.attempts)
    in_facts = sum(a.prefill_tok + a.output_tok for a in ran.attempts)
    assert in_facts == sum(sum(one.counted_tok) for one in ran.factory.pools)
    assert pool.counts is not None and pool.counts.void_tok > 0
    assert 0 < pool.counts.void_uj < pool.drawn.idle_uj + pool.drawn.dynamic_uj
    idle_s = pool.drawn.idle_uj / UJ_PER_J / (pool.spec.law.cost.idle_mw / 1_000)
    assert idle_s < 2 * ran.factory.clock.now() - 5.0  # no power while it was down
    assert holds(ran.audit)


SPLIT = """
[pools.near.twin.disaggregation]
prefill_replicas = 1
link_gb_per_s = 1.0
kv_bytes_per_tok = 100_000
latency_ms = 2.0
source = "made up"
"""


def test_a_disaggregated_pool_hands_prompts_over_and_its_books_hold(tmp_path: Path) -> None:
    """One prompt step of 10 + 0.1 x 100 = 20 ms, then 2 + 100 x 100 kB / 1 GB/s = 12 ms on the link, then 20
    steps of 10 ms: alone, first token after 20 ms and the last after 232."""
    text = HEAD + owned("near", slots=24, replicas=3, twin=SPLIT)
    ran = run(text, tmp_path, stream(per_s=3.0, duration_s=60.0), core="compiled")
    pool = ran.factory.pools[0]
    assert pool.counts is not None
    assert pool.counts.handed == len(ran.attempts) and pool.counts.handed_tok == 100 * len(ran.attempts)
    assert pool.counts.link_busy_ps == 12 * 10**9 * len(ran.attempts)
    alone = [a for a in ran.attempts if a.duration_us == 232_000]
    assert len(alone) > 0.5 * len(ran.attempts) and {a.ttft_us for a in alone} == {20_000}
    in_facts = sum(a.prefill_tok + a.output_tok for a in ran.attempts)
    assert in_facts == sum(pool.counted_tok)
    assert holds(ran.audit)


@pytest.mark.parametrize(("prefill", "replicas"), [(1, 2), (1, 4), (3, 4)])
def test_machines_of_both_kinds_fail_and_nothing_is_lost_from_the_books(
    tmp_path: Path, prefill: int, replicas: int
) -> None:
    """Also where the only machine of a kind is down: prompts then wait elsewhere, or on the link."""
    split = SPLIT.replace("prefill_replicas = 1", f"prefill_replicas = {prefill}")
    twin = split + "[pools.near.twin.outages]\nmtbf_h = 0.005\nmttr_s = 4.0\n"
    text = HEAD + owned("near", slots=16, replicas=replicas, twin=twin) + bought("cloud")
    ran = run(text, tmp_path, stream(per_s=6.0, duration_s=120.0, output_tok="80"), core="compiled")
    pool = ran.factory.pools[0]
    assert pool.counts is not None and pool.counts.handed > 100
    assert pool.failures > 3 and any(a.status == "failed" and a.pool == "near" for a in ran.attempts)
    in_facts = sum(a.prefill_tok + a.output_tok for a in ran.attempts)
    assert in_facts == sum(sum(one.counted_tok) for one in ran.factory.pools)
    assert pool.in_flight == 0
    assert holds(ran.audit)


TOGETHER = """
[pools.near.twin.scaling]
least = 3
most = 9
target = 0.5
window_s = 5.0
look_s = 2.0
up_after_s = 5.0
down_after_s = 20.0
"""
APART = """
[pools.near.twin.disaggregation.scaling]
most = 3
target = 0.1
window_s = 5.0
look_s = 2.0
up_after_s = 5.0
down_after_s = 20.0
[pools.near.twin.scaling]
most = 4
target = 0.5
window_s = 5.0
look_s = 2.0
up_after_s = 5.0
down_after_s = 20.0
"""
STARTS = """
[pools.near.twin.cold_start]
provisioning_s = 4.0
image_gb = 2.0
image_gb_per_s = 2.0
storage_gb_per_s = 16.0
compile_s = 1.0
warm_up_s = 1.0
source = "made up"
"""  # 4 + 2 / 2 + 16 / 16 + 1 + 1 = 8 s


def test_by_hand_a_split_pool_that_scales_together_keeps_its_proportion() -> None:
    """One of three computes prompts: 2 of 5 (5/3 = 1.67), 3 of 8 (2.67), 3 of 9, and at least one of each."""
    split = Disaggregation(
        prefill=1, handover_ps=1, handover_ps_per_tok=0, kv_bytes_per_tok=1.0, shared_link=False
    )
    assert [split.prefill_of(n, 3) for n in (2, 3, 4, 5, 8, 9)] == [1, 1, 1, 2, 3, 3]
    most = Disaggregation(
        prefill=9, handover_ps=1, handover_ps_per_tok=0, kv_bytes_per_tok=1.0, shared_link=True
    )
    assert [most.prefill_of(n, 10) for n in (2, 3, 10, 20)] == [1, 2, 9, 18]


@pytest.mark.parametrize("rules", [TOGETHER, APART], ids=["together", "apart"])
def test_a_split_pool_grows_and_shrinks_with_its_load_and_nothing_is_lost(tmp_path: Path, rules: str) -> None:
    """A crowd for half a minute, then next to nobody: both kinds come after their cold start, and go."""
    crowd = stream(per_s=25.0, duration_s=30.0, output_tok="200")
    rest = stream(per_s=0.2, duration_s=160.0)
    text = HEAD + owned("near", slots=24, replicas=3, twin=SPLIT + STARTS + rules, queue=5_000)
    ran = run(text, tmp_path, crowd, rest, core="compiled")
    pool, timeline = ran.factory.pools[0], ran.factory.timeline
    assert timeline is not None and pool.counts is not None
    grown = [r for r in timeline.resizes if r.replicas > 2]
    assert grown
    if rules is APART:
        assert {r.pool for r in timeline.resizes} == {"near", "near prefill"}
    else:
        assert {r.pool for r in timeline.resizes} == {"near"}
    most_ready = max(m.ready for m in timeline.moments)
    assert most_ready > 3, "more came"
    kinds = [r.prefill for r in pool.replicas if r.state == "ready"]
    assert len(kinds) < most_ready, "and went"
    assert any(kinds) and not all(kinds), "of each kind one stays"
    assert pool.cold_starts > 0
    # Each prompt went over once, whoever came or went meanwhile, and every token is in the books.
    finished = sum(a.status == "finished" for a in ran.attempts)
    assert finished == len(ran.attempts) > 600
    assert pool.counts.handed == finished
    assert sum(a.prefill_tok + a.output_tok for a in ran.attempts) == sum(pool.counted_tok)
    assert pool.in_flight == 0
    # Idle watts of each replica while it was on, starting and ending ones too: 100 W of three.
    on_s = pool.paid_ps / PS_PER_S
    assert pool.drawn.idle_uj == pytest.approx(100.0 / 3 * on_s * UJ_PER_J, rel=1e-6)
    assert 0 < pool.prefill_ps < pool.paid_ps
    assert holds(ran.audit)


def test_nothing_is_handed_over_to_a_replica_that_has_not_started_or_is_to_end(tmp_path: Path) -> None:
    """One machine decodes its 8 requests of 200 tokens in 2 s: 4 a second, until another is there."""
    rules = APART.replace("target = 0.5", "target = 1.0")
    crowd = stream(per_s=12.0, duration_s=20.0, output_tok="200")
    text = HEAD + owned("near", slots=16, replicas=2, twin=SPLIT + STARTS + rules, queue=5_000)
    rest = stream(per_s=6.0, duration_s=120.0, output_tok="200")
    ran = run(text, tmp_path, crowd, rest, core="compiled")
    timeline = ran.factory.timeline
    assert timeline is not None
    asked_s = next(r.at_s for r in timeline.resizes if r.pool == "near")
    ended_s = [a.ended_us / 1e6 - ran.factory.clock.start_us / 1e6 for a in ran.attempts]
    before = sum(at <= asked_s + 8.0 for at in ended_s)
    assert before == pytest.approx(4.0 * (asked_s + 8.0), rel=0.3)
    after = sum(asked_s + 10.5 < at <= asked_s + 14.5 for at in ended_s)
    assert after > 2 * 4.0 * 4.0, "the new ones decode what comes"
    # 12 requests at once go on; who is asked to end has the last of his after 2 s, and gets no other.
    asked_to_end_s = [r.at_s for r in timeline.resizes if r.pool == "near" and "sufficed" in r.reason]
    pool = ran.factory.pools[0]
    ended_after_s = [
        min(r.ended_ps / PS_PER_S - at for at in asked_to_end_s if at * PS_PER_S <= r.ended_ps)
        for r in pool.ended
        if not r.prefill and r.ended_ps is not None
    ]
    assert ended_after_s and max(ended_after_s) < 2.5
    assert all(a.status == "finished" for a in ran.attempts)
    assert holds(ran.audit)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("", "must be less than `replicas`, 1: some must decode"),
        ("kv", "there is no `deployment` that says it"),
        ("[pools.near.twin.scaling]\nmost = 3\n", "scaling.least is 1, must be at least 2"),
    ],
)
def test_a_pool_that_could_not_hand_over_is_refused(tmp_path: Path, more: str, says: str) -> None:
    twin = SPLIT.replace("kv_bytes_per_tok = 100_000\n", "") if more == "kv" else SPLIT + more
    text = HEAD + owned("near", replicas=2 if more else 1, twin=twin)
    with pytest.raises(CannotSimulate, match=says):
        run(text, tmp_path, core="compiled")
