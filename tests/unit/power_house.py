"""A factory's power and its clock, which a test turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wattmill.app.declared.declaration import EXAMPLE, load
from wattmill.app.declared.settings import Settings
from wattmill.app.flexing.shelf import EventReport, Shelf
from wattmill.app.home import Home
from wattmill.app.running.flexer import Flexer
from wattmill.app.running.sampler import Power


class Hours:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.s = 1_800_000_000.0

    def now(self) -> float:
        return self.s

    def wall_us(self) -> int:
        return int(self.s * 1e6)


class World:
    def __init__(self, path: Path) -> None:
        self.home = Home(path)
        self.home.create()
        self.clock = Hours()
        self.watts = 60.0
        self.power: Power | None = None
        loaded = load(None, {})
        assert not isinstance(loaded, list) and loaded.file == EXAMPLE
        self.settings: Settings = loaded.settings
        self.flexer = self.live()
        self.shelf = Shelf(self.home)

    def live(self) -> Flexer:
        return Flexer(
            self.home, clock=self.clock, power=lambda: self.power, engines=list, settings=self.settings
        )

    def go(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.s += 1.0
            self.power = Power(
                host_w=self.watts,
                idle_w=20.0,
                rest_w={"unattributed": 1.0},
                by_pool_w={},
                source="a model",
                provenance="modelled",
            )
            self.flexer.tick()

    def send(self, **message: Any) -> None:
        self.shelf.put(json.dumps(message).encode())

    def report(self, id: str) -> EventReport:
        found = self.shelf.report(id)
        assert found is not None
        return found
