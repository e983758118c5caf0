"""What a worker shows its policy, what it tells the journal of it, and that the journal decides the same."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from wattmill import __version__
from wattmill.app.declared.policy_named import policy_named
from wattmill.app.dice import dice
from wattmill.app.home import Home
from wattmill.app.seeing.replay import replay
from wattmill.cli.replay import replay_app
from wattmill.distribution.backend_state import BackendState
from wattmill.ledger.journal import Journal
from wattmill.scheduling import fleet as fleets
from wattmill.scheduling.cascade import Signals
from wattmill.scheduling.fleet import FleetView
from wattmill.scheduling.memory import Memory
from wattmill.scheduling.ranking import Look, Place
from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Asker, Fact, Intent, Refused, Snapshot
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request, terms_of
from wattmill.vocab.route import Route
from wattmill.vocab.usage import Usage

CALLER = Caller(key=3, name="o/t/k", path=(1, 2, 3))


@dataclasses.dataclass
class Life:
    busy: int = 0
    healthy: bool = True
    reachable: bool = True
    prefill_tok_per_s: float | None = None
    decode_tok_per_s: float | None = None
    slowdown: float = 0.0
    ttft_factor: float = 1.0
    ahead_tok: int = 0
    ahead_share: float = 0.0
    decode_share: float = 0.5

    def expect(self, **declared: float) -> None:
        self.declared = declared


class Clock:
    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def now(self) -> float:
        return self.us / 1e6

    def wall_us(self) -> int:
        return self.us


class Notes:
    """A journal that keeps its notes, or has no room."""

    epoch = "0123456789ab"

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.room = True

    def append_intent(self, fact: Fact) -> None:
        raise AssertionError

    append_end = append_intent

    def append_note(self, fact: Fact) -> bool:
        if self.room:
            self.facts.append(fact)
        return self.room

    def of(self, kind: type) -> list[Fact]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


def pool(name: str, **changes: object) -> Pool:
    base = Pool(
        name=name,
        models=frozenset({"m"}),
        capabilities=frozenset({"chat"}),
        context_tok=4_096,
        privacy="private",
        slots=2,
        queue=2,
        charge_in_nusd_per_mtok={"m": 100_000_000},
        charge_out_nusd_per_mtok={"m": 400_000_000},
        charge_cached_nusd_per_mtok={"m": 10_000_000},
        prefill_tok_per_s=200.0,
        decode_tok_per_s=40.0,
    )
    return msgspec.structs.replace(base, **changes)


def ask(number: int = 1, **changes: object) -> Request:
    base = Request(
        id=f"req_0123456789ab_{number:x}", endpoint="chat", model="m", pool=None, stream=False,
        input_bound_tok=2_000, max_output_tok=None,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def memory_of(worker: int) -> Memory:
    draws = dice(5, worker=worker)
    return Memory(expected_output_tok=128, seed=draws.seed, draw=draws.draw)


class Rig:
    def __init__(self, *pools: Pool, journal: object | None = None, **more: object) -> None:
        self.pools = pools or (pool("edge"), pool("cloud", charge_out_nusd_per_mtok={"m": 600_000_000}))
        self.life = {p.name: Life() for p in self.pools}
        self.clock = Clock()
        self.journal = journal or Notes()
        self.memory = memory_of(0)
        self.weights = more.pop("weights", Weights())
        self.view = self.fresh(**more)

    def fresh(self, **more: object) -> FleetView:
        first = self.view.fleet.id + 1 if hasattr(self, "view") else 1
        self.view = FleetView(
            pools=self.pools, life=self.life, weights=self.weights, journal=self.journal, clock=self.clock,
            first_id=first, memory=self.memory, named=policy_named, version=__version__, **more,
        )  # fmt: skip
        return self.view


def test_a_view_tells_the_journal_what_it_shows_and_by_which_rules() -> None:
    rig = Rig(weights=Weights(usd_per_s=0.5))
    (told,) = rig.journal.of(Snapshot)
    assert msgspec.msgpack.decode(told.fleet, type=Fleet) == rig.view.fleet
    assert msgspec.msgpack.decode(told.weights, type=Weights) == rig.weights
    assert (told.policy, told.seed, told.version) == ("cheapest-adequate", rig.memory.seed, __version__)


def test_a_caller_is_told_once_for_each_value_and_again_after_a_reload() -> None:
    rig = Rig()
    routes = [rig.view.route(ask(n), CALLER) for n in range(3)]
    (told,) = rig.journal.of(Asker)
    assert msgspec.msgpack.decode(told.caller, type=Caller) == CALLER
    assert {r.hints.asker for r in routes if isinstance(r, Route)} == {told.id}
    stricter = msgspec.structs.replace(CALLER, pools=frozenset({"cloud"}))
    second = rig.view.route(ask(4), stricter)
    assert isinstance(second, Route) and second.hints.asker == 2
    rig.fresh().route(ask(5), stricter)
    assert [fact.id for fact in rig.journal.of(Asker)] == [1, 2, 3]


def test_what_the_journal_had_no_room_for_is_told_later() -> None:
    rig = Rig()
    rig.journal.room = False
    rig.life["edge"].healthy = False
    rig.view.route(ask(1), CALLER)
    assert len(rig.journal.facts) == 1  # the first view only
    rig.journal.room = True
    rig.view.refresh()
    answer = rig.view.route(ask(2), CALLER)
    assert isinstance(answer, Route)
    assert rig.journal.of(Snapshot)[-1].id == answer.snapshot
    assert rig.journal.of(Asker)[-1].id == answer.hints.asker


def test_views_and_callers_are_told_again_so_that_old_segments_can_go() -> None:
    rig = Rig()
    rig.view.route(ask(1), CALLER)
    rig.clock.us += fleets.TELL_AGAIN_US - 1
    rig.view.refresh()
    assert len(rig.journal.of(Snapshot)) == 1
    rig.clock.us += 1
    rig.view.refresh()
    rig.view.route(ask(2), CALLER)
    assert len(rig.journal.of(Snapshot)) == 2 and len(rig.journal.of(Asker)) == 2


def test_a_figure_that_moved_by_less_than_a_tenth_makes_no_new_view() -> None:
    rig = Rig()
    for measured, views in ((43.0, 1), (45.0, 2), (48.0, 2), (41.0, 2), (30.0, 3)):
        rig.life["edge"].decode_tok_per_s = measured
        rig.view.refresh()
        assert len(rig.journal.of(Snapshot)) == views, measured
    assert rig.view.fleet.pools[0].decode_tok_per_s == 30.0


def test_health_is_seen_at_once_and_an_open_breaker_is_told_from_a_place_that_is_gone() -> None:
    rig = Rig()
    rig.life["edge"].healthy = False
    answer = rig.view.route(ask(), CALLER)
    assert isinstance(answer, Route) and [e.rule for e in answer.excluded] == ["breaker"]
    rig.life["edge"].reachable = False
    rig.view.refresh()
    answer = rig.view.route(ask(), CALLER)
    assert isinstance(answer, Route) and [e.rule for e in answer.excluded] == ["health"]


def test_a_repeated_beginning_is_expected_in_the_cache_as_far_as_the_engine_was_seen_to_keep_it() -> None:
    rig = Rig()
    prompt = b'[{"role":"system","content":"' + b"long " * 400 + b'"}]'
    first = rig.view.route(ask(1), CALLER, prompt)
    assert isinstance(first, Route) and first.hints.shared_tok == ()
    for n in range(40):
        again = rig.view.route(ask(n + 2), CALLER, prompt)
        assert isinstance(again, Route) and again.hints.shared_tok == (256, 0)
        usage = Usage(prompt_tok=500, output_tok=20, cached_tok=256)
        rig.view.learn(ask(n + 2), CALLER, again, "edge", usage)
    rig.view.refresh()
    assert rig.view.fleet.pools[0].hit_share > 0.85 and rig.view.fleet.pools[1].hit_share == 0.0
    saving = rig.view.route(ask(99), CALLER, prompt)
    assert isinstance(saving, Route)
    hit = rig.view.fleet.pools[0].hit_share
    by = {c.pool: c.expected_nusd for c in saving.candidates}
    assert saving.hints.output_tok is not None
    plain_nusd = 500 * 100 + saving.hints.output_tok * 400
    assert by["edge"] == pytest.approx(plain_nusd - 256 * hit * 90, abs=1)
    other = rig.view.route(ask(100), CALLER, b'[{"role":"system","content":"' + b"other" * 400)
    assert isinstance(other, Route) and other.hints.shared_tok == ()


def test_an_answer_that_came_at_once_corrects_all_that_was_expected_of_it() -> None:
    rig = Rig(pool("edge"))
    state = rig.life["edge"] = BackendState("edge")  # type: ignore[assignment]
    rig.fresh()
    plain = ask(max_output_tok=40)
    first = rig.view.route(plain, CALLER)
    assert isinstance(first, Route) and first.candidates[0].expected_s == pytest.approx(2.5 + 1.0)
    for n in range(80):
        route = rig.view.route(plain, CALLER)
        assert isinstance(route, Route)
        rig.view.learn(plain, CALLER, route, "edge", Usage(prompt_tok=500, output_tok=40), 0.7)
        if n % 4 == 0:
            rig.view.refresh()
    assert state.decode_tok_per_s is not None and state.decode_tok_per_s > 100
    learned = rig.view.route(plain, CALLER)
    assert isinstance(learned, Route) and learned.candidates[0].expected_s == pytest.approx(0.7, rel=0.25)


def test_without_affinity_no_beginning_is_looked_at() -> None:
    rig = Rig(affinity=False)
    for n in range(2):
        route = rig.view.route(ask(n), CALLER, b"x" * 2_000)
        assert isinstance(route, Route) and route.hints.shared_tok == ()
    assert len(rig.memory.prefixes) == 0


def test_the_length_of_answers_is_learned_for_each_key() -> None:
    rig = Rig()
    chatty = msgspec.structs.replace(CALLER, key=4)
    for n in range(60):
        for caller, tok in ((CALLER, 20), (chatty, 900)):
            route = rig.view.route(ask(n), caller)
            assert isinstance(route, Route)
            rig.view.learn(ask(n), caller, route, "edge", Usage(prompt_tok=500, output_tok=tok))
    short, long = (rig.view.route(ask(), caller) for caller in (CALLER, chatty))
    assert isinstance(short, Route) and isinstance(long, Route)
    assert short.hints.output_tok == pytest.approx(20, abs=12)
    assert long.hints.output_tok == pytest.approx(900, rel=0.15)


def test_the_same_seed_explores_the_same_requests_and_workers_do_not_explore_in_step() -> None:
    weights = Weights(explore=0.3)

    def draws(worker: int) -> list[float]:
        rig = Rig(weights=weights)
        rig.memory = memory_of(worker)
        rig.fresh()
        return [r.draw for n in range(50) if isinstance(r := rig.view.route(ask(n), CALLER), Route)]

    assert draws(0) == draws(0) != draws(1)
    share = sum(d < 0.3 for d in draws(0)) / 50
    assert 0.1 < share < 0.5


_asked: list[int] = []


def fails_later(look: Look, places: list[Place]) -> tuple[list[float], str | None]:
    _asked.append(1)
    if len(_asked) > 3:
        raise ZeroDivisionError("a stranger's defect")
    return [-place[1] for place in places], "the dearest, by hand"


def test_a_policy_of_ones_own_that_breaks_gives_way_to_the_usual_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(policy=f"{__name__}:fails_later")  # asked twice on the way in
    good = rig.view.route(ask(1), CALLER)
    assert isinstance(good, Route) and good.reason == "the dearest, by hand"
    with caplog.at_level(logging.ERROR):
        usual = rig.view.route(ask(2), CALLER)
    assert isinstance(usual, Route) and usual.policy == "cheapest-adequate"
    assert "a stranger's defect" in caplog.text


# --- with a journal on the disk ---------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    home.create()
    yield home


def record(rig: Rig, number: int, request: Request, caller: Caller, prompt: bytes | None = None) -> None:
    """Write what the gateway writes of a decision."""
    answer = rig.view.route(request, caller, prompt)
    journal = rig.journal
    if isinstance(answer, Refusal):
        journal.append_note(
            Refused(
                number, rig.clock.us, caller.path, request.endpoint, request.model, answer.code,
                answer.message[:512], ask=msgspec.msgpack.encode(request), route=answer.route,
            )
        )  # fmt: skip
        return
    model = request.model if request.pool is None else f"{request.pool}/{request.model}"
    journal.append_note(
        Intent(
            number, number, 0, rig.clock.us, caller.path, answer.candidates[0].pool, model, request.endpoint,
            request.stream, request.input_bound_tok, 1, 1, 1, 1, request.max_output_tok, answer, None,
            request.privacy, 1, request.choices, tuple(sorted(request.needs)), request.pool is not None,
            terms_of(request),
        )
    )  # fmt: skip


def worked(home: Home, count: int = 400) -> Journal:
    """Record decisions of a worker whose places fail and learn, whose keys change and which reloads."""
    journal = Journal(home.journal, kind="gateway", worker=0)
    rig = Rig(journal=journal, weights=Weights(explore=0.05))
    keys = [
        CALLER,
        msgspec.structs.replace(CALLER, key=5, policy="round-robin"),
        msgspec.structs.replace(CALLER, key=6, policy="least-loaded", pools=frozenset({"cloud"})),
    ]
    for n in range(1, count):
        rig.clock.us += 1_000
        life = rig.life["edge"]
        life.busy, life.decode_tok_per_s = n % 5, 30.0 + n % 50
        if n % 40 == 0:
            life.healthy = not life.healthy
            rig.view.refresh()
        if n % 100 == 0:
            rig.weights = Weights(explore=0.05, usd_per_s=n / 1e6)
            rig.fresh(policy=("greenest", "fastest", "cascade")[n // 100 % 3])
        request = ask(
            n,
            id=f"req_{journal.epoch}_{n:x}",
            pool=(None, None, "cloud")[n % 3],
            model="m" if n % 50 else "unheard-of",
            promise_ttft_s=(None, 1.0)[n % 2],
            needs=frozenset(() if n % 70 else ("vision",)),
        )
        record(rig, n, request, keys[n % 3], b"prompt %d " % (n % 7) * 200)
    return journal


def test_every_decision_of_a_worker_is_taken_again_identically_from_its_journal(home: Home) -> None:
    worked(home).close()
    report = replay(home)
    assert (report.decisions, report.identical, report.not_replayable) == (399, 399, 0), report.rows
    assert report.refusals > 10 and report.explored > 3 and report.views > 10
    assert set(report.policies) >= {"cheapest-adequate", "round-robin", "least-loaded", "greenest", "fastest"}


def test_a_decision_that_was_not_what_its_inputs_say_is_named(home: Home) -> None:
    journal = worked(home, 50)
    rig = Rig(journal=journal)
    rig.view = FleetView(
        pools=rig.pools,
        life=rig.life,
        weights=rig.weights,
        journal=journal,
        clock=rig.clock,
        first_id=1_000,
        version=__version__,
    )
    answer = rig.view.route(ask(), CALLER)
    assert isinstance(answer, Route)
    swapped = msgspec.structs.replace(answer, candidates=answer.candidates[::-1])
    journal.append_note(
        Intent(
            60, 60, 0, 1, CALLER.path, "cloud", "m", "chat", False, 2_000, 1, 1, 1, 1, None, swapped, None,
            "internal",
        )
    )  # fmt: skip
    journal.close()
    report = replay(home)
    assert not report.holds and report.different == 1
    (row,) = report.rows
    assert (
        row.request_id.endswith("_3c") and row.recorded.startswith("cloud") and row.again.startswith("edge")
    )


def test_another_policy_is_shown_beside_what_was_decided(home: Home) -> None:
    worked(home, 200).close()
    report = replay(home, other="least-loaded")
    assert report.holds
    told = report.decisions - report.recorded.refused
    assert sum(report.recorded.chosen.values()) == sum(report.instead.chosen.values()) == told
    assert report.same_place < told


def test_decisions_whose_inputs_are_gone_are_counted_apart(home: Home) -> None:
    journal = worked(home, 20)
    rig = Rig()
    answer = rig.view.route(ask(), CALLER)
    assert isinstance(answer, Route)
    old = msgspec.structs.replace(answer, snapshot=999)
    journal.append_note(
        Intent(30, 30, 0, 1, (1,), "edge", "m", "chat", False, 2_000, 1, 1, 1, 1, None, old, None, "internal")
    )
    journal.close()
    report = replay(home)
    assert report.holds and report.not_replayable == 1 and report.identical == 19


def test_the_command_ends_with_1_and_names_the_request_that_differs(home: Home) -> None:
    journal = worked(home, 20)
    rig = Rig(journal=journal)
    rig.view = FleetView(
        pools=rig.pools,
        life=rig.life,
        weights=rig.weights,
        journal=journal,
        clock=rig.clock,
        first_id=1_000,
        version=__version__,
    )
    answer = rig.view.route(ask(), CALLER)
    assert isinstance(answer, Route)
    dearer = msgspec.structs.replace(answer, busy=(2, 2))
    journal.append_note(
        Intent(
            60, 60, 0, 1, CALLER.path, "edge", "m", "chat", False, 2_000, 1, 1, 1, 1, None, dearer, None,
            "internal",
        )
    )  # fmt: skip
    journal.close()
    runner = CliRunner()
    told = runner.invoke(replay_app, ["--home", str(home.root)])
    assert told.exit_code == 1
    assert f"req_{journal.epoch}_3c" in told.output and "1 different" in told.output
    assert "another wattmill" not in told.output
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wattmill.cli.replay.__version__", "9.9")
        later = runner.invoke(replay_app, ["--home", str(home.root)])
    assert f"by {__version__}" in later.output
    told = runner.invoke(replay_app, ["--home", str(home.root), "--json", "--policy", "fastest"])
    report = msgspec.json.decode(told.stdout)
    assert told.exit_code == 1 and report["different"] == 1 and report["instead"]["chosen"]
    told = runner.invoke(replay_app, ["--home", str(home.root), "--policy", "fastets"])
    assert told.exit_code == 1 and "no policy 'fastets'" in told.output
    told = runner.invoke(replay_app, ["--home", str(home.root / "nowhere")])
    assert told.exit_code == 1 and "no factory in" in told.output


def test_only_the_period_that_was_asked_for_is_taken_again(home: Home) -> None:
    worked(home, 101).close()
    start_us = Clock().us
    report = replay(home, since_us=start_us + 21_000, until_us=start_us + 40_000)
    assert report.decisions == report.identical == 20


def test_a_poor_answer_goes_on_to_the_next_better_model_and_only_under_cascade() -> None:
    rig = Rig(
        pool("small", quality={"m": 0.3}),
        pool("small-too", quality={"m": 0.3}),
        pool("large", quality={"m": 0.8}),
        policy="cascade",
        signals=Signals(),
    )
    route = rig.view.route(ask(), CALLER)
    assert isinstance(route, Route) and [c.pool for c in route.candidates] == ["small", "small-too", "large"]
    empty = b'{"choices":[{"message":{"content":""}}]}'
    good = b'{"choices":[{"message":{"content":"yes"}}]}'
    assert rig.view.escalate(ask(), route, "small", empty, 10, None) == (
        "refusal: the model gave no answer",
        2,
    )
    assert rig.view.escalate(ask(), route, "small", good, 10, None) is None
    assert rig.view.escalate(ask(), route, "large", empty, 10, None) is None
    as_json = msgspec.Raw(b'{"type":"json_object"}')
    why = rig.view.escalate(ask(), route, "small-too", good, 10, as_json)
    assert why == ("schema: the answer is no JSON", 2)
    other = msgspec.structs.replace(route, policy="fastest")
    assert rig.view.escalate(ask(), other, "small", empty, 10, None) is None
