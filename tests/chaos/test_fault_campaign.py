"""The fault campaign in small, and its judge: planted double charges, gaps and lies must be found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import books  # noqa: E402
import faults_verdict  # noqa: E402


@pytest.mark.timeout(120)
def test_some_hundred_faults_charge_nobody_twice_and_what_can_be_served_is_served() -> None:
    ran = subprocess.run(
        [sys.executable, str(BENCHMARKS / "faults.py"), "--injections", "400", "--callers", "24"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    report = ran.stdout[-6000:] + ran.stderr[-3000:]
    assert ran.returncode == 0, report
    last = ran.stdout.strip().splitlines()[-1]
    found = re.fullmatch(
        r"injections=(\d+) double_charges=0 audit_difference=0 servable=(\d+) served=(\d+) \(.*%\)", last
    )
    assert found is not None, report
    injections, servable, served = map(int, found.groups())
    assert injections >= 400 and served >= 0.999 * servable and servable > 200, report


# ---- the judge


def attempt(**more: Any) -> books.Booked:
    fields: dict[str, Any] = {
        "epoch": "e", "request": 1, "seq": 1, "pool": "a", "status": "finished", "source": "measured",
        "prompt_tok": 100, "output_tok": 10, "charge_nusd": faults_verdict.price(100, 10), "ended_us": 1,
        "doubted": None,
    }  # fmt: skip
    return books.Booked(**(fields | more))


def intent(seq: int, pool: str = "a") -> books.JournalIntent:
    return books.JournalIntent("e", seq, 1, pool, 200, 20, 10**6, "r1")


SEEN = {"label": "r1", "tokens": 10, "end": "done", "told_nusd": faults_verdict.price(100, 10)}


def judged(seen: dict[str, Any], *attempts: books.Booked) -> list[str]:
    intents = [intent(one.seq, one.pool) for one in attempts]
    return faults_verdict.double_charges({"r1": SEEN | seen}, intents, list(attempts))


def test_one_answer_at_its_price_is_no_double_charge() -> None:
    free = attempt(seq=2, status="failed", charge_nusd=0, pool="b")
    assert judged({}, attempt(), free) == []


@pytest.mark.parametrize(
    "seen, attempts, finding",
    [
        ({}, [attempt(), attempt()], "is booked 2 times"),
        ({}, [attempt(), attempt(seq=2, pool="b")], "2 finished attempts for one answer"),
        ({"tokens": 0, "end": "refused"}, [attempt(status="failed")], "saw nothing and is charged"),
        ({}, [attempt(charge_nusd=2 * faults_verdict.price(100, 10))], "worth at most"),
        ({"tokens": 4, "end": "error"}, [attempt(status="failed")], "4 tokens arrived, worth at most"),
        ({"told_nusd": 1}, [attempt()], "was told 1 nUSD, the books say"),
    ],
)
def test_a_planted_double_charge_is_found(
    seen: dict[str, Any], attempts: list[books.Booked], finding: str
) -> None:
    assert any(finding in one for one in judged(seen, *attempts))


def test_an_answer_in_two_parts_pays_each_token_once_and_each_reading_of_the_prompt() -> None:
    first = attempt(status="failed", output_tok=4, charge_nusd=faults_verdict.price(100, 4))
    second = attempt(seq=2, pool="b", prompt_tok=104, output_tok=6, charge_nusd=faults_verdict.price(104, 6))
    told = first.charge_nusd + second.charge_nusd
    assert judged({"told_nusd": told}, first, second) == []
    greedy = second._replace(charge_nusd=faults_verdict.price(104, 10))
    assert judged({"told_nusd": first.charge_nusd + greedy.charge_nusd}, first, greedy)
