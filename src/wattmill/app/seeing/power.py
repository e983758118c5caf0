"""What holds for power now and what events there were: for the command line, the API and the board."""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.app.flexing import in_force
from wattmill.app.flexing.shelf import Shelf
from wattmill.app.home import Home
from wattmill.app.seeing.readings import read_supervisor
from wattmill.power.signal.spec import PowerEvent


def overview(home: Home) -> dict[str, Any]:
    """Return what `wattmill power` and the board show."""
    running, state = read_supervisor(home)
    told = in_force.read(home)
    shelf = Shelf(home)
    return {
        "running": running,
        "now": None if told is None else msgspec.to_builtins(told),
        "host_w": None if state is None else state.host_w,
        "idle_w": None if state is None else state.idle_w,
        "provenance": "unknown" if state is None else state.power_provenance,
        "meter": "" if state is None else state.power_source,
        "events": [
            msgspec.to_builtins(msgspec.structs.replace(report, samples=())) for report in shelf.reports()
        ],
        "refused": [{"message": name, "why": why} for name, why in shelf.refusals()],
    }


def lifting(event: PowerEvent, now_s: float) -> bytes | None:
    """Return the message that lifts an event, None if it is over."""
    if event.ends_s <= now_s:
        return None
    lasts_s = (event.end_s or now_s + 366 * 86_400.0) - max(now_s, event.start_s)
    notice_s = max(0.0, event.start_s - now_s)
    return msgspec.json.encode({"lift": True, "notice_s": notice_s, "duration_s": max(lasts_s, 1.0)})
