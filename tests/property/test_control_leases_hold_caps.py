"""Escrow: whatever workers lease, report, give back, lose or recover, the grants never pass a cap."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import Ask, Denied, Holding

EPOCHS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc", "dddddddddddd")
epochs = st.sampled_from(EPOCHS)
money = st.integers(0, 400)


class Escrow(RuleBasedStateMachine):
    """Three workers over an organisation (cap 1000), a team (cap 600) and a team without a cap."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "control.db"
        self.control = Control(self.path)
        self.org = self.control.put_org("demo", 1_000)
        self.capped = self.control.put_team(self.org, "capped", 600)
        self.free = self.control.put_team(self.org, "free")
        self.caps = {self.org: 1_000, self.capped: 600}
        self.granted: dict[tuple[str, int], int] = {}  # what each worker believes
        self.used: dict[tuple[str, int], int] = {}
        self.spent: dict[int, int] = {}
        self.closed: set[str] = set()

    def teardown(self) -> None:
        self.control.close()
        self.folder.cleanup()

    def out(self, node: int) -> int:
        return sum(nusd for (_, at), nusd in self.granted.items() if at == node)

    @rule(epoch=epochs, want=money, share=st.floats(0, 1), chunk=money, capped=st.booleans())
    def lease(self, epoch: str, want: int, share: float, chunk: int, capped: bool) -> None:
        if epoch in self.closed:
            return
        path = (self.org, self.capped if capped else self.free)
        floor = int(want * share)
        answer = self.control.lease(epoch, [Ask(node, want, floor, chunk) for node in path])
        room = {n: self.caps[n] - self.spent.get(n, 0) - self.out(n) for n in path if n in self.caps}
        if isinstance(answer, Denied):
            assert floor and room[answer.gauge] < floor, "denied although the cap allows the floor"
            assert answer.available == room[answer.gauge]
            return
        for node in path:
            assert answer[node] >= floor
            self.granted[epoch, node] = self.granted.get((epoch, node), 0) + answer[node]

    @rule(epoch=epochs, node=st.integers(1, 3), use=st.floats(0, 1), keep=st.floats(0, 1), lost=st.booleans())
    def report(self, epoch: str, node: int, use: float, keep: float, lost: bool) -> None:
        """Use some of what is idle, keep some of the rest; `lost`: say it twice, the answer was lost."""
        if epoch in self.closed or (epoch, node) not in self.granted:
            return
        granted, used = self.granted[epoch, node], self.used.get((epoch, node), 0)
        used += int((granted - used) * use)
        kept = used + int((granted - used) * keep)
        for _ in range(1 + lost):
            self.control.report(epoch, {node: Holding(used, kept, kept - used)})
        self.used[epoch, node], self.granted[epoch, node] = used, kept

    @rule(epoch=epochs, unreported=st.floats(0, 1))
    def die_and_recover(self, epoch: str, unreported: float) -> None:
        """The journal shows more use than was reported, up to all that was granted."""
        used = {}
        for (owner, node), granted in list(self.granted.items()):
            if owner == epoch:
                told = self.used.get((epoch, node), 0)
                used[node] = told + int((granted - told) * unreported)
        first = self.control.close_epoch(epoch, used)
        assert first == (epoch not in self.closed)
        assert not self.control.close_epoch(epoch, dict.fromkeys(used, 10**6)), "folded twice"
        if first:
            for node, nusd in used.items():
                self.spent[node] = self.spent.get(node, 0) + nusd
            for key in [key for key in self.granted if key[0] == epoch]:
                del self.granted[key]
        self.closed.add(epoch)

    @precondition(lambda self: len(self.closed) < len(EPOCHS))
    @rule(cap=st.integers(0, 2_000))
    def raise_cap(self, cap: int) -> None:
        if cap > self.caps[self.org]:
            self.control.set_cap(self.org, cap)
            self.caps[self.org] = cap

    @rule()
    def another_process_sees_the_same(self) -> None:
        with Control(self.path) as other:
            assert other.summaries() == self.control.summaries()

    @invariant()
    def spent_and_granted_stay_under_each_cap(self) -> None:
        with sqlite3.connect(self.path) as db:
            rows = db.execute(
                "SELECT id, cap_nusd, ifnull((SELECT used FROM spent WHERE gauge = id), 0), "
                "ifnull((SELECT sum(granted) FROM lease WHERE gauge = id), 0) FROM node"
            ).fetchall()
        db.close()
        for node, cap, spent, granted in rows:
            assert (spent, granted) == (self.spent.get(node, 0), self.out(node))
            if cap is not None:
                assert spent + granted <= cap


Escrow.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_grants_and_spending_never_pass_a_cap = Escrow.TestCase
