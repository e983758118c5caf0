"""Where paid hours and joules go: each loss has one name, one stage and its own size; the rest stays put."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficiency_facts import BEGIN, FULL, HALF, MIDDLE, Life, S, read, write
from wattmill.app.efficiency.drill import NAMES, rows
from wattmill.app.efficiency.model import efficiency
from wattmill.app.efficiency.page import page
from wattmill.app.efficiency.reading import seen
from wattmill.app.efficiency.spans import both, length, less, union
from wattmill.app.efficiency.spec import (
    CAPACITY,
    WATTS,
    Attempt,
    Chain,
    Efficiency,
    Joules,
    Overhead,
    PlaceSeen,
    Seen,
)

POINT = 0.01


def bars(chain: Chain) -> dict[str, float | None]:
    """Return each loss as a share of what enters its stage."""
    return {loss.name: loss.share for stage in chain.stages for loss in stage.losses}


def factors(chain: Chain) -> dict[str, float | None]:
    return {stage.name: stage.factor for stage in chain.stages}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Efficiency:
    return efficiency(read(tmp_path_factory.mktemp("base"), Life()))


def test_the_reference_case_comes_out_of_facts_that_hold_those_losses(base: Efficiency) -> None:
    told = factors(base.capacity)
    assert {name: None if f is None else round(f, 3) for name, f in told.items()} == {
        "availability": 0.97,
        "occupancy": 0.8,
        "batching": 0.75,
        "SLO goodput": 0.95,
        "non-waste": 0.95,
        "accepted": None,
    }
    assert base.capacity.factor is not None and round(base.capacity.factor, 2) == 0.53
    assert base.places[0].best_per_s == pytest.approx(FULL) and base.places[0].paid_s == pytest.approx(1000)


def test_unknown_acceptance_is_left_out_and_never_one(base: Efficiency) -> None:
    accepted = base.capacity.stages[-1]
    assert accepted.factor is None and accepted.provenance == "unknown"
    assert base.capacity.unknown == ("accepted",)
    told = page(base)
    assert "accepted: unknown and left out" in told.says
    assert told.chains[0].stages[-1].factor.text == "–"
    assert any("accepted is unknown" in note for note in told.notes)


TIME = 10  # segments of 8 s


@pytest.mark.parametrize(
    ("loss", "life", "moves"),
    [
        ("idle", Life().moved("idle", TIME), 80 / 970),
        ("queue", Life().moved("queue", TIME), 80 / 970),
        ("network", Life().moved("network", TIME), 80 / 970),
        ("over-provisioned", Life().moved("over", 40), 320 / 970),
        ("shallow batch", dataclasses.replace(Life(), busy=(FULL, HALF, HALF, HALF) * 24 + (MIDDLE,)),
         24 * 8 * (FULL - HALF) / (776 * FULL)),
        ("late", dataclasses.replace(Life(), late=97 + 40), 40 / 1940),
        ("failed", dataclasses.replace(Life(), failed=31 + 40), 40 / 1843),
        ("aborted", dataclasses.replace(Life(), aborted=31 + 40), 40 / 1843),
        ("retried", dataclasses.replace(Life(), retried=30 + 40), 40 / 1843),
    ],
)  # fmt: skip
def test_an_injected_loss_moves_its_own_bar_and_no_other(
    base: Efficiency, tmp_path: Path, loss: str, life: Life, moves: float
) -> None:
    before, after = bars(base.capacity), bars(efficiency(read(tmp_path, life)).capacity)
    moved = {name: (after[name] or 0.0) - (before[name] or 0.0) for name in before}
    assert moved.pop(loss) == pytest.approx(moves, abs=0.1 * POINT)
    assert {name: round(by / POINT, 2) for name, by in moved.items() if abs(by) >= 0.1 * POINT} == {}


def test_a_place_that_is_down_loses_its_paid_time_to_that_alone(base: Efficiency, tmp_path: Path) -> None:
    """A tenth of the up time becomes down time, with a tenth of everything that was in it."""
    life = dataclasses.replace(
        Life(), busy=(FULL, HALF) * 43 + (MIDDLE,), idle_s=174.0, down_s=130.0,
        late=87, failed=28, aborted=28, retried=27,
    )  # fmt: skip
    before, after = bars(base.capacity), bars(efficiency(read(tmp_path, life)).capacity)
    assert after["down"] == pytest.approx(0.13, abs=1e-6)
    for name in set(before) - {"down"}:
        assert (after[name] or 0.0) == pytest.approx(before[name] or 0.0, abs=0.1 * POINT), name


JOULES = Joules(
    meter="host", total_uj=10**9, idle_uj=4 * 10**8, unattributed_uj=10**8, windows=10, provenance="modelled",
    source="host model",
)  # fmt: skip


def a_place(**more: object) -> PlaceSeen:
    return PlaceSeen(name="own", up=((0, 100 * S),), **more)  # type: ignore[arg-type]


def an_attempt(n: int, start_s: float, end_s: float, tokens: int, **more: object) -> Attempt:
    start, end = round(start_s * S), round(end_s * S)
    fields: dict[str, object] = {
        "id": f"req_{n}", "number": 0, "pool": "own", "tier": "", "waits_us": start, "left_us": start,
        "queues_us": start, "works_us": start, "first_us": start, "end_us": end, "prefill_tok": 0,
        "output_tok": tokens, "status": "finished", "kept": None, "energy_uj": 10**8,
    }  # fmt: skip
    return Attempt(**{**fields, **more})  # type: ignore[arg-type]


def a_period(*attempts: Attempt, place: PlaceSeen | None = None, **more: object) -> Seen:
    fields: dict[str, object] = {
        "start_us": 0, "end_us": 100 * S, "joules": JOULES, "places": (place or a_place(),),
    }  # fmt: skip
    return Seen(attempts=attempts, **{**fields, **more})  # type: ignore[arg-type]


def test_what_the_site_takes_moves_its_own_bar_and_no_other() -> None:
    """Per joule at the meter 0.08 lost in conversion and 0.12 in cooling: 80 J and 120 J of 1,200 J."""
    period = a_period(an_attempt(1, 0, 50, 100))

    def told(conversion: float | None, cooling: float | None) -> dict[str, float | None]:
        overheads = (
            Overhead(name="conversion", per_j=conversion, provenance="modelled", source="chain"),
            Overhead(name="cooling", per_j=cooling, provenance="modelled", source="plant"),
        )
        watts = efficiency(msgspec.structs.replace(period, overheads=overheads)).watts
        assert watts is not None
        return bars(watts)

    both_known = told(0.08, 0.12)
    assert both_known["conversion"] == pytest.approx(80 / 1200)
    assert both_known["cooling"] == pytest.approx(120 / 1120)
    more = told(0.20, 0.12)
    assert more["conversion"] == pytest.approx(200 / 1320)
    assert {k: v for k, v in more.items() if k != "conversion"} == pytest.approx(
        {k: v for k, v in both_known.items() if k != "conversion"}
    )
    assert told(None, 0.12)["conversion"] is None


def test_joules_go_from_the_meter_to_useful_ones() -> None:
    """1,000 J: 400 idle, 100 of no request, 500 of requests of which one of 100 J failed."""
    period = a_period(an_attempt(1, 0, 50, 100), an_attempt(2, 50, 60, 10, status="failed"))
    watts = efficiency(period).watts
    assert watts is not None
    told = factors(watts)
    assert told == pytest.approx(
        {"conversion": None, "cooling": None, "idle": 0.6, "attributed": 5 / 6, "useful": 0.8}
    )
    assert watts.useful == pytest.approx(400.0) and watts.factor == pytest.approx(0.4)
    assert {stage.provenance for stage in watts.stages} == {"unknown", "modelled"}


def test_what_a_meter_above_the_host_sees_is_taken_off_once() -> None:
    """1,250 J at the site's meter, of which 250 J never reached the host: a declared site is not added."""
    seen_twice = msgspec.structs.replace(
        JOULES, total_uj=125 * 10**7, overhead_uj=25 * 10**7, foreign_uj=10**8
    )
    declared = (Overhead(name="conversion", per_j=0.1, provenance="modelled", source="chain"),)
    watts = efficiency(a_period(an_attempt(1, 0, 50, 100), joules=seen_twice, overheads=declared)).watts
    assert watts is not None and watts.whole == pytest.approx(1250.0)
    named = bars(watts)
    assert named["conversion"] == pytest.approx(0.2) and named["cooling"] is None
    assert named["idle power"] == pytest.approx(0.4) and named["foreign"] == pytest.approx(100 / 600)


def test_padding_is_a_loss_of_its_own_once_somebody_tells_it() -> None:
    """100 s paid and 60 s worked at up to 10 tokens a second; 60 tokens of the missing were padding."""
    attempts = (an_attempt(1, 0, 30, 300), an_attempt(2, 30, 60, 150))
    silent = bars(efficiency(a_period(*attempts)).capacity)
    told = bars(efficiency(a_period(*attempts, place=a_place(padding_work=60.0))).capacity)
    assert silent["padding"] is None and silent["shallow batch"] == pytest.approx(150 / 600)
    assert told["padding"] == pytest.approx(60 / 600) and told["shallow batch"] == pytest.approx(90 / 600)
    same = {name: share for name, share in told.items() if name not in ("padding", "shallow batch")}
    assert same == {name: share for name, share in silent.items() if name in same}


def test_a_failure_that_was_sent_again_is_retried_and_one_that_was_not_is_failed() -> None:
    broken = an_attempt(1, 0, 10, 50, status="failed")
    again = an_attempt(1, 10, 20, 100, number=1)
    hedge = an_attempt(1, 10, 25, 100, number=2)
    left = an_attempt(2, 30, 40, 100, status="aborted")
    alone = an_attempt(3, 40, 50, 100, status="cut")
    named = bars(efficiency(a_period(broken, again, hedge, left, alone)).capacity)
    work = 450.0
    assert named["retried"] == pytest.approx(150 / work)
    assert named["aborted"] == pytest.approx(100 / work) and named["failed"] == pytest.approx(100 / work)


def test_an_attempt_that_came_to_nothing_was_on_its_way_and_no_work() -> None:
    """An engine that is gone takes 20 s of a request's time: no slow batch, and nothing was wasted."""
    told = efficiency(
        a_period(
            an_attempt(1, 0, 40, 400, engine_told=True),
            an_attempt(2, 50, 70, 0, status="failed", first_us=None),
        )
    )
    named = bars(told.capacity)
    assert named["network"] == pytest.approx(0.2) and named["idle"] == pytest.approx(0.4)
    assert named["shallow batch"] == pytest.approx(0.0) and named["failed"] == pytest.approx(0.0)


def test_where_all_is_late_nothing_is_left_and_that_is_no_unknown() -> None:
    told = efficiency(a_period(*(an_attempt(n, n * 0.7, n * 0.7 + 0.7, 7, kept=False) for n in range(100))))
    assert told.capacity.useful == 0.0 and told.capacity.factor == 0.0
    assert told.capacity.unknown == () and factors(told.capacity)["non-waste"] is None
    assert page(told).facts[0].figure.text == "0.0 %"


def test_without_views_promises_or_engine_times_those_stages_are_unknown(tmp_path: Path) -> None:
    life = dataclasses.replace(Life(), busy=(FULL, HALF) * 4 + (MIDDLE,), late=0, promised=False, tells=False,
                               failed=2, aborted=2, retried=2)  # fmt: skip
    told = efficiency(read(tmp_path, life))
    named = bars(told.capacity)
    assert named["late"] is None and named["network"] is None and named["idle"] is not None
    unseen = efficiency(
        a_period(an_attempt(1, 0, 50, 100), place=msgspec.structs.replace(a_place(), up=None))
    )
    assert factors(unseen.capacity)["availability"] is None
    assert unseen.capacity.factor == pytest.approx(0.5)


def test_a_place_that_nobody_asked_is_paid_all_the_same() -> None:
    other = PlaceSeen(name="spare", up=((0, 100 * S),), declared_per_s=2.0, gap_s=60.0)
    told = efficiency(a_period(an_attempt(1, 0, 100, 200), places=(a_place(), other)))
    assert told.capacity.whole == pytest.approx(400.0) and told.capacity.factor == pytest.approx(0.5)
    assert bars(told.capacity)["over-provisioned"] == pytest.approx(0.5)


def test_the_best_rate_may_lie_before_the_period(tmp_path: Path) -> None:
    """Full batches in the first half, half ones in the second: that half is held against the first."""
    life = dataclasses.replace(Life(), busy=(FULL,) * 20 + (HALF,) * 20, down_s=0.0, idle_s=78.0, late=0)
    home = write(tmp_path, life)
    told = efficiency(seen(home, since_us=BEGIN + 200 * S, until_us=BEGIN + 10**9, env={}))
    assert told.places[0].best_per_s == pytest.approx(FULL)
    assert told.places[0].best_at_us is not None and told.places[0].best_at_us < told.start_us
    assert factors(told.capacity)["batching"] == pytest.approx(HALF / FULL)
    assert told.places[0].paid_s == pytest.approx(198)


def test_flops_bytes_and_dollars_are_what_a_hand_reckons() -> None:
    """One answer of 100 tokens after a prompt of 300, 10 s to its first and 40 s from there, two devices.

    FLOP: 400 tokens x 2e9 = 8e11, of 50 s x 1e11 = 5e12: MFU 0.16. Bytes: 100 steps x 1e9 and 100 tokens that
    read 350 tokens of cache in the mean x 1e4, 1.0035e11 of 50 s x 1e10: MBU 0.2007. Dollars: 100 s of an
    hour of 3.6 $ and 1,000 J at 0.36 $/kWh.
    """
    place = a_place(
        accelerators=2, flop_per_tok=2e9, peak_flop_per_s=1e11, peak_bytes_per_s=1e10, weight_bytes=1e9,
        kv_bytes_per_tok=1e4, hourly_nusd=3_600_000_000,
    )  # fmt: skip
    answer = an_attempt(1, 0, 50, 100, prefill_tok=300, first_us=10 * S)
    told = efficiency(a_period(answer, place=place, tariff_nusd_per_kwh=360_000_000))
    assert told.flop == pytest.approx(8e11) and told.mfu == pytest.approx(0.16)
    assert told.mbu == pytest.approx(1.0035e11 / 5e11)
    assert told.paid_usd == pytest.approx(0.1 + 1000 / 3.6e6 * 0.36)
    assert told.accelerator_h == pytest.approx(200 / 3600) and told.accelerators_declared
    figures = {fact.label: fact.figure for fact in page(told).facts}
    assert figures["tokens per joule"].value == pytest.approx(0.1)
    assert figures["tokens per TFLOP"].value == pytest.approx(125.0)
    assert figures["tokens per accelerator-hour"].value == pytest.approx(1800.0)
    assert figures["MBU"].provenance == "estimated" and figures["MFU"].provenance == "modelled"


def test_what_a_lever_gives_is_what_its_removal_gives(base: Efficiency, tmp_path: Path) -> None:
    """Without its failures the base life is as much better as the page says."""
    gain = next(x for s in base.capacity.stages for x in s.losses if x.name == "failed").gain
    without = efficiency(read(tmp_path, dataclasses.replace(Life(), failed=0))).capacity.useful
    assert gain is not None and without / base.capacity.useful - 1 == pytest.approx(gain, abs=2e-3)


def test_every_loss_has_a_stage_of_its_own_a_lever_and_rows(base: Efficiency) -> None:
    for stages in (CAPACITY, WATTS):
        names = [name for _, losses in stages for name in losses]
        assert len(names) == len(set(names))
    told = page(base)
    linked = [loss.points.rows for chain in told.chains for stage in chain.stages for loss in stage.losses]
    assert all(linked)
    assert all(fact.figure.rows for fact in told.facts)
    assert [lever.gain.value for lever in told.levers] == sorted(
        (lever.gain.value or 0.0 for lever in told.levers), reverse=True
    )


def test_the_rows_of_a_loss_add_up_to_it(tmp_path: Path) -> None:
    period = read(tmp_path, Life().moved("queue", TIME))
    told = efficiency(period)
    amounts = {x.name: x.amount or 0.0 for s in told.capacity.stages for x in s.losses}
    best = told.places[0].best_per_s or 0.0
    for name in ("down", "idle", "queue", "network"):
        found = rows(period, name)
        assert found is not None
        assert sum(float(row["seconds"] or 0) for row in found[2]) * best == pytest.approx(amounts[name])
    for name in ("late", "failed", "aborted", "retried"):
        found = rows(period, name)
        assert found is not None
        assert sum(float(row["work_tok"] or 0) for row in found[2]) == pytest.approx(amounts[name])
    metered = a_period(an_attempt(1, 0, 50, 100), an_attempt(2, 50, 60, 10, status="failed"))
    for name, recorded, chain in (
        ("capacity", period, told.places[0].chain),
        ("watts", metered, efficiency(metered).watts),
    ):
        found = rows(recorded, name)
        assert found is not None and chain is not None
        unit = "tok" if name == "capacity" else "j"
        first, last = found[2][0], found[2][-1]
        lost = sum(float(row[f"lost_{unit}"] or 0.0) for row in found[2])
        assert first[f"enters_{unit}"] == chain.whole and last[f"leaves_{unit}"] == chain.useful
        assert chain.whole - lost == pytest.approx(chain.useful)
    assert rows(period, "nothing") is None and all(rows(period, name) is not None for name in NAMES)


some_spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda p: (min(p), max(p))))


@given(some_spans, some_spans)
def test_spans_are_sets_of_instants(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    def of(spans: list[tuple[int, int]]) -> set[int]:
        return {t for start, end in spans for t in range(start, end)}

    one, two = union(a), union(b)
    assert of(one) == of(a) and length(one) == len(of(a))
    assert of(both(one, two)) == of(a) & of(b)
    assert of(less(one, two)) == of(a) - of(b)


attempts = st.builds(
    lambda n, number, start, lasts, wait, marks, tokens, prompt, status, kept: an_attempt(
        n, start, start + lasts, tokens, number=number, waits_us=round((start - wait) * S),
        queues_us=round((start + marks[0] * lasts) * S),
        works_us=round((start + marks[1] * lasts) * S), first_us=round((start + marks[2] * lasts) * S),
        engine_told=True, prefill_tok=prompt, status=status, kept=kept,
    ),
    st.integers(1, 6), st.integers(0, 2), st.floats(-10, 100), st.floats(0, 30), st.floats(0, 5),
    st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted), st.integers(0, 500), st.integers(0, 500),
    st.sampled_from(["finished", "aborted", "failed", "cut", "in_doubt", "running"]),
    st.sampled_from([None, True, False]),
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(attempts, max_size=12, unique_by=lambda a: (a.id, a.number)), st.randoms())
def test_no_loss_is_negative_and_all_of_them_with_the_useful_end_are_the_whole(several, random) -> None:
    told = efficiency(a_period(*several))
    shuffled = list(several)
    random.shuffle(shuffled)
    again = efficiency(a_period(*shuffled))
    for chain, other in ((told.capacity, again.capacity), (told.watts, again.watts)):
        assert chain is not None and other is not None
        assert other.useful == pytest.approx(chain.useful, abs=1e-6)
    chain = told.capacity
    lost = [x.amount for s in chain.stages for x in s.losses if x.amount is not None]
    assert all(amount >= -1e-6 for amount in lost)
    assert chain.useful + sum(lost) == pytest.approx(chain.whole, abs=1e-6)
    product = 1.0
    for stage in chain.stages:
        product *= 1.0 if stage.factor is None else stage.factor
        assert stage.factor is None or -1e-9 <= stage.factor <= 1.0 + 1e-9
    if chain.factor is not None:
        assert product == pytest.approx(chain.factor, abs=1e-9)
