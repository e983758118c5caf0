"""One gateway worker and one meter that write a factory's folder by hand, for tests of the books."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from wattmill.app.home import Home
from wattmill.app.ledger_process import follower
from wattmill.ledger.audit import Report
from wattmill.ledger.journal import Journal
from wattmill.ledger.rating import rate
from wattmill.ledger.stores.control import Control
from wattmill.vocab.fact import End, Intent
from wattmill.vocab.price import Price
from wattmill.vocab.route import Candidate, Excluded, Route
from wattmill.vocab.usage import Usage

NOW = 1_790_000_000_000_000
ROUTE = Route(
    (Candidate("edge", 31_000, 0.1, 1.0, 0.001), Candidate("local", 33_000, 0.2, 0.8, 0.002)),
    (Excluded("cloud", "privacy"),),
    "edge is cheapest",
    7,
)
USUAL = Usage(50, 60, cached_tok=20)
RATES = (10**8, 10**7, None, None, 10**9, 10**9, None)


class Factory:
    """One gateway worker and one meter writing, by hand."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.create()
        with Control(self.home.control_db) as control:
            org = control.put_org("demo", cap_nusd=10**12)
            team = control.put_team(org, "load")
            key, _ = control.create_key(team, "k")
            self.path = (org, team, key.id)
            self.cost = control.publish_price(
                "edge cost", "m", RATES, effective_us=0, source="test", provenance="declared"
            )
            self.charge = control.publish_price(
                "standard", "m", RATES, effective_us=0, source="test", provenance="declared"
            )
        self.price = Price(id=0, book="b", model="m", rates_nusd_per_mtok=RATES)
        self.seq = 0
        self.now = NOW
        self.gateway = Journal(self.home.journal, kind="gateway", worker=0, wall_us=lambda: NOW)

    def intent(self, pool: str = "edge", **more: object) -> int:
        self.seq += 1
        self.now += 10_000
        fact = Intent(
            self.seq, self.seq, 0, self.now, self.path, pool, "m", "chat", True, 100, 200, 300_000,
            _id(self.cost),
            _id(self.charge), asked_output_tok=200, route=ROUTE, label="mine", reserved_cost_nusd=300_000,
        )  # fmt: skip
        self.gateway.append_intent(replace(fact, **more))
        return self.seq

    def end(self, seq: int, usage: Usage | None = USUAL, **more: object) -> None:
        self.now += 500_000
        money = rate(self.price, usage) if usage else 0
        fact = End(
            seq, self.now, "finished", usage, "measured", money, money, ttft_us=100_000, duration_us=500_000,
            started_us=self.now - 499_000, finish_reason="stop",
        )  # fmt: skip
        self.gateway.append_end(replace(fact, **more))

    def id(self, seq: int) -> str:
        return f"req_{self.gateway.epoch}_{seq:x}"

    def book(self) -> None:
        with Control(self.home.control_db) as control:
            loop = follower(self.home, control)
            loop.catch_up()
            loop.close()

    def kill(self) -> None:
        """The worker dies: its lock is dropped, no footer is written."""
        self.gateway._stop = True
        self.gateway._wake.set()
        self.gateway._flusher.join()
        os.close(self.gateway._fd)
        os.close(self.gateway._lock_fd)

    def restart(self) -> None:
        self.gateway = Journal(self.home.journal, kind="gateway", worker=0, wall_us=lambda: NOW)


def _id(price: object) -> int:
    return price if isinstance(price, int) else price.id  # type: ignore[attr-defined, no-any-return]


def holds(report: Report) -> bool:
    assert report.holds, [(c.name, c.rows) for c in report.checks if not c.holds]
    return True


def by_hand(folder: Path) -> Iterator[Factory]:
    """Yield a factory that is closed afterwards, unless a test has killed it."""
    made = Factory(folder / "home")
    yield made
    if made.gateway._stop is False:
        made.gateway.close()
