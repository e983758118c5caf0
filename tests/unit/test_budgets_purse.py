"""The purse of one worker: what a request may count on, and how money finds its way between workers."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wattmill.ledger.amounts import amount_of
from wattmill.ledger.budgets import Allotments
from wattmill.ledger.refusing import over_limit
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.ledger.stores.control_records import Denied, EpochClosed
from wattmill.vocab.budget import METERED, Period, Spend, Unit
from wattmill.vocab.refusal import Refusal

USD = 1_000_000_000
A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with Control(tmp_path / "control.db") as control:
        yield control


def branch(
    control: Control, org: int | None, team: int | None = None, key: int | None = None
) -> tuple[int, ...]:
    """Return the path of a key under caps given in dollars."""
    scale: Callable[[int | None], int | None] = lambda usd: None if usd is None else usd * USD  # noqa: E731
    org_node = control.put_org("demo", scale(org))
    team_node = control.put_team(org_node, "load", scale(team))
    return control.create_key(team_node, "one", cap_nusd=scale(key))[0].path


def purse(control: Control, epoch: str = A, **options: Any) -> Allotments:
    return Allotments(control, epoch, patience_s=options.pop("patience_s", 0.0), **options)


def test_nothing_is_reserved_before_it_was_leased(control: Control) -> None:
    path = branch(control, 10)

    async def main() -> None:
        money = purse(control)
        assert money.reserve(path, 1) is None
        grant = await money.lease(path, 1 * USD, 1 * USD)
        assert not isinstance(grant, Refusal) and grant.nusd == 1 * USD
        assert money.reserve(path, 1 * USD) is not None, "a chunk comes with the first request"

    asyncio.run(main())


def test_what_was_reserved_beyond_the_charge_is_free_again_once(control: Control) -> None:
    path = branch(control, 10)

    async def main() -> None:
        money = purse(control)
        grant = await money.lease(path, 10 * USD, 10 * USD)
        assert money.reserve(path, 1) is None
        for _ in range(3):
            money.settle(grant, 4 * USD)
        assert money.used() == dict.fromkeys(path, 4 * USD)
        assert money.reserve(path, 6 * USD + 1) is None
        assert money.reserve(path, 6 * USD) is not None

    asyncio.run(main())


def test_a_charge_above_the_reservation_is_a_defect_and_says_so(control: Control) -> None:
    path = branch(control, 10)

    async def main() -> None:
        money = purse(control)
        grant = await money.lease(path, 5, 5)
        for charge in (6, -1):
            with pytest.raises(ValueError, match="must be 0 to the granted 5"):
                money.settle(grant, charge)

    asyncio.run(main())


@pytest.mark.parametrize(("caps", "guilty"), [((2, 9, 9), "org 'demo'"), ((9, 2, 9), "team 'demo/load'")])
def test_a_refusal_names_the_cap_that_binds_and_the_way_out(
    control: Control, caps: tuple[int, int, int], guilty: str
) -> None:
    path = branch(control, *caps)

    async def main() -> None:
        money = purse(control)
        money.settle(await money.lease(path, 1 * USD, 1 * USD), 1 * USD)
        refused = await money.lease(path, 3 * USD, 2 * USD)
        assert isinstance(refused, Refusal)
        assert (refused.code, refused.status) == ("budget_exceeded", 429)
        assert guilty in refused.message
        assert "cap of 2.000000 USD" in refused.message and "at least 2.000000 USD" in refused.message
        assert f"wattmill budget set {guilty.split(chr(39))[1]} 'AMOUNT USD'" in refused.message
        assert not any(money.reserved().values()), "a refused request leaves nothing reserved at any node"

    asyncio.run(main())


def test_a_request_may_take_less_than_it_asks_for_but_not_less_than_its_floor(control: Control) -> None:
    path = branch(control, 10, 3)

    async def main() -> None:
        money = purse(control)
        grant = await money.lease(path, 5 * USD, 2 * USD)
        assert not isinstance(grant, Refusal) and grant.nusd == 3 * USD
        money.settle(grant, 2 * USD)
        assert isinstance(await money.lease(path, 5 * USD, 2 * USD), Refusal)

    asyncio.run(main())


def test_a_limit_of_dollars_a_day_lowers_a_grant_as_a_cap_does(control: Control) -> None:
    path = branch(control, 10)
    Limits(control).put(path[1], "nusd", "day", 3 * USD)

    async def main() -> None:
        money = purse(control)
        grant = await money.lease(path, 5 * USD, 2 * USD)
        assert not isinstance(grant, Refusal) and grant.nusd == 3 * USD
        money.settle(grant, 2 * USD)
        assert isinstance(await money.lease(path, 5 * USD, 2 * USD), Refusal)

    asyncio.run(main())


def test_a_minute_that_ends_while_the_database_is_asked_grants_nothing_of_the_next(control: Control) -> None:
    path = branch(control, 10)
    Limits(control).put(path[-1], "requests", "minute", 1)
    minute_us, slow = 60_000_000, threading.Event()
    now_us = control.wall_us() // minute_us * minute_us + minute_us
    one = Spend(1, 1, 1, None, None)

    async def main() -> None:
        nonlocal now_us
        granted, told = asyncio.Event(), asyncio.Event()

        async def run(call: Callable[..., Any], *args: Any) -> Any:
            answer = call(*args)
            if call.__name__ == "lease" and slow.is_set():
                granted.set()
                await told.wait()
            return answer

        money = purse(control, run_in_thread=run, wall_us=lambda: now_us)
        assert not isinstance(await money.lease(path, one, one), Refusal)
        now_us += minute_us
        slow.set()
        waiting = asyncio.create_task(money.lease(path, one, one))
        await granted.wait()
        now_us += minute_us
        assert money.reserve(path, one) is None, "this turns to the new minute"
        slow.clear()
        told.set()
        grants = [await waiting, *[await money.lease(path, one, one) for _ in range(3)]]
        good = [grant for grant in grants if not isinstance(grant, Refusal)]
        assert [grant.part("requests") for grant in good] == [1]

    asyncio.run(main())


def test_money_that_another_worker_holds_idle_is_called_back(control: Control) -> None:
    path = branch(control, 10)

    async def main() -> None:
        rich, poor = purse(control, A), purse(control, B, patience_s=5.0, retry_s=0.01)
        # All 10 are with the first worker, and its recent demand says that it may want them again.
        grant = await rich.lease(path, 10 * USD, 10 * USD)
        await rich.tick()
        rich.settle(grant, 1 * USD)
        await rich.tick()
        assert control.summary(path[0]).idle_nusd == 9 * USD, "it gave back without being asked"
        waiting = asyncio.create_task(poor.lease(path, 9 * USD, 9 * USD))
        while not control.recalls(A):
            await asyncio.sleep(0.005)
        assert not waiting.done()
        await rich.tick()
        assert not control.recalls(A)
        answer = await waiting
        assert not isinstance(answer, Refusal) and answer.nusd == 9 * USD
        assert rich.reserve(path, 1) is None

    asyncio.run(main())


def test_a_crowd_at_an_empty_cap_is_few_calls(control: Control) -> None:
    path = branch(control, 1)
    calls = 0

    async def counted(call: Callable[..., Any], *args: Any) -> Any:
        nonlocal calls
        calls += 1
        return await asyncio.to_thread(call, *args)

    async def main() -> None:
        money = purse(control, run_in_thread=counted)
        money.settle(await money.lease(path, 1 * USD, 1 * USD), 1 * USD)
        answers = await asyncio.gather(*(money.lease(path, 5, 5) for _ in range(1_000)))
        assert all(isinstance(answer, Refusal) for answer in answers)
        assert calls < 50, f"{calls} calls to the control database for 1,001 requests"

    asyncio.run(main())


def test_a_raised_cap_lets_requests_through_again_within_a_second(control: Control) -> None:
    path = branch(control, 1)

    async def main() -> None:
        money = purse(control)
        assert isinstance(await money.lease(path, 2 * USD, 2 * USD), Refusal)
        control.set_cap(path[0], 3 * USD)
        await asyncio.sleep(0.15)
        assert not isinstance(await money.lease(path, 2 * USD, 2 * USD), Refusal)

    asyncio.run(main())


def test_a_first_cap_on_a_busy_node_counts_what_is_already_out(control: Control) -> None:
    path = branch(control, None)

    async def main() -> None:
        money = purse(control)
        money.settle(await money.lease(path, 4 * USD, 4 * USD), 4 * USD)
        running = money.reserve(path, 3 * USD)
        assert running is not None
        control.set_cap(path[0], 8 * USD)
        await money.tick()  # the idle rest of the uncapped chunk is recalled
        budget = control.summary(path[0])
        assert (budget.used_nusd, budget.reserved_nusd, budget.left_nusd) == (4 * USD, 3 * USD, 1 * USD)
        assert isinstance(await money.lease(path, 2 * USD, 2 * USD), Refusal)
        assert not isinstance(await money.lease(path, 1 * USD, 1 * USD), Refusal)

    asyncio.run(main())


def test_a_cap_below_what_was_used_grants_nothing_more(control: Control) -> None:
    path = branch(control, 10)

    async def main() -> None:
        money = purse(control)
        money.settle(await money.lease(path, 5 * USD, 5 * USD), 5 * USD)
        control.set_cap(path[0], 2 * USD)
        await money.tick()
        refused = await money.lease(path, 1, 1)
        assert isinstance(refused, Refusal) and "5.000000 USD used" in refused.message
        assert control.summary(path[0]).left_nusd == -3 * USD

    asyncio.run(main())


def test_a_quiet_worker_gives_back_what_it_does_not_need(control: Control) -> None:
    path = branch(control, 100)

    async def main() -> None:
        money = purse(control)
        money.settle(await money.lease(path, 1 * USD, 1 * USD), 1 * USD)
        for _ in range(400):
            await money.tick()
        assert control.summary(path[0]).idle_nusd == 0
        assert control.summary(path[0]).used_nusd == 1 * USD

    asyncio.run(main())


def test_a_busy_worker_leases_ahead_so_that_requests_need_not_wait(control: Control) -> None:
    path = branch(control, 1_000)

    async def main() -> None:
        money = purse(control)
        money.settle(await money.lease(path, 1, 1), 0)
        late = 0
        for _ in range(20):
            for _ in range(20):
                grant = money.reserve(path, 1)
                if grant is None:
                    late += 1
                    grant = await money.lease(path, 1, 1)
                money.settle(grant, 1)
            await money.tick()
        assert late <= 1

    asyncio.run(main())


def test_a_cancelled_wait_leaves_nothing_reserved(control: Control) -> None:
    path = branch(control, 10)
    arrived, leave = threading.Event(), threading.Event()

    def held(call: Callable[..., Any], *args: Any) -> Any:
        answer = call(*args)
        arrived.set()
        assert leave.wait(5)
        return answer

    async def main() -> None:
        money = purse(control, run_in_thread=lambda call, *args: asyncio.to_thread(held, call, *args))
        waiting = asyncio.create_task(money.lease(path, 10 * USD, 10 * USD))
        await asyncio.to_thread(arrived.wait, 5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        leave.set()
        async with asyncio.timeout(5):
            while money.reserve(path, 10 * USD) is None:
                await asyncio.sleep(0)

    asyncio.run(main())


def test_a_control_database_that_does_not_answer_is_a_refusal_that_waiting_can_cure(control: Control) -> None:
    path = branch(control, 10)
    broken = True

    async def run(call: Callable[..., Any], *args: Any) -> Any:
        if broken:
            raise sqlite3.OperationalError("database is locked")
        return await asyncio.to_thread(call, *args)

    async def main() -> None:
        nonlocal broken
        money = purse(control, run_in_thread=run)
        refused = await money.lease(path, 1 * USD, 1 * USD)
        assert isinstance(refused, Refusal) and refused.code == "caps_unavailable"
        assert refused.retry_after_s
        await money.tick()  # survives
        broken = False
        money.settle(await money.lease(path, 1 * USD, 1 * USD), 1 * USD)
        broken = True
        await money.tick()
        broken = False
        await money.tick()
        assert control.summary(path[0]).used_nusd == 1 * USD

    asyncio.run(main())


def test_a_worker_that_was_declared_dead_learns_it(control: Control) -> None:
    path = branch(control, 10)

    async def main() -> None:
        money = purse(control)
        await money.lease(path, 1 * USD, 1 * USD)
        control.close_epoch(A, {})
        with pytest.raises(EpochClosed, match="must stop"):
            await money.tick()
        assert money.reserve(path, 1) is None
        refused = await money.lease(path, 10 * USD, 10 * USD)
        assert isinstance(refused, Refusal) and refused.code == "draining"

    asyncio.run(main())


@pytest.mark.parametrize("period", ["life", "day"])
@pytest.mark.parametrize("unit", METERED)
def test_the_way_out_that_a_refusal_names_is_one_that_budget_set_reads(unit: Unit, period: Period) -> None:
    denied = Denied(
        gauge=1, kind="team", name="demo/load", unit=unit, period=period, cap=4, used=4, leased=0,
        available=0, ticket=0, final=True,
    )  # fmt: skip
    refused = over_limit(denied, 2, 1, reserved=0, now_us=0, asked=True)
    (said,) = re.findall(r"wattmill budget set demo/load '(.*)'", refused.message)
    assert amount_of(said.replace("AMOUNT", "5"))[:2] == (unit, period)
