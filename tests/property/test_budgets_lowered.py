"""Limits that are lowered, raised and lifted while requests are in flight, on workers whose clocks differ."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wattmill.ledger.budgets import Allotments
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.vocab.budget import Period, Spend, Unit, index_of, limit_of
from wattmill.vocab.refusal import Refusal

START_US = 1_795_254_300_000_000
ZONES = ("UTC", "Pacific/Auckland", "America/Havana")
DECLARED: tuple[tuple[Unit, Period], ...] = (
    ("nusd", "day"),
    ("total_tok", "minute"),
    ("input_tok", "month"),
    ("requests", "hour"),
    ("energy_uj", "life"),
)


class Factory:
    """Some workers over one tree, driven by a seed; what is out of each gauge is counted beside them."""

    def __init__(self, folder: Path, seed: int, workers: int) -> None:
        self.rng = random.Random(seed)
        self.now_us = START_US + self.rng.randrange(400) * 86_400_000_000
        self.mono_s = 0.0
        self.control = Control(folder / "control.db", wall_us=lambda: self.now_us)
        org = self.control.put_org("org")
        team = self.control.put_team(org, "team")
        self.path = self.control.create_key(team, "key")[0].path
        self.caps: dict[int, int | None] = dict.fromkeys(self.path)
        self.skew_us = [self.rng.choice((0, 0, 70_000_000, -70_000_000)) for _ in range(workers)]
        self.purses = [self._purse(n) for n in range(workers)]
        self.running: list[tuple[Allotments, Any, dict[int, int]]] = []
        self.out: Counter[int] = Counter()

    def _purse(self, n: int) -> Allotments:
        async def at_once(call: Callable[..., Any], *args: Any) -> Any:
            return call(*args)

        return Allotments(
            self.control,
            f"{n:012x}",
            run_in_thread=at_once,
            now=lambda: self.mono_s,
            wall_us=lambda: self.now_us + self.skew_us[n],
            patience_s=0.0,
            retry_s=0.0,
        )

    async def look(self) -> None:
        """What every worker does some four times a second, and when the declaration changed."""
        for purse in self.purses:
            await purse.refresh()
            await purse.tick()

    async def ask(self) -> None:
        rng, purse = self.rng, self.rng.choice(self.purses)
        worst = Spend(*(rng.randint(0, 400) for _ in range(5)))
        share = rng.choice((1, 1, 3))
        floor = msgspec.structs.replace(
            worst, **{name: getattr(worst, name) // share for name in worst.__struct_fields__[:5]}
        )
        grant = purse.reserve(self.path, worst) or await purse.lease(self.path, worst, floor)
        if isinstance(grant, Refusal):
            return
        held = dict(zip(grant.held[::2], grant.held[1::2], strict=True)) | dict.fromkeys(
            self.path, grant.nusd
        )
        self.out.update(held)
        self.running.append((purse, grant, held))
        for gauge, amount in held.items():
            most = self._most(gauge)
            assert not amount or most is None or self.out[gauge] <= most, f"{self.out[gauge]} of {most}"

    def settle(self) -> None:
        if not self.running:
            return
        rng = self.rng
        purse, grant, held = self.running.pop(rng.randrange(len(self.running)))
        spend = Spend(*(rng.randint(0, n) for n in (grant.nusd, 100, 100, 100, 100)))
        took = grant.took(spend)
        used = dict(zip(took[::2], took[1::2], strict=True)) | dict.fromkeys(self.path, spend.nusd)
        purse.settle(grant, spend)
        for gauge, amount in held.items():
            self.out[gauge] -= amount - min(amount, used[gauge])

    async def change(self) -> None:
        rng, node = self.rng, self.rng.choice(self.path)
        amount = rng.choice((None, rng.randint(0, 30), rng.randint(300, 6_000)))
        if rng.random() < 0.5:
            near = self.out[node] - rng.randint(0, 300)
            self.caps[node] = rng.choice((amount, near if near > 0 else amount))
            self.control.set_cap(node, self.caps[node])
        else:
            Limits(self.control).put(node, *rng.choice(DECLARED), amount, zone=rng.choice(ZONES))
        await self.look()

    def _most(self, gauge: int) -> int | None:
        """Return what may be out of a gauge; None: no limit, or one of a period that is over for the factory
        (a worker whose clock is behind still settles and spends what it had leased then)."""
        if not limit_of(gauge):
            return self.caps[gauge]
        with self.control.reading() as db:
            amount, lifted, latest = db.execute(
                "SELECT amount, lifted_us, latest FROM budget_limit WHERE id = ?", (limit_of(gauge),)
            ).fetchone()
        return None if lifted is not None or index_of(gauge) < latest else int(amount)

    async def end(self) -> None:
        while self.running:
            self.settle()
        assert not any(sum(purse.reserved().values()) for purse in self.purses)
        await self.look()
        for node in self.path:
            assert self.control.summary(node).used_nusd == self.out[node], "the database was told otherwise"
        self.control.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**20), workers=st.integers(1, 3))
def test_a_limit_that_changes_under_load_is_never_passed_by_what_is_let_in_afterwards(
    seed: int, workers: int
) -> None:
    async def main(folder: Path) -> None:
        factory = Factory(folder, seed, workers)
        for _ in range(120):
            match factory.rng.choices(("ask", "settle", "look", "change", "clock"), (40, 25, 12, 8, 5))[0]:
                case "ask":
                    await factory.ask()
                case "settle":
                    factory.settle()
                case "look":
                    await factory.look()
                case "change":
                    await factory.change()
                case "clock":
                    factory.now_us += factory.rng.choice((1, 60, 3_600, 86_400, -30)) * 1_000_000
                    factory.mono_s += factory.rng.choice((0.1, 5.0, 40.0))
        await factory.end()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
