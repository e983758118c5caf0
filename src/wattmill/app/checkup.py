"""What this machine can do and measure, one finding per line. Looks and measures; sends nothing anywhere."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from wattmill.app.declared.plan import Place, places
from wattmill.app.declared.pool_settings import HttpPool
from wattmill.app.declared.provider_key import absent_key
from wattmill.app.declared.settings import Settings
from wattmill.app.disk_checkup import disk
from wattmill.app.finding import Finding, Verdict
from wattmill.app.home import Home
from wattmill.app.meter_checkup import meter_findings
from wattmill.app.running.state import read_state
from wattmill.app.running.who_listens import why_not_free
from wattmill.models.weights import Derived, Missing, lock, sha256_of, weights_path

ENGINE_BYTES = 400 << 20
"""Resident size of one embedded engine with the built-in weights and four slots of 2,048 tokens: 373 MB
measured (llama.cpp of xllamacpp 2026.10), rounded up."""

OTHERS_BYTES = 400 << 20  # gateway, ledger, admin and supervisor together
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies")


def checkup(settings: Settings, home: Path, env: Mapping[str, str]) -> list[Finding]:
    """Look at everything that `wattmill up` needs here. Takes about a second, most of it for the disk."""
    placed = places(settings, env)
    embedded = [place for place in placed.values() if place.embedded]
    return [
        *_software(bool(embedded)),
        *_machine(settings, embedded),
        *_weights(embedded),
        *_ports(settings, home),
        *(Finding(what=w, value=v, verdict=d, way_out=o) for w, v, d, o in disk(home)),
        *meter_findings(settings, env),
        *_providers(settings, env),
    ]


# --- software ---------------------------------------------------------------------------------------------


def _software(needs_engine: bool) -> Iterator[Finding]:
    # An older one would not have come this far: the package does not install there.
    yield Finding(what="Python", value=platform.python_version(), verdict="good")
    system = platform.system()
    if system == "Linux":
        yield Finding(
            what="system", value=f"Linux {platform.release()}, {platform.machine()}", verdict="good"
        )
    else:
        yield Finding(
            what="system",
            value=f"{system} {platform.machine()}",
            verdict="poor",
            way_out="Tested on Linux only: elsewhere children do not die with a killed supervisor",
        )
    for name, why in (
        ("uvloop", "without it the gateway uses asyncio's own loop, which is slower"),
        ("httptools", ""),
        ("msgspec", ""),
    ):
        yield _package(name, missing="poor" if why else "bad", way_out=why or f"pip install {name}")
    if needs_engine:
        yield _engine()


def _package(name: str, *, missing: Verdict, way_out: str) -> Finding:
    try:
        return Finding(what=name, value=importlib.metadata.version(name), verdict="good")
    except importlib.metadata.PackageNotFoundError:
        return Finding(what=name, value="not installed", verdict=missing, way_out=way_out)


def _engine() -> Finding:
    """Load the engine in a process of its own: a wheel for another CPU ends by a signal, not an exception."""
    found = _package("xllamacpp", missing="bad", way_out="pip install xllamacpp")
    if found.verdict != "good":
        return found
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import xllamacpp"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return msgspec.structs.replace(
            found, value="does not load within 60 s", verdict="bad", way_out="Look at the disk and the load"
        )
    if done.returncode == 0:
        return msgspec.structs.replace(found, value=f"{found.value}, loads")
    last = (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1]
    return msgspec.structs.replace(
        found,
        value=f"{found.value}, does not load: {last}",
        verdict="bad",
        way_out="Its wheel may need another CPU or system library; remove embedded pools, or use openai_http",
    )


# --- machine ----------------------------------------------------------------------------------------------


def _machine(settings: Settings, embedded: list[Place]) -> Iterator[Finding]:
    cores = usable_cores()
    threads = sum(place.threads for place in embedded)
    wanted = max(2, threads)
    yield Finding(
        what="cores",
        value=f"{cores:g} usable, {_cpu_name()}",
        verdict="good" if cores >= wanted else "note" if cores >= 2 else "poor",
        way_out=""
        if cores >= wanted
        else f"{threads} engine threads and the gateway share them: answers are slower when all are busy",
    )
    yield _memory(len(embedded))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = 2 * settings.gateway.limits.connections + 256
    yield Finding(
        what="open files",
        value=f"{soft} allowed (hard limit {hard})",
        verdict="good" if soft >= need else "poor",
        way_out=""
        if soft >= need
        else f"{need} cover [gateway.limits] connections = {settings.gateway.limits.connections}: "
        f"`ulimit -n {need}`, or lower that setting",
    )
    source = _read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    slow = source in SLOW_CLOCKS
    yield Finding(
        what="clock source",
        value=source or "unknown",
        verdict="poor" if slow else "good" if source else "note",
        way_out="Reading this clock is slow; use tsc or kvm-clock if the machine allows it" if slow else "",
    )


def usable_cores() -> float:
    """Return the cores that this process may use: affinity, cut by the control group's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = (_read("/sys/fs/cgroup/cpu.max") or "max").split()
    if len(quota) == 2 and quota[0] != "max":
        return min(float(affinity), int(quota[0]) / int(quota[1]))
    return float(affinity)


def _cpu_name() -> str:
    fields: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    wide = [name for name in ("avx2", "avx512_vnni", "amx_int8") if name in flags]
    return ", ".join([fields.get("model name", platform.machine()), *wide])


def _memory(engines: int) -> Finding:
    total, available = _memory_bytes()
    if available is None:
        return Finding(what="memory", value="unknown", verdict="note")
    need = OTHERS_BYTES + engines * ENGINE_BYTES
    value = f"{_size(available)} available" + (f" of {_size(total)}" if total else "")
    if available >= need:
        return Finding(what="memory", value=value, verdict="good")
    return Finding(
        what="memory",
        value=value,
        verdict="poor",
        way_out=f"{engines} embedded engines want about {_size(need)}: fewer slots or a smaller context_tok",
    )


def _memory_bytes() -> tuple[int | None, int | None]:
    fields: dict[str, int] = {}
    for line in (_read("/proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            fields[name] = int(words[0]) * 1024
    total, available = fields.get("MemTotal"), fields.get("MemAvailable")
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if available is not None and limit and limit.isdigit() and used and used.isdigit():
        available = min(available, int(limit) - int(used))
        total = min(total or int(limit), int(limit))
    return total, available


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


# --- weights and ports ------------------------------------------------------------------------------------


def _weights(embedded: list[Place]) -> Iterator[Finding]:
    for place in embedded:
        assert place.weights is not None
        what = f"weights of {place.pool}"
        path = weights_path(place.weights)
        if isinstance(path, Missing):
            yield Finding(what=what, value=path.message, verdict="bad", way_out="wattmill models pull")
            continue
        pinned = lock().get(place.weights)
        size = f"{place.weights}, {path.stat().st_size >> 20} MiB"
        if isinstance(pinned, Derived):
            yield Finding(what=what, value=f"{size}, made here from {pinned.source}", verdict="good")
        elif pinned is None:
            yield Finding(what=what, value=f"{size}, a file of your own: nothing pins it", verdict="note")
        elif sha256_of(path) == pinned.sha256:
            yield Finding(what=what, value=f"{size}, SHA-256 matches", verdict="good")
        else:
            yield Finding(
                what=what,
                value=f"{size}, SHA-256 does not match the lock",
                verdict="bad",
                way_out=f"Remove {path} and run `wattmill models pull`",
            )


def _ports(settings: Settings, home: Path) -> Iterator[Finding]:
    running = read_state(Home(home))
    for what, host, port in (
        ("gateway port", settings.gateway.host, settings.gateway.port),
        ("admin port", settings.admin.host, settings.admin.port),
    ):
        why = why_not_free(host, port) if port else None
        if why is None:
            yield Finding(what=what, value=f"{host}:{port or 'any'} is free", verdict="good")
            continue
        ours = running is not None and _alive(running.supervisor_pid)
        yield Finding(
            what=what,
            value=f"{host}:{port} {why[0]}",
            verdict="note" if ours else "bad",
            way_out="This factory is running"
            if ours
            else why[1] or "Stop that program, or declare another port",
        )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# --- providers ---------------------------------------------------------------------------------


def _providers(settings: Settings, env: Mapping[str, str]) -> Iterator[Finding]:
    for name, pool in settings.pools.items():
        if not isinstance(pool, HttpPool) or (pool.api_key_env is None and pool.api_key_file is None):
            continue
        missing = absent_key(pool, env)
        if missing is None:
            yield Finding(what=f"key of {name}", value="present (never shown)", verdict="good")
        elif pool.stand_in is not None:
            yield Finding(
                what=f"key of {name}",
                value=f"{missing}: an engine on this machine stands in",
                verdict="note",
                way_out="Set it to use the provider; its answers then cost real money",
            )
        else:
            yield Finding(what=f"key of {name}", value=missing, verdict="bad", way_out="Set it")


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
