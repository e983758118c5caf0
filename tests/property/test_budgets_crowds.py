"""Crowds at a cap: several workers, more requests than money, and not one nano-dollar too many."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.ledger.budgets import Allotments
from wattmill.ledger.stores.control import Control
from wattmill.ports import Purse
from wattmill.vocab.refusal import Refusal

WORST = 1_000
CAP = 50 * WORST


def tree(folder: Path, cap: int = CAP) -> tuple[Path, tuple[int, ...]]:
    path = folder / "control.db"
    with Control(path) as control:
        org = control.put_org("demo", cap)
        team = control.put_team(org, "load", 10 * cap)
        key, _ = control.create_key(team, "one")
    return path, key.path


async def ticking(purse: Allotments) -> None:
    while True:
        await purse.tick()
        await asyncio.sleep(0.02)


async def crowd(purse: Allotments, path: tuple[int, ...], requests: int, seed: int, full: bool) -> int:
    """Send `requests` at once; return what was charged."""
    rng = random.Random(seed)
    charged = 0

    async def one() -> None:
        nonlocal charged
        grant = purse.reserve(path, WORST) or await purse.lease(path, WORST, WORST)
        if isinstance(grant, Refusal):
            assert grant.code in ("budget_exceeded", "limit_reached")
            return
        await asyncio.sleep(0.002 * rng.random())
        charge = WORST if full else rng.randint(0, WORST)
        purse.settle(grant, charge)
        purse.settle(grant, charge)
        charged += charge

    await asyncio.gather(*(one() for _ in range(requests)))
    return charged


@pytest.mark.parametrize("full", [True, False])
def test_a_thousand_requests_on_two_workers_never_pass_a_cap_worth_fifty(tmp_path: Path, full: bool) -> None:
    path, nodes = tree(tmp_path)

    async def main() -> None:
        with Control(path) as first, Control(path) as second:
            purses = [
                Allotments(first, "aaaaaaaaaaaa", patience_s=1.0),
                Allotments(second, "bbbbbbbbbbbb", patience_s=1.0),
            ]
            tickers = [asyncio.create_task(ticking(purse)) for purse in purses]
            charged = sum(
                await asyncio.gather(*(crowd(p, nodes, 500, i, full) for i, p in enumerate(purses)))
            )
            for ticker in tickers:
                ticker.cancel()
            await asyncio.gather(*tickers, return_exceptions=True)
            assert charged <= CAP
            if full:
                assert charged == CAP, "money that one worker held idle was not found by the other"
            for purse in purses:
                assert not any(purse.reserved().values())
                await purse.tick()
            assert first.summary(nodes[0]).used_nusd == charged

    asyncio.run(main())


@settings(max_examples=12, deadline=None)
@given(
    workers=st.integers(1, 3),
    requests=st.integers(1, 40),
    cap=st.integers(0, 20_000),
    seed=st.integers(0, 2**16),
)
def test_what_is_reserved_and_used_stays_under_the_cap_at_every_moment(
    workers: int, requests: int, cap: int, seed: int
) -> None:
    rng = random.Random(seed)

    async def main(folder: Path) -> None:
        path, nodes = tree(folder, cap)
        with Control(path) as control:
            purses = [Allotments(control, f"{i:012x}", patience_s=0.05, retry_s=0.01) for i in range(workers)]

            def out() -> int:
                return sum(p.reserved().get(nodes[0], 0) + p.used().get(nodes[0], 0) for p in purses)

            async def one(purse: Allotments) -> None:
                worst = rng.randint(1, 3_000)
                floor = rng.randint(0, worst)
                grant = await purse.lease(nodes, worst, floor)
                assert out() <= cap
                if isinstance(grant, Refusal):
                    return
                assert floor <= grant.nusd <= worst
                await asyncio.sleep(0)
                if rng.random() < 0.2:
                    await purse.tick()
                purse.settle(grant, rng.randint(0, grant.nusd))

            await asyncio.gather(*(one(rng.choice(purses)) for _ in range(requests)))
            assert out() <= cap

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


def test_a_worker_that_dies_takes_its_lease_along_until_its_journal_was_read(tmp_path: Path) -> None:
    path, nodes = tree(tmp_path)

    async def main() -> None:
        with Control(path) as control:
            doomed = Allotments(control, "aaaaaaaaaaaa", patience_s=0.05, retry_s=0.01)
            assert not isinstance(await doomed.lease(nodes, 30 * WORST, 30 * WORST), Refusal)
            # It dies here: no report, no close.
            heir = Allotments(control, "bbbbbbbbbbbb", patience_s=0.05, retry_s=0.01)
            assert await crowd(heir, nodes, 100, 1, full=True) <= 20 * WORST
            refused = await heir.lease(nodes, WORST, WORST)
            assert isinstance(refused, Refusal) and refused.code == "limit_reached", "it may still come back"
            # Recovery finds that 12 of the 30 were used; 18 come back.
            used = dict.fromkeys(nodes, 12 * WORST)
            assert control.close_epoch("aaaaaaaaaaaa", used) and not control.close_epoch("aaaaaaaaaaaa", used)
            before = heir.used()[nodes[0]]
            await asyncio.sleep(0.1)  # the denial is remembered for a moment
            more = await crowd(heir, nodes, 100, 2, full=True)
            assert before + more == CAP - 12 * WORST

    asyncio.run(main())


PROCESS = """
import asyncio, json, sys
from pathlib import Path
from wattmill.ledger.budgets import Allotments
from wattmill.ledger.stores.control import Control
from wattmill.vocab.refusal import Refusal
path, epoch, requests = Path(sys.argv[1]), sys.argv[2], int(sys.argv[4])
nodes = tuple(json.loads(sys.argv[3]))
async def main():
    with Control(path) as control:
        purse = Allotments(control, epoch, patience_s=0.3)
        sys.stdin.readline()
        async def one():
            grant = purse.reserve(nodes, 1000) or await purse.lease(nodes, 1000, 1000)
            if not isinstance(grant, Refusal):
                await asyncio.sleep(0.001)
                purse.settle(grant, 1000)
        work = asyncio.gather(*(one() for _ in range(requests)))
        while not work.done():
            await purse.tick()
            await asyncio.sleep(0.02)
        await purse.tick()
        print(purse.used().get(nodes[0], 0))
asyncio.run(main())
"""


def test_workers_that_are_processes_share_one_cap(tmp_path: Path) -> None:
    path, nodes = tree(tmp_path)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path), f"{i:012x}", json.dumps(nodes), "300"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    spent = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert CAP - WORST <= sum(spent) <= CAP
    with Control(path) as control:
        assert control.summary(nodes[0]).used_nusd == sum(spent)


def test_allotments_are_a_purse(tmp_path: Path) -> None:
    path, _ = tree(tmp_path)
    with Control(path) as control:
        purse: Purse = Allotments(control, "aaaaaaaaaaaa")
        assert purse.reserve((1,), 1) is None
