"""What a worker knows of how much is spent: read in turn, followed in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from wattmill.app.runs.stages import AT_ONCE, Stages
from wattmill.ledger.stores.control_records import Budget


def budget(node: int, used_nusd: int) -> Budget:
    return Budget(
        node=node, kind="run", name=f"o/t/k/{node}", cap_nusd=100, used_nusd=used_nusd, reserved_nusd=0,
        idle_nusd=0, left_nusd=100 - used_nusd,
    )  # fmt: skip


class Factory:
    def __init__(self, runs: int) -> None:
        self.nodes = list(range(1, runs + 1))
        self.spent = dict.fromkeys(self.nodes, 50)
        self.mine: dict[int, int] = {}
        self.readings: list[list[int]] = []
        self.stages = Stages(
            charged=lambda node: self.mine.get(node, 0),
            nodes=lambda: self.nodes,
            read=self.read,
            run_in_thread=self.at_once,
        )

    def read(self, nodes: Sequence[int]) -> list[Budget]:
        self.readings.append(list(nodes))
        return [budget(node, self.spent[node]) for node in nodes]

    async def at_once(self, call: Any, *args: Any) -> Any:
        return call(*args)

    def tick(self) -> None:
        asyncio.run(self.stages.tick())


def test_a_new_run_is_read_at_once_however_many_there_are_and_the_others_in_turn() -> None:
    f = Factory(10 * AT_ONCE)
    for _ in range(20):
        f.tick()
    assert {node for reading in f.readings[:14] for node in reading} == set(f.nodes)
    new = len(f.nodes) + 1
    f.nodes.append(new)
    f.spent[new] = 70
    f.tick()
    assert f.readings[-1][0] == new and len(f.readings[-1]) == AT_ONCE
    assert f.stages.stage((new,)) is None
    f.mine[new] = 15  # what it charged since needs no reading
    stage = f.stages.stage((new,))
    assert stage is not None and (stage.percent, stage.word) == (85, "saving")
    for _ in range(11):
        f.tick()
    assert set(f.nodes) <= {node for reading in f.readings[-11:] for node in reading}


def test_what_is_in_use_no_more_is_forgotten_and_read_anew_when_it_comes_back() -> None:
    f = Factory(3)
    f.tick()
    f.nodes = [1, 2]
    f.tick()
    assert set(f.stages.shares) == {1, 2}
    f.nodes = [1, 2, 3]
    f.spent[3] = 96
    f.tick()
    assert f.readings[-1][0] == 3
    stage = f.stages.stage((1, 2, 3))
    assert stage is not None and stage.word == "last-call" and stage.name == "o/t/k/3"
    f.nodes = []
    f.tick()
    assert not f.stages.shares and len(f.readings) == 3
