"""A folder as a factory leaves it: what is told of its requests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger_by_hand import Factory, by_hand, holds
from wattmill.app.seeing.auditing import audit_home
from wattmill.app.seeing.explain import UnknownRequest, _share, explain
from wattmill.app.seeing.figures import figures
from wattmill.app.seeing.request_list import request_page
from wattmill.cli.explain import lines
from wattmill.ledger.rating import rate
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.vocab.fact import Refused, Replayed
from wattmill.vocab.usage import Usage


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[Factory]:
    yield from by_hand(tmp_path)


def test_a_finished_request_is_explained_before_and_after_it_is_booked(factory: Factory) -> None:
    seq = factory.intent()
    running = explain(factory.home, factory.id(seq))
    assert running.tries[0].status == "running" and not running.tries[0].booked
    factory.end(seq)
    before = explain(factory.home, factory.id(seq))
    factory.book()
    after = explain(factory.home, factory.id(seq))
    assert not before.tries[0].booked and after.tries[0].booked
    assert before.charge_nusd == after.charge_nusd == rate(factory.price, Usage(50, 60, cached_tok=20))
    assert after.tries[0].tokens == {"input": 30, "cached_input": 20, "output": 60} == before.tries[0].tokens
    assert after.spender == "demo/load/k" and after.label == "mine"
    assert [c.pool for c in after.candidates] == ["edge", "local"] and after.excluded == {"cloud": "privacy"}
    text = "\n".join(f"{a} {b}" for a, b in lines(after))
    for word in (
        "edge is cheapest",
        "runner-up",
        "cloud: the data is too sensitive for the place (privacy)",
        "30 input, 20 cached input, 60 output",
        "demo/load",
    ):
        assert word in text, text
    assert holds(audit_home(factory.home))


def test_an_aborted_a_failed_over_and_a_refused_request_tell_their_whole_story(factory: Factory) -> None:
    aborted = factory.intent()
    factory.end(aborted, Usage(50, 3), status="aborted", usage_source="estimated", error="client_left")
    first = factory.intent()
    factory.end(first, None, status="failed", usage_source="none", error="connection reset", ttft_us=None)
    second = factory.intent("local", request=first, attempt=1, route=None)
    factory.end(second)
    factory.seq += 1
    refusal = Refused(
        factory.seq, factory.now, factory.path, "chat", "m", "budget_exceeded", "team 'load' has no money"
    )
    factory.gateway.append_note(refusal)
    stories = []
    for _ in range(2):
        stories.append([explain(factory.home, factory.id(seq)) for seq in (aborted, first, refusal.seq)])
        factory.book()
    for one, over, no in stories:
        assert one.tries[0].status == "aborted" and one.tries[0].source == "estimated" and one.charge_nusd > 0
        assert [(t.pool, t.status) for t in over.tries] == [("edge", "failed"), ("local", "finished")]
        assert over.tries[0].charge_nusd == 0 and over.tries[0].cause == "connection reset"
        assert (no.refusal, no.message, no.spender) == (
            "budget_exceeded",
            "team 'load' has no money",
            "demo/load/k",
        )
    assert holds(audit_home(factory.home))


def test_what_was_cut_or_is_in_doubt_is_not_counted_as_finished(factory: Factory) -> None:
    factory.end(factory.intent())
    factory.end(factory.intent(), status="cut")
    factory.intent()
    factory.kill()
    factory.book()

    def counts() -> dict[str, str]:
        return {one.id: one.figure.text for one in figures(factory.home, factory.now).statuses}

    assert (counts()["finished"], counts()["failed"]) == ("1", "2")
    with Books(factory.home.ledger_db) as books:
        assert len(request_page(books, limit=9, status="finished").rows) == 1
        assert len(request_page(books, limit=9, status="failed").rows) == 2
    assert holds(audit_home(factory.home))


def test_what_is_not_known_is_told_as_unknown_and_never_as_0(factory: Factory) -> None:
    running, unmetered = factory.intent(), factory.intent()
    factory.end(unmetered, None, usage_source="unmetered", charge_nusd=300_000, cost_nusd=300_000)
    factory.book()
    story = explain(factory.home, factory.id(running))
    assert (story.charge_nusd, story.cost_nusd) == (None, None)
    assert any("not known before its end" in value for _, value in lines(story))
    told = dict(lines(explain(factory.home, factory.id(unmetered))))
    assert told["  tokens"].startswith("unknown")
    with Control(factory.home.control_db) as control:
        control.set_cap(factory.path[1], 0)
    assert any("cap of 0" in words for words in explain(factory.home, factory.id(running)).budget)


def test_an_unknown_request_gets_a_clear_answer(factory: Factory) -> None:
    with pytest.raises(UnknownRequest, match="neither in the books nor in a journal"):
        explain(factory.home, factory.id(999))
    with pytest.raises(UnknownRequest, match="is no request id"):
        explain(factory.home, "chatcmpl-1")
    done = subprocess.run(
        [sys.executable, "-m", "wattmill", "explain", factory.id(5), "--home", str(factory.home.root)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "no request" in done.stderr


def test_a_replay_is_explained_by_the_request_whose_answer_it_told(factory: Factory) -> None:
    first = factory.intent()
    factory.end(first)
    again = factory.seq = factory.seq + 1
    factory.gateway.append_note(
        Replayed(again, factory.now, factory.path, "chat", "m", factory.id(first), "mine")
    )
    for _ in range(2):  # before and after the journal is booked
        story = explain(factory.home, factory.id(again))
        assert (story.replay_of, story.charge_nusd, story.tries) == (factory.id(first), 0, ())
        told = dict(lines(story))
        assert told["again"].startswith(f"the answer of {factory.id(first)} was told once more")
        assert "demo/load/k" in told["spender"] and told["charge"] == "0 USD: no place was asked"
        factory.book()
    assert holds(audit_home(factory.home))


def test_a_refusals_story_shows_the_limits_that_stand_above_it(factory: Factory) -> None:
    with Control(factory.home.control_db) as control:
        Limits(control).put(factory.path[1], "requests", "minute", 60)
    factory.seq += 1
    factory.gateway.append_note(
        Refused(factory.seq, factory.now, factory.path, "chat", "m", "limit_reached", "team has a limit ...")
    )
    told = lines(explain(factory.home, factory.id(factory.seq)))
    (line,) = [text for _, text in told if "per minute" in text]
    assert (
        line.startswith("team demo/load")
        and "0 requests of 60 requests per minute used, 60 requests left" in line
    )


def test_what_was_spent_of_a_cap_never_reads_nothing() -> None:
    told = [
        _share(used, cap) for used, cap in ((0, 100_000), (1, 100_000), (61_000, 100_000), (5, None), (0, 0))
    ]
    assert told == ["0% used", "less than 1% used", "61% used", "no cap", "cap of 0: nothing is admitted"]
