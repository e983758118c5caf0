"""Runs: who may open and use one, how deep and wide they go, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from wattmill.app.runs.bodies import NewRun, NewStep
from wattmill.app.runs.minding import top_up
from wattmill.app.runs.opening import MAX_STEPS, Opened, Terms, open_run, open_step
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits, TooDeep, TooWide
from wattmill.ledger.stores.control_records import Ask, ControlError, Holding, NoSuch, Run
from wattmill.ledger.stores.control_runs import Runs
from wattmill.vocab.budget import Period, Unit, gauge_of
from wattmill.vocab.refusal import Refusal

USD = 1_000_000_000


class Rig:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_us = 1_800_000_000_000_000
        self.control = Control(path, wall_us=lambda: self.now_us)
        self.runs, self.limits = Runs(self.control), Limits(self.control)
        self.org = self.control.put_org("demo", 10 * USD)
        self.team = self.control.put_team(self.org, "load", 4 * USD)
        self.key = self.control.create_key(self.team, "one")[0]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "control.db")
    yield rig
    rig.control.close()


def test_a_run_stands_below_its_key_and_is_found_by_its_id_only(rig: Rig) -> None:
    run, id = rig.runs.open(rig.key.id, cap_nusd=USD, label="nightly")
    assert run.path == (*rig.key.path, run.node)
    assert (run.state, run.depth, run.cap_nusd, run.label) == ("open", 1, USD, "nightly")
    assert rig.runs.find(id, rig.key.id) == run
    assert len(id) > 40 and id.encode() not in rig.path.read_bytes()
    for wrong in (id + "x", "run-", run.name):
        with pytest.raises(NoSuch, match="no such run of this key"):
            rig.runs.find(wrong)


def test_another_key_learns_nothing_of_a_run(rig: Rig) -> None:
    _, id = rig.runs.open(rig.key.id)
    other = rig.control.create_key(rig.team, "two")[0]
    with pytest.raises(NoSuch) as mine:
        rig.runs.find(id, other.id)
    with pytest.raises(NoSuch) as unknown:
        rig.runs.find("run-never-was", other.id)
    assert str(mine.value) == str(unknown.value)
    assert not rig.runs.live(other.id) and len(rig.runs.live(rig.key.id)) == len(rig.runs.live()) == 1
    with pytest.raises(NoSuch):
        rig.runs.open(other.id, parent=rig.runs.find(id).node)


def test_a_childs_grant_is_no_more_than_its_parents_have_left(rig: Rig) -> None:
    path = rig.key.path
    rig.control.lease("aaaaaaaaaaaa", [Ask(node, USD, USD, 0) for node in path])
    rig.control.report("aaaaaaaaaaaa", {node: Holding(USD, USD, 0) for node in path})
    parent, _ = rig.runs.open(rig.key.id, cap_nusd=9 * USD)
    assert parent.cap_nusd == 3 * USD, "the team has 3 of its 4 dollars left"
    child, _ = rig.runs.open(rig.key.id, parent=parent.node, kind="step", cap_nusd=5 * USD)
    assert (child.cap_nusd, child.depth, child.kind) == (3 * USD, 2, "step")
    assert child.path == (*parent.path, child.node)


def test_a_childs_grant_in_any_unit_is_no_more_than_its_parents_have_left(rig: Rig) -> None:
    tokens = rig.limits.put(rig.team, "total_tok", "life", 1_000)
    rig.limits.put(rig.key.id, "requests", "hour", 60)
    rig.limits.put(rig.key.id, "concurrency", "life", 4)
    assert tokens is not None
    rig.control.lease("aaaaaaaaaaaa", [Ask(gauge := gauge_of(tokens.id, "total_tok", 0), 700, 700, 0)])
    rig.control.report("aaaaaaaaaaaa", {gauge: Holding(600, 700, 0)})
    asked: list[tuple[Unit, Period, int]] = [
        ("total_tok", "life", 5_000), ("requests", "hour", 100), ("requests", "day", 100),
        ("concurrency", "life", 9), ("output_tok", "life", 7),
    ]  # fmt: skip
    run, _ = rig.runs.open(rig.key.id, limits=asked)
    granted = {(state.unit, state.period): state.amount for state in rig.runs.budget(run.node).limits}
    assert granted == {
        ("total_tok", "life"): 300,
        ("requests", "hour"): 60,
        ("requests", "day"): 100,
        ("concurrency", "life"): 4,
        ("output_tok", "life"): 7,
    }


def test_many_who_open_runs_and_steps_at_once_open_no_more_than_may_be(rig: Rig) -> None:
    first = open_run(rig.control, rig.key.id, NewRun(), None, Terms())
    assert isinstance(first, Opened)

    def often(thread: int) -> tuple[int, int]:
        with Control(rig.path, wall_us=lambda: rig.now_us) as mine:
            runs = [open_run(mine, rig.key.id, NewRun(), None, Terms(max_open=6)) for _ in range(4)]
            names = [NewStep(name=f"{thread}.{n}") for n in range(MAX_STEPS // 4)]
            steps = [open_step(mine, first.run, name) for name in names]
        told = [one for one in (*runs, *steps) if isinstance(one, Refusal)]
        assert {refusal.code for refusal in told} <= {"run_limit"}
        return sum(isinstance(one, Opened) for one in runs), sum(isinstance(one, Run) for one in steps)

    with ThreadPoolExecutor(8) as threads:
        opened = list(threads.map(often, range(8)))
    assert [sum(n) for n in zip(*opened, strict=True)] == [5, MAX_STEPS]


def test_of_two_people_who_top_up_at_once_neither_is_lost(rig: Rig) -> None:
    run, _ = rig.runs.open(rig.key.id, cap_nusd=100, limits=[("total_tok", "life", 100)])

    def often(_: int) -> None:
        with Control(rig.path) as mine:
            for _ in range(25):
                top_up(mine, run, 1)
                top_up(mine, run, 2, unit="total_tok")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(often, range(4)))
    assert rig.runs.at(run.node).cap_nusd == 200
    (limit,) = rig.runs.budget(run.node).limits
    assert limit.amount == 300


def test_a_top_up_lets_a_paused_run_go_on_and_raises_nothing_of_one_that_has_ended(rig: Rig) -> None:
    run, _ = rig.runs.open(rig.key.id, cap_nusd=100, limits=[("requests", "day", 5)])
    rig.runs.set_state(run.node, "paused", "80 % used")
    assert rig.runs.top_up(run.node, 5, unit="requests", period="day").state == "open"
    (limit,) = rig.runs.budget(run.node).limits
    assert limit.amount == 10
    for unit, period in (("requests", "hour"), ("energy_uj", "life")):
        with pytest.raises(ControlError, match=r"has no limit of .* of its own"):
            rig.runs.top_up(run.node, 5, unit=unit, period=period)  # type: ignore[arg-type]
    rig.runs.set_state(run.node, "stopped")
    with pytest.raises(ControlError, match="has ended cannot be topped up"):
        rig.runs.top_up(run.node, 100)
    assert (rig.runs.at(run.node).state, rig.runs.at(run.node).cap_nusd) == ("stopped", 100)


def test_opening_a_run_does_not_read_all_that_ever_were(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(self: Control, **_: object) -> None:
        raise AssertionError("a factory has more runs than it has room to read at each new one")

    monkeypatch.setattr(Control, "nodes", everything)
    run, _ = rig.runs.open(rig.key.id, cap_nusd=9 * USD)
    assert run.cap_nusd == 4 * USD
    with pytest.raises(NoSuch):
        rig.runs.open(rig.key.id, parent=99_999, cap_nusd=USD)


def test_depth_and_fan_out_hold_when_a_run_is_opened(rig: Rig) -> None:
    rig.limits.put(rig.team, "depth", "life", 2)
    rig.limits.put(rig.key.id, "fan_out", "life", 2)
    first, _ = rig.runs.open(rig.key.id)
    second, _ = rig.runs.open(rig.key.id)
    with pytest.raises(TooWide, match="has 2 open runs directly below it"):
        rig.runs.open(rig.key.id)
    inner, _ = rig.runs.open(rig.key.id, parent=first.node)
    with pytest.raises(TooDeep, match="allows 2 levels of runs below it, this would be level 3"):
        rig.runs.open(rig.key.id, parent=inner.node)
    states = {state.unit: state for state in rig.limits.states()}
    assert (states["depth"].used, states["fan_out"].used) == (2, 2)
    rig.runs.set_state(second.node, "closed")
    rig.runs.open(rig.key.id)


def test_what_ended_stays_ended_and_takes_its_children_along(rig: Rig) -> None:
    run, _ = rig.runs.open(rig.key.id)
    child, _ = rig.runs.open(rig.key.id, parent=run.node)
    before = rig.control.generation()
    assert rig.runs.set_state(run.node, "paused", "80 % used").reason == "80 % used"
    assert rig.control.generation() > before, "workers see it"
    assert rig.runs.set_state(run.node, "open").state == "open"
    rig.runs.set_state(run.node, "stopped", "runaway")
    assert rig.runs.at(child.node).state == "stopped"
    with pytest.raises(ControlError, match="is stopped, it cannot become open"):
        rig.runs.set_state(run.node, "open")
    with pytest.raises(ControlError, match="open the new one elsewhere"):
        rig.runs.open(rig.key.id, parent=run.node)
    assert rig.runs.live() == []


def test_a_run_whose_time_is_over_is_closed(rig: Rig) -> None:
    run, _ = rig.runs.open(rig.key.id, expires_us=rig.now_us + 10)
    child, _ = rig.runs.open(rig.key.id, parent=run.node)
    assert rig.runs.expire() == []
    rig.now_us += 10
    assert rig.runs.expire() == [run.node]
    assert (rig.runs.at(run.node).state, rig.runs.at(child.node).reason) == ("closed", "expired")
    with pytest.raises(ControlError, match="must be later than now"):
        rig.runs.open(rig.key.id, expires_us=rig.now_us)


def test_a_run_carries_limits_of_every_unit(rig: Rig) -> None:
    run, _ = rig.runs.open(
        rig.key.id, cap_nusd=USD, limits=[("total_tok", "life", 500), ("requests", "minute", 6)]
    )
    budget = rig.runs.budget(run.node)
    assert budget.cap_nusd == USD
    assert [(s.unit, s.period, s.amount, s.left) for s in budget.limits] == [
        ("total_tok", "life", 500, 500),
        ("requests", "minute", 6, 6),
    ]


@pytest.mark.parametrize(
    ("unit", "period", "amount", "zone", "message"),
    [
        ("dollars", "day", 1, "UTC", "unit is 'dollars', must be one of: nusd"),
        ("nusd", "week", 1, "UTC", "period is 'week', must be one of: life"),
        ("concurrency", "day", 1, "UTC", "has no period"),
        ("requests", "day", -1, "UTC", "amount is -1"),
        ("requests", "day", 1, "Europe/Atlantis", "time zone is 'Europe/Atlantis', must be a name"),
        ("requests", "day", 1, "../etc/passwd", "time zone is"),
    ],
)
def test_a_limit_that_says_nothing_is_refused(
    rig: Rig, unit: str, period: str, amount: int, zone: str, message: str
) -> None:
    with pytest.raises(ControlError, match=message):
        rig.limits.put(rig.team, unit, period, amount, zone=zone)  # type: ignore[arg-type]


def test_a_limit_is_set_changed_and_lifted(rig: Rig) -> None:
    first = rig.limits.put(rig.team, "requests", "day", 10, zone="Europe/Berlin")
    again = rig.limits.put(rig.team, "requests", "day", 20, zone="Europe/Berlin")
    assert first is not None and again is not None and again.id == first.id
    assert [limit.amount for limit in rig.limits.at(rig.team)] == [4 * USD, 20]
    assert rig.limits.put(rig.team, "requests", "day", None) is None
    assert [limit.unit for limit in rig.limits.at(rig.team)] == ["nusd"]
    assert rig.limits.put(rig.team, "nusd", "life", 2 * USD) is not None
    assert rig.control.nodes()[rig.team].cap_nusd == 2 * USD


def test_workers_read_nothing_but_runs_anew_when_runs_change(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wattmill.app.worker as worker

    looked: list[str] = []
    monkeypatch.setattr(worker, "read_declared", lambda *_, **__: looked.append("all") or standing._declared)

    class Desk:
        async def changed(self) -> None:
            looked.append("runs")

    class Purse:
        async def refresh(self) -> None: ...

    class Standing:
        """What `_reread` touches of a worker."""

        _control, _runs, _purse, _home, _env, _prices_at_s = rig.control, Desk(), Purse(), None, {}, 0.0
        _declared = worker.Declared(rig.control.generation(), None, {}, {}, {}, {}, 1)  # type: ignore[arg-type]

        class Clock:
            now = staticmethod(lambda: 1.0)
            wall_us = staticmethod(lambda: 1)

        _clock = Clock

        def _use(self, declared: worker.Declared) -> None:
            self._declared = msgspec.structs.replace(declared, generation=rig.control.generation())

    standing = Standing()

    def looks() -> list[str]:
        looked.clear()
        asyncio.run(worker.Worker._reread(standing, False))  # type: ignore[arg-type]
        return list(looked)

    assert looks() == []
    run, _ = rig.runs.open(rig.key.id, limits=[("requests", "minute", 5)])
    assert looks() == ["runs"] and looks() == []
    rig.runs.set_state(run.node, "paused", "wait")
    assert looks() == ["runs"]
    assert standing._declared.generation == rig.control.generation(), "whoever waits for it sees it"
    for change in (
        lambda: rig.control.create_key(rig.team, "two"),
        lambda: rig.control.set_cap(rig.team, USD),
        lambda: rig.control.revoke_key(rig.key.id),
        lambda: rig.limits.put(rig.team, "requests", "minute", 9),
    ):
        change()
        assert looks() == ["all", "runs"]
        rig.runs.set_state(run.node, "open")
        rig.runs.set_state(run.node, "paused", "again")
        assert looks() == ["runs"]
