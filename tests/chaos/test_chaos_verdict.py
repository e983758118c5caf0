"""The verdict of the chaos test finds what is planted: a judge that never convicts proves nothing."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import books  # noqa: E402
import chaos_verdict  # noqa: E402
from chaos_verdict import Arrival, Verdict  # noqa: E402

EPOCH = "0123456789ab"
SECOND = 1_000_000


def arrival(label: str, tokens: int, *, pool: str = "a", end: str = "done", start_us: int = 0) -> Arrival:
    """An engine that made one token each 10 ms from `start_us` on."""
    return Arrival(
        f"eng-{pool}-{label}",
        label,
        30,
        pool,
        start_us,
        [start_us + 10_000 * i for i in range(1, tokens + 1)],
        end,
    )


def intent(seq: int, label: str, *, pool: str = "a", clamp: int = 60) -> books.JournalIntent:
    return books.JournalIntent(EPOCH, seq, seq, pool, 200, clamp, 9_000, label)


def booked(seq: int, tokens: int, **changes: object) -> books.Booked:
    plain = books.Booked(
        EPOCH, seq, seq, "a", "finished", "measured", 30, tokens, 1000 + tokens, SECOND, None
    )
    return plain._replace(**changes)


def client(tokens: int, end: str = "done") -> dict[str, object]:
    return {"label": "x", "end": end, "tokens": tokens}


ARRIVALS = [arrival("r1", 20), arrival("r2", 40, end="left")]
CLIENTS = {"r1": client(20), "r2": client(39, "left")}
INTENTS = [intent(1, "r1"), intent(2, "r2")]
BOOKED = [booked(1, 20), booked(2, 39, status="aborted", source="estimated", ended_us=420_000)]


def judged(**changes: object) -> Verdict:
    witnesses = {"arrivals": ARRIVALS, "clients": CLIENTS, "intents": INTENTS, "booked": BOOKED} | changes
    return chaos_verdict.judge(**witnesses)  # type: ignore[arg-type]


def test_books_that_agree_with_both_logs_are_acquitted():
    assert judged() == Verdict(requests=2, lost=[], doubled=[], in_doubt=0, unsent=1, unmetered=0)


def test_a_deleted_row_is_lost():
    verdict = judged(booked=BOOKED[1:])
    assert len(verdict.lost) == 2 and not verdict.doubled  # the engine's request and the client's answer
    assert "0 attempts are booked" in verdict.lost[0]


def test_a_repeated_row_is_doubled():
    verdict = judged(booked=[*BOOKED, BOOKED[0]])
    assert not verdict.lost
    assert any(f"{EPOCH}/1 is booked 2 times" in finding for finding in verdict.doubled)


def test_the_same_request_booked_under_another_number_is_doubled():
    verdict = judged(booked=[*BOOKED, booked(3, 20)], intents=[*INTENTS, intent(3, "r1")])
    assert len(verdict.doubled) == 2 and not verdict.lost


@pytest.mark.parametrize(("tokens", "lost", "doubled"), [(19, 2, 0), (21, 0, 2)])
def test_one_token_too_few_is_lost_and_one_too_many_is_doubled(tokens: int, lost: int, doubled: int):
    verdict = judged(booked=[booked(1, tokens), BOOKED[1]])
    assert (len(verdict.lost), len(verdict.doubled)) == (lost, doubled)


def test_a_measured_prompt_that_differs_is_found():
    assert judged(booked=[booked(1, 20, prompt_tok=29), BOOKED[1]]).lost
    assert judged(booked=[booked(1, 20, prompt_tok=31), BOOKED[1]]).doubled


def test_an_aborted_stream_may_miss_only_what_the_engine_could_not_send_any_more():
    sent_long_ago = judged(booked=[BOOKED[0], BOOKED[1]._replace(output_tok=20)])
    assert len(sent_long_ago.lost) == 2  # 20 of the 32 logged 100 ms before the end; 39 reached the client
    assert judged(booked=[BOOKED[0], BOOKED[1]._replace(output_tok=41)]).doubled


def test_an_attempt_in_doubt_covers_its_tokens_by_its_reservation_and_is_counted():
    doubt = BOOKED[1]._replace(status="in_doubt", source="none", output_tok=0, prompt_tok=0, doubted="open")
    verdict = judged(booked=[BOOKED[0], doubt])
    assert (verdict.lost, verdict.doubled, verdict.in_doubt) == ([], [], 1)
    too_small = judged(booked=[BOOKED[0], doubt], intents=[INTENTS[0], intent(2, "r2", clamp=39)])
    assert "in doubt at a reservation of 39 tokens, the engine made 40" in too_small.lost[0]


def test_a_failed_over_request_is_two_attempts_at_two_places_and_one_answer():
    verdict = judged(
        arrivals=[arrival("r1", 0, end="cut"), arrival("r1", 20, pool="b")],
        clients={"r1": client(20)},
        intents=[intent(1, "r1"), intent(2, "r1", pool="b")],
        booked=[booked(1, 0, status="failed", source="none", prompt_tok=0), booked(2, 20, pool="b")],
    )
    assert (verdict.lost, verdict.doubled) == ([], [])


def test_a_place_that_was_asked_again_after_an_attempt_that_nobody_counted_is_paired_in_time():
    twice = [
        arrival("r1", 0, end="cut"),
        dataclasses.replace(arrival("r1", 20, start_us=500_000), prompt_tok=31),
    ]
    attempts = [
        booked(1, 0, status="failed", source="unmetered", prompt_tok=0, charge_nusd=0),
        booked(3, 20, request=1, prompt_tok=31),
    ]
    verdict = judged(
        arrivals=[*twice, ARRIVALS[1]], booked=[*attempts, BOOKED[1]], intents=[*INTENTS, intent(3, "r1")]
    )
    assert not verdict.lost and not verdict.doubled
    unseen = judged(
        booked=[attempts[0], booked(3, 20, request=1), BOOKED[1]], intents=[*INTENTS, intent(3, "r1")]
    )
    assert not unseen.lost and not unseen.doubled, "the first one never arrived"
    more = judged(
        arrivals=[*twice, ARRIVALS[1]],
        booked=[attempts[0], booked(3, 21, request=1, prompt_tok=31), BOOKED[1]],
        intents=[*INTENTS, intent(3, "r1")],
    )
    assert any("21" in finding for finding in more.doubled)


def test_tokens_of_no_engine_are_doubled():
    verdict = judged(booked=[*BOOKED, booked(9, 5)], intents=[*INTENTS, intent(9, "r9")])
    assert "never arrived at the engine" in verdict.doubled[0]


def test_a_request_that_only_the_engine_knows_is_lost():
    verdict = judged(arrivals=[*ARRIVALS, dataclasses.replace(arrival("r7", 3))])
    assert len(verdict.lost) == 1 and "r7" in verdict.lost[0]
