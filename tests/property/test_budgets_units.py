"""One law for all units, periods and stores: what is reserved and used never passes a limit."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wattmill.app.running.clock import LiveClock
from wattmill.app.running.worker_runs import WorkerRuns
from wattmill.ledger.budgets import Allotments
from wattmill.ledger.period import window_at
from wattmill.ledger.stores import postgres
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.ledger.stores.control_records import Ask, CapsUnavailable, Denied, Holding
from wattmill.ledger.stores.control_runs import Runs
from wattmill.vocab.budget import METERED, UNITS, Limit, Period, Spend, Unit, gauge_of, limit_of
from wattmill.vocab.refusal import Refusal

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from private_postgres import NoPostgres, PrivatePostgres

START_US = 1_795_254_300_000_000  # a minute begins
MINUTE_US = 60_000_000


class Clock:
    """A wall that a test moves, also back."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    try:
        with PrivatePostgres() as url:
            yield url
    except NoPostgres as error:
        pytest.skip(f"no PostgreSQL: {error}")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> str | None:
    """Return where leases are kept: here (None), or the address of a PostgreSQL server."""
    return None if request.param == "sqlite" else str(request.getfixturevalue("server"))


class Rig:
    """A tree of its own (names are never reused, so that one server serves many), and purses on it."""

    def __init__(self, folder: Path, store: str | None, *, machines: int = 1) -> None:
        self.clock = Clock()
        self.controls = [Control(folder / f"control-{n}.db", wall_us=self.clock) for n in range(machines)]
        self.name = name = f"t{random.randrange(10**12)}"
        for control in self.controls:
            control.share(store)
            org = control.put_org(name, 10**9)
            self.team = control.put_team(org, "team")
            self.key = control.create_key(self.team, "key")[0]
        self.path = self.key.path

    def limit(self, unit: Unit, period: Period, amount: int | None, *, zone: str = "UTC") -> Limit | None:
        found = None
        for control in self.controls:
            found = Limits(control).put(self.team, unit, period, amount, zone=zone)
        return found

    def purse(self, epoch: str, machine: int = 0, **options: Any) -> Allotments:
        options = {"patience_s": 0.2, "retry_s": 0.01} | options
        return Allotments(self.controls[machine], epoch, wall_us=self.clock, **options)

    def close(self) -> None:
        for control in self.controls:
            control.close()


@pytest.fixture
def rig(tmp_path: Path, store: str | None) -> Iterator[Rig]:
    rig = Rig(tmp_path, store)
    yield rig
    rig.close()


def epoch() -> str:
    return f"{random.randrange(16**12):012x}"


async def take(purse: Allotments, path: tuple[int, ...], worst: Spend, floor: Spend | None = None) -> Any:
    grant = purse.reserve(path, worst) or await purse.lease(path, worst, floor or worst)
    if not isinstance(grant, Refusal):
        words = (grant.nusd, *grant.held, *grant.took(worst))
        assert all(type(word) is int for word in words), "a journal keeps integers only"
        of_period = grant.part("nusd")
        assert of_period is None or grant.nusd <= of_period, "dollars of a period bind like a cap's"
    return grant


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    limits=st.dictionaries(st.sampled_from(METERED), st.integers(0, 4_000), min_size=1, max_size=4),
    workers=st.integers(1, 3),
    requests=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
def test_no_limit_of_any_unit_is_ever_passed(
    limits: dict[Unit, int], workers: int, requests: int, seed: int
) -> None:
    rng = random.Random(seed)

    async def main(folder: Path) -> None:
        rig = Rig(folder, None)
        gauges = {}
        for unit, amount in limits.items():
            limit = rig.limit(unit, "month" if unit == "nusd" else "life", amount)
            assert limit is not None
            gauges[unit] = limit.id
        purses = [rig.purse(epoch(), patience_s=0.02) for _ in range(workers)]

        def check() -> None:
            for unit, amount in limits.items():
                out: Counter[int] = Counter()
                for p in purses:
                    for part in (p.reserved(), p.used()):
                        out.update({at: n for at, n in part.items() if limit_of(at) == gauges[unit]})
                assert all(total <= amount for total in out.values()), unit

        async def one(purse: Allotments) -> None:
            most = [rng.randint(0, 900) for _ in range(5)]
            worst, part = Spend(*most), rng.choice((1, 3))
            grant = await take(purse, rig.path, worst, Spend(*(n // part for n in most)))
            check()
            if isinstance(grant, Refusal):
                return
            worst = msgspec.structs.replace(worst, nusd=grant.nusd)
            await asyncio.sleep(0)
            used = Spend(
                *(
                    rng.randint(0, of or 0)
                    for of in (worst.of(0), worst.of(1), worst.of(2), worst.of(6), worst.of(7))
                )
            )
            purse.settle(grant, used)
            purse.settle(grant, worst)
            check()

        for _ in range(requests):
            await asyncio.gather(*(one(purse) for purse in purses))
            await asyncio.gather(*(purse.tick() for purse in purses))
        assert not any(sum(purse.reserved().values()) for purse in purses), "something was not released"
        rig.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


def test_a_period_begins_anew_and_a_settlement_counts_where_it_was_reserved(rig: Rig) -> None:
    limit = rig.limit("total_tok", "minute", 100)
    assert limit is not None

    async def main() -> None:
        purse = rig.purse(epoch())
        late = await take(purse, rig.path, Spend(1, 60, 30))
        refused = await take(purse, rig.path, Spend(1, 10, 10))
        assert isinstance(refused, Refusal) and refused.code == "limit_reached"
        assert refused.retry_after_s == 1.0, "90 of 100 are only reserved: they may come back at once"
        rig.clock.now_us += MINUTE_US
        fresh = await take(purse, rig.path, Spend(1, 50, 50))
        assert not isinstance(fresh, Refusal)
        purse.settle(late, Spend(1, 60, 30))
        index = window_at("minute", "UTC", START_US).index
        first, second = (gauge_of(limit.id, "total_tok", index + n) for n in (0, 1))
        assert purse.used()[first] == 90 and second not in purse.used()
        assert (purse.reserved()[first], purse.reserved()[second]) == (0, 100)
        purse.settle(fresh, Spend(1, 50, 50))
        refused = await take(purse, rig.path, Spend(1, 1, 0))
        assert isinstance(refused, Refusal) and refused.code == "limit_reached"
        assert refused.retry_after_s == 60.0
        assert "begins anew at" in refused.message and "100 tokens a minute" in refused.message

    asyncio.run(main())


def test_a_clock_that_is_set_back_stays_in_the_later_period(rig: Rig) -> None:
    rig.limit("requests", "minute", 3)

    async def main() -> None:
        ahead = rig.purse(epoch())
        rig.clock.now_us += MINUTE_US
        for _ in range(3):
            ahead.settle(await take(ahead, rig.path, Spend(1)), Spend(1))
        await ahead.tick()
        rig.clock.now_us -= MINUTE_US
        for purse in (ahead, rig.purse(epoch())):
            refused = await take(purse, rig.path, Spend(1))
            assert isinstance(refused, Refusal), "an earlier period came back with room of its own"
            assert refused.code == "limit_reached"
        rig.clock.now_us += 2 * MINUTE_US
        assert not isinstance(await take(rig.purse(epoch()), rig.path, Spend(1)), Refusal)

    asyncio.run(main())


def test_concurrency_is_what_is_in_flight_and_returns_with_each_end(rig: Rig) -> None:
    rig.limit("concurrency", "life", 2)

    async def main() -> None:
        one, other = rig.purse(epoch()), rig.purse(epoch())
        first = await take(one, rig.path, Spend(1))
        second = await take(other, rig.path, Spend(1))
        refused = await take(one, rig.path, Spend(1))
        assert isinstance(refused, Refusal) and refused.code == "limit_reached" and refused.retry_after_s
        other.settle(second, Spend(1))
        await other.tick()
        third = await take(one, rig.path, Spend(1))
        assert not isinstance(third, Refusal)
        assert first.held == third.held == (), "what is only in flight ends with its process"

    asyncio.run(main())


def test_what_another_worker_has_just_freed_is_found_before_anybody_is_refused(rig: Rig) -> None:
    rig.limit("output_tok", "life", 1_000)

    async def main() -> None:
        rich = rig.purse(epoch())
        poor = rig.purse(epoch(), patience_s=5.0)
        held = await take(rich, rig.path, Spend(1, 0, 1_000))
        await rich.tick()
        rich.settle(held, Spend(1, 0, 100))  # not told yet: the database still sees all of it reserved
        asked = asyncio.create_task(take(poor, rig.path, Spend(1, 0, 900)))
        for _ in range(500):
            await asyncio.sleep(0.01)
            await rich.tick()
            if asked.done():
                break
        assert not isinstance(await asked, Refusal)

    asyncio.run(main())


def test_a_worker_that_slept_past_its_term_asks_before_it_reserves(rig: Rig) -> None:
    rig.limit("requests", "life", 100)
    now_s = 1_000.0

    async def main() -> None:
        nonlocal now_s
        name = epoch()
        sleeper = rig.purse(name, now=lambda: now_s, term_s=2.0)
        heir = rig.purse(epoch())
        sleeper.settle(await take(sleeper, rig.path, Spend(1)), Spend(1))
        assert sleeper.reserve(rig.path, Spend(1)) is not None, "it holds more than it used"
        control = rig.controls[0]
        with pytest.raises(ValueError, match="it lives, and may reserve by itself"):
            control.write_off(name)
        gauge = next(g for g in sleeper.used() if g > 1 << 32)
        rig.clock.now_us += 5_000_000
        now_s += 5.0
        assert sleeper.reserve(rig.path, Spend(1)) is None, "its term is over"
        assert control.write_off(name)
        spent = 0
        while not isinstance(grant := await take(heir, rig.path, Spend(1)), Refusal):
            heir.settle(grant, Spend(1))
            spent += 1
        assert sleeper.reserve(rig.path, Spend(1)) is None
        refused = await sleeper.lease(rig.path, Spend(1), Spend(1))
        assert isinstance(refused, Refusal) and refused.code == "draining"
        assert 2 + spent < 100, "what it held was given to somebody else"
        # Its journal is found after all: it had used 2 (one was in doubt), the rest returns.
        assert control.close_epoch(name, dict.fromkeys(rig.path, 2) | {gauge: 2})
        await asyncio.sleep(0.05)
        while not isinstance(grant := await take(heir, rig.path, Spend(1)), Refusal):
            heir.settle(grant, Spend(1))
            spent += 1
        assert 2 + spent == 100

    asyncio.run(main())


def test_a_worker_whose_term_is_over_goes_on_once_it_has_said_that_it_lives(rig: Rig) -> None:
    now_s = 1_000.0

    async def main() -> None:
        nonlocal now_s
        purse = rig.purse(epoch(), now=lambda: now_s, term_s=2.0)
        purse.settle(await take(purse, rig.path, Spend(1)), Spend(1))
        now_s += 60.0
        assert purse.reserve(rig.path, Spend(1)) is None
        assert not isinstance(await purse.lease(rig.path, Spend(1), Spend(1)), Refusal)
        assert purse.reserve(rig.path, Spend(1)) is not None

    asyncio.run(main())


def test_a_dead_worker_is_folded_in_every_unit(rig: Rig) -> None:
    tokens = rig.limit("total_tok", "day", 1_000, zone="Europe/Berlin")
    rig.limit("concurrency", "life", 1)

    async def main() -> None:
        name = epoch()
        doomed = rig.purse(name)
        grant = await take(doomed, rig.path, Spend(5, 300, 200))
        assert tokens is not None and grant.held[1] == 500
        heir = rig.purse(epoch())
        assert isinstance(await take(heir, rig.path, Spend(5, 300, 300)), Refusal)
        folded = dict.fromkeys(rig.path, 5) | {grant.held[0]: 500}
        assert rig.controls[0].close_epoch(name, folded) and not rig.controls[0].close_epoch(name, folded)
        await asyncio.sleep(0.05)
        assert isinstance(await take(heir, rig.path, Spend(5, 300, 201)), Refusal)
        await asyncio.sleep(0.05)
        assert not isinstance(await take(heir, rig.path, Spend(5, 300, 200)), Refusal)
        assert rig.controls[0].adjust_used("x", {grant.held[0]: -100})
        state = next(s for s in Limits(rig.controls[0]).states([rig.team]) if s.unit == "total_tok")
        assert state.used == 400

    asyncio.run(main())


def test_a_changed_limit_reaches_a_worker_and_a_lifted_one_costs_nothing(rig: Rig) -> None:
    async def main() -> None:
        purse = rig.purse(epoch())
        purse.settle(await take(purse, rig.path, Spend(1)), Spend(1))
        rig.limit("requests", "life", 1)
        await purse.refresh()
        assert not isinstance(await take(purse, rig.path, Spend(1)), Refusal)
        refused = await take(purse, rig.path, Spend(1))
        assert isinstance(refused, Refusal) and "limit of 1 requests" in refused.message
        rig.limit("requests", "life", 2)
        await asyncio.sleep(0.05)
        await purse.refresh()
        assert not isinstance(await take(purse, rig.path, Spend(1)), Refusal)
        rig.limit("requests", "life", None)
        await purse.refresh()
        grant = await take(purse, rig.path, Spend(1))
        assert not isinstance(grant, Refusal) and not grant.parts

    asyncio.run(main())


@pytest.mark.parametrize("unit", ["nusd", "total_tok"])
def test_what_comes_back_after_a_limit_came_down_is_not_spent_again(rig: Rig, unit: Unit) -> None:
    """Requests were in flight when the limit came down to less than they hold. What they did not use returns
    to the limit, not to the worker that would lend it at once to the next one."""
    limit = rig.limit(unit, "life", 1_000)
    assert limit is not None
    gauge = gauge_of(limit.id, unit, 0) if limit.id else rig.team
    one = Spend(100, 60, 40)

    async def main() -> None:
        purses = [rig.purse(epoch(), patience_s=0.0) for _ in range(2)]
        running = [(purse, await take(purse, rig.path, one)) for purse in purses for _ in range(4)]
        rig.limit(unit, "life", 300)
        for purse in purses:
            await purse.refresh()
            await purse.tick()
        served = 0
        for purse, grant in running:
            purse.settle(grant, Spend(10, 6, 4))
            if not isinstance(await take(purse, rig.path, one), Refusal):
                served += 1
                out = sum(p.used().get(gauge, 0) + p.reserved()[gauge] for p in purses)
                assert out <= 300, f"{out} of 300 are out"
            await purse.tick()
        for purse in purses:
            await purse.tick()
        while not isinstance(await take(purses[1], rig.path, one), Refusal):
            served += 1
        assert served == 2, "80 are used, and two more of 100 fit below 300"

    asyncio.run(main())


def test_joules_without_a_ceiling_are_refused_and_never_zero(rig: Rig) -> None:
    rig.limit("energy_uj", "hour", 5_000_000)

    async def main() -> None:
        purse = rig.purse(epoch())
        refused = await take(purse, rig.path, Spend(1, 10, 10, None, None))
        assert isinstance(refused, Refusal) and refused.code == "no_ceiling"
        assert not isinstance(await take(purse, rig.path, Spend(1, 10, 10, 5_000_000, None)), Refusal)
        refused = await take(purse, rig.path, Spend(1, 10, 10, 1, None))
        assert isinstance(refused, Refusal) and "limit of 5 J an hour" in refused.message

    asyncio.run(main())


def test_a_request_that_never_fits_is_told_so_at_once(rig: Rig) -> None:
    rig.limit("output_tok", "minute", 50)

    async def main() -> None:
        refused = await take(rig.purse(epoch()), rig.path, Spend(1, 0, 51))
        assert isinstance(refused, Refusal) and refused.code == "budget_exceeded"
        assert "more than the whole of it" in refused.message
        grant = await rig.purse(epoch()).lease(rig.path, Spend(1, 0, 51), Spend(1, 0, 1))
        assert not isinstance(grant, Refusal) and grant.part("output_tok") == 50

    asyncio.run(main())


def test_what_is_shrunk_is_free_at_once_and_the_rest_settles_as_ever(rig: Rig) -> None:
    rig.limit("output_tok", "life", 100)

    async def main() -> None:
        purse = rig.purse(epoch())
        grant = await take(purse, rig.path, Spend(50, 0, 100))
        purse.shrink(grant, Spend(20, 0, 40))
        assert (grant.nusd, grant.part("output_tok")) == (20, 40)
        assert purse.reserve(rig.path, Spend(30, 0, 60)) is not None
        purse.settle(grant, Spend(20, 0, 10))
        assert purse.reserve(rig.path, Spend(0, 0, 31)) is None
        assert purse.reserve(rig.path, Spend(0, 0, 30)) is not None

    asyncio.run(main())


def test_idle_nodes_are_forgotten_and_come_back_with_what_they_used(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattmill.ledger.holdings.QUIET_TICKS", 2)
    rig.limit("requests", "life", 100)

    async def main() -> None:
        purse = rig.purse(epoch())
        for _ in range(3):
            purse.settle(await take(purse, rig.path, Spend(7)), Spend(7))
        for _ in range(400):
            await purse.tick()
            if not purse.nodes():
                break
        assert purse.nodes() == [] and purse.used() == {}
        purse.settle(await take(purse, rig.path, Spend(7)), Spend(7))
        await purse.tick()
        assert rig.controls[0].summary(rig.path[0]).used_nusd == 28
        assert next(iter(Limits(rig.controls[0]).states([rig.team]))).used == 4

    asyncio.run(main())


def test_soft_stages_see_what_all_workers_spent_wherever_leases_are_kept(rig: Rig) -> None:
    rig.limit("nusd", "life", 100)
    control = rig.controls[0]

    async def main() -> None:
        mine, other = rig.purse(epoch()), rig.purse(epoch())
        for purse, spent in ((mine, 40), (other, 40)):
            purse.settle(await take(purse, rig.path, Spend(spent)), Spend(spent))
            await purse.tick()
        runs = WorkerRuns(control, mine, None, LiveClock(), ends_runs=False)  # type: ignore[arg-type]
        await runs.tick()
        stage = runs.stages.stage(rig.path)
        assert stage is not None and (stage.percent, stage.word) == (80, "saving")
        mine.settle(await take(mine, rig.path, Spend(15)), Spend(15))
        assert (now := runs.stages.stage(rig.path)) is not None and now.word == "last-call"

    asyncio.run(main())
    assert [budget.node for budget in control.summaries_of(rig.path)] == sorted(rig.path)
    assert control.summaries_of(rig.path) == [control.summary(node) for node in sorted(rig.path)]
    assert control.summaries_of(range(10**6, 10**6 + 1_000)) == control.summaries_of(()) == []


def test_two_machines_share_one_limit(tmp_path: Path, server: str) -> None:
    rig = Rig(tmp_path, server, machines=2)
    rig.limit("total_tok", "day", 1_000)

    async def main() -> None:
        purses = [rig.purse(epoch(), machine, patience_s=2.0) for machine in range(2)]
        charged = 0

        async def spend(purse: Allotments) -> None:
            nonlocal charged
            while not isinstance(grant := await take(purse, rig.path, Spend(3, 10, 10)), Refusal):
                await asyncio.sleep(0)
                purse.settle(grant, Spend(3, 10, 7))
                charged += 17

        async def ticking(purse: Allotments) -> None:
            while True:
                await purse.tick()
                await asyncio.sleep(0.02)

        ticks = [asyncio.create_task(ticking(purse)) for purse in purses]
        await asyncio.gather(*(spend(purse) for purse in purses for _ in range(5)))
        for tick in ticks:
            tick.cancel()
        await asyncio.gather(*ticks, return_exceptions=True)
        assert 1_000 - 20 < charged <= 1_000
        for purse in purses:
            await purse.tick()
        for control in rig.controls:
            assert control.summary(rig.path[0]).used_nusd == charged // 17 * 3

    asyncio.run(main())
    rig.close()


def test_a_process_that_never_saw_a_run_settles_it_and_starts_without_writing_all_that_ever_were(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, server)
    control = rig.controls[0]
    runs = Runs(control)
    one = Spend(5, 20, 10)

    def another() -> Control:
        return Control(tmp_path / "control-0.db", wall_us=rig.clock)

    with another() as books, another() as late:
        books.summary(rig.team)  # it has looked once, before there was a run
        purse = rig.purse(mine := epoch())
        ended = [
            runs.open(rig.key.id, cap_nusd=100, limits=[("total_tok", "life", 500)])[0] for _ in range(60)
        ]
        run = ended[0]

        async def spend() -> None:
            purse.settle(await take(purse, run.path, one), one)
            await purse.tick()

        asyncio.run(spend())
        for each in ended:
            runs.set_state(each.node, "closed")
        assert books.close_epoch(mine, purse.used()), "it is told of a run that it never saw open"
        told = control.summary(run.node)
        assert told.used_nusd == 5 and told.limits[0].used == 30
        assert books.summary(run.node) == told and books.summaries() == control.summaries()

        written: list[str] = []
        execute = postgres._Named.execute

        def counting(self: Any, sql: str, *more: Any) -> Any:
            written.append(sql)
            return execute(self, sql, *more)

        monkeypatch.setattr(postgres._Named, "execute", counting)
        assert late.summary(rig.team).node == rig.team
        assert len(written) < 20, "each run that ever was is written again at each start"
        assert late.summary(run.node) == told
    rig.close()


def test_a_limit_of_a_run_that_was_opened_just_now_does_not_end_a_worker(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spenders are read, somebody opens a run, limits are read: of a node that nobody has heard of."""
    rig = Rig(tmp_path, server)
    control = rig.controls[0]
    nodes = control.nodes

    def and_then(**more: Any) -> Any:
        found = nodes(**more)
        monkeypatch.setattr(control, "nodes", nodes)
        with Control(tmp_path / "control-0.db", wall_us=rig.clock) as other:
            Limits(other).put(other.put_team(other.find(rig.name).id, "new"), "requests", "life", 3)
        return found

    monkeypatch.setattr(control, "nodes", and_then)
    assert control.summary(rig.team).node == rig.team
    (new,) = [budget for budget in control.summaries() if budget.name.endswith("/new")]
    assert [limit.amount for limit in new.limits] == [3]
    rig.close()


def test_a_server_that_is_gone_refuses_and_comes_back(tmp_path: Path) -> None:
    try:
        server = PrivatePostgres()
    except NoPostgres as error:
        pytest.skip(f"no PostgreSQL: {error}")
    with server as url:
        rig = Rig(tmp_path, url)
        rig.limit("requests", "life", 10)

        async def main() -> None:
            purse = rig.purse(epoch())
            purse.settle(await take(purse, rig.path, Spend(1)), Spend(1))
            server.kill()
            await purse.tick()  # survives
            while (grant := purse.reserve(rig.path, Spend(1))) is not None:
                purse.settle(grant, Spend(1))  # what it holds, it may spend
            refused = await purse.lease(rig.path, Spend(1), Spend(1))
            assert isinstance(refused, Refusal) and refused.code == "caps_unavailable"
            with pytest.raises(CapsUnavailable):
                rig.controls[0].summaries()
            server.start()
            spent = sum(purse.used().get(g, 0) for g in purse.used() if g > 1 << 32)
            while not isinstance(grant := await take(purse, rig.path, Spend(1)), Refusal):
                purse.settle(grant, Spend(1))
                spent += 1
            assert spent == 10

        asyncio.run(main())
        rig.close()


def test_a_ticket_is_answered_by_a_report_and_not_by_time(rig: Rig) -> None:
    """The last word of a denial needs a fresh one of every other holder."""
    control, cap = rig.controls[0], 10**9
    node = rig.path[0]
    one, other = epoch(), epoch()
    control.opening(one, rig.path)
    assert isinstance(control.lease(one, [Ask(node, cap, cap, 0)]), dict)
    first = control.lease(other, [Ask(node, 5, 5, 0)])
    assert isinstance(first, Denied) and not first.final and first.ticket
    again = control.lease(other, [Ask(node, 5, 5, 0, first.ticket)])
    assert isinstance(again, Denied) and not again.final
    ticket = control.recalls(one)[node]
    control.report(one, {node: Holding(0, cap, 0)})
    asked = control.lease(other, [Ask(node, 5, 5, 0, first.ticket)])
    assert isinstance(asked, Denied) and not asked.final, "it was told without knowing of the recall"
    later = control.lease(epoch(), [Ask(node, 5, 5, 0)])
    assert isinstance(later, Denied) and later.ticket > ticket
    control.report(one, {node: Holding(0, cap, 0, ticket)})
    assert set(control.recalls(one)) == {node}, "the later one waits for an answer of its own"
    last = control.lease(other, [Ask(node, 5, 5, 0, first.ticket)])
    assert isinstance(last, Denied) and last.final
    control.report(one, {node: Holding(0, cap - 5, 0)})
    assert isinstance(control.lease(other, [Ask(node, 5, 5, 0)]), dict)


def test_every_metered_unit_has_an_amount() -> None:
    spend = Spend(1, 2, 3, 4, 5, 6)
    assert [spend.of(UNITS.index(unit)) for unit in METERED] == [1, 2, 3, 5, 6, 1, 4, 5]
