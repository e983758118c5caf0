"""What the running factory says of itself: `run/state.json`, replaced as a whole once a second."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from wattmill.app.home import Home


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    role: str  # "gateway-0", "ledger", "admin", "engine-edge"
    pid: int | None  # None: down at this moment
    since_us: int
    restarts: int
    state: str  # "up", "starting", "down"
    last_exit: str | None = None


class PlaceState(msgspec.Struct, frozen=True, kw_only=True):
    pool: str
    place: str
    engine: str  # in words: "llama.cpp, smollm2-135m-q4_0"
    stand_in: bool  # an engine of this machine plays the provider
    power_w: float | None = None  # of its process, last window
    power_provenance: str = "unknown"


class FactoryState(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    supervisor_pid: int
    started_us: int
    at_us: int
    gateway_url: str
    admin_url: str
    workers: int
    processes: list[ProcessState]
    places: list[PlaceState]
    host_w: float | None = None
    idle_w: float | None = None
    rest_w: dict[str, float] | None = None  # of no place, by account
    most_w: float | None = None  # all cores busy, as declared
    power_provenance: str = "unknown"
    power_source: str = ""
    problem: str | None = None  # e.g. a declaration that was refused at reload
    config_version: int = 0


def write_state(home: Home, state: FactoryState) -> None:
    """Replace the state file in one step: a reader sees the old one or the new one."""
    path = home.run / "state.json"
    draft = path.with_suffix(".tmp")
    draft.write_bytes(msgspec.json.encode(state))
    os.replace(draft, path)


def read_state(home: Home) -> FactoryState | None:
    """Return the last state written, or None if no factory ever ran here."""
    return _read(home.run / "state.json")


def _read(path: Path) -> FactoryState | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=FactoryState)
    except (OSError, msgspec.DecodeError):
        return None
