"""Before a factory starts: are the ports free, and is anything of the last life still about?"""

from __future__ import annotations

import os
import signal
import time

from wattmill.app.declared.settings import Settings
from wattmill.app.home import Home
from wattmill.app.running.engine_endpoints import read_endpoints
from wattmill.app.running.state import read_state
from wattmill.app.running.who_listens import why_not_free

_PATIENCE_S = 3.0


def end_leftovers(home: Home) -> list[int]:
    """End processes of the last life that outlived their supervisor; return those that had to be killed.

    They die by themselves within moments (parent-death signal and lifeline); this is for a system without
    either. A process counts as ours only if its command line names wattmill and this folder or its engine.
    """
    state = read_state(home)
    if state is None:
        return []
    keys = {endpoint.key.encode() for endpoint in read_endpoints(home).values()}
    ours = [p.pid for p in state.processes if p.pid is not None and _is_ours(p.pid, home, keys)]
    ends_s = time.monotonic() + 1.0
    while any(_is_ours(pid, home, keys) for pid in ours) and time.monotonic() < ends_s:
        time.sleep(0.02)
    stubborn = [pid for pid in ours if _is_ours(pid, home, keys)]
    for pid in stubborn:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return stubborn


def _is_ours(pid: int, home: Home, keys: set[bytes]) -> bool:
    """True for a process of the factory in `home`. Numbers are given anew, perhaps to another factory's."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        with open(f"/proc/{pid}/environ", "rb") as file:
            told = file.read().split(b"\0")
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b") ")[2][:1]
    except OSError:
        return False
    engine = any(b"WATTMILL_ENGINE_KEY=" + key in told for key in keys)
    wattmill = any(word.startswith(b"wattmill.") for word in words)
    return wattmill and (engine or os.fsencode(home.root) in words) and state != b"Z"


def port_in_the_way(settings: Settings) -> str | None:
    """Return why a declared port cannot be had, with who holds it and the way out, or None.

    Waits a moment: ports of a factory that was killed just now are freed as its processes die.
    """
    wanted = (
        ("gateway", settings.gateway.host, settings.gateway.port, "--port"),
        ("admin", settings.admin.host, settings.admin.port, "--admin-port"),
    )
    ends_s = time.monotonic() + _PATIENCE_S
    while True:
        taken = [
            (section, host, port, option, why)
            for section, host, port, option in wanted
            if (why := why_not_free(host, port)) is not None
        ]
        if not taken:
            return None
        if time.monotonic() > ends_s or any(way_out is not None for *_, (_, way_out) in taken):
            break
        time.sleep(0.05)
    held = "; ".join(f"[{section}] port {port} on {host} {why}" for section, host, port, _, (why, _) in taken)
    ways_out = dict.fromkeys(way_out for *_, (_, way_out) in taken if way_out is not None)
    if ways_out:
        return f"{held}. {'. '.join(ways_out)}."
    options = " ".join(f"{option} 0" for *_, option, _ in taken)
    return f"{held}. End that, or choose others: wattmill up {options} lets the kernel choose."
