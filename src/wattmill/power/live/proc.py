"""CPU time of this host and of single processes, from Linux's /proc."""

from __future__ import annotations

import os

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def host_busy_s() -> float | None:
    """Return CPU seconds that all cores spent working since boot, or None where /proc is not Linux's.

    Stolen time is left out: another guest of the machine below spent it.
    """
    try:
        with open("/proc/stat", "rb") as file:
            fields = file.readline().split()
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in fields[1:8])
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def process_cpu_s(pid: int) -> float | None:
    """Return CPU seconds that a process (all its threads) has used, or None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before it may hold spaces and brackets
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def process_rss_bytes(pid: int) -> int | None:
    """Return the resident memory of a process, or None if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
