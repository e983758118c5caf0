"""What Linux says of a process and of the machine, read from /proc: CPU time, memory, who else was busy."""

from __future__ import annotations

import contextlib
import os
import platform
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all threads of `pid` so far, in ns as the scheduler counts it.

    A thread that has ended is no longer in it: take differences while threads do not come and go.
    """
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def kernel_s(pid: int) -> float:
    """Return the seconds that the kernel worked for `pid` so far, in ticks of a hundredth."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[12]) * TICK_S


def switches(pid: int) -> tuple[int, int]:
    """Return how often threads of `pid` went to sleep by themselves, and were put aside for others."""
    slept = ousted = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        for line in Path(f"/proc/{pid}/task/{task}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            slept += int(value) if name == "voluntary_ctxt_switches" else 0
            ousted += int(value) if name == "nonvoluntary_ctxt_switches" else 0
    return slept, ousted


def rss_mb(pid: int) -> float:
    """Return resident memory in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


AWAKE = Path("/dev/cpu_dma_latency")


def can_hold_awake() -> bool:
    """Say whether this machine lets us keep its cores from sleeping."""
    return os.access(AWAKE, os.W_OK)


@contextlib.contextmanager
def held_awake() -> Iterator[None]:
    """Keep idle cores from sleeping, by the kernel's request for no latency (PM QoS), as `cyclictest` does.

    A core that sleeps has to be woken, on a virtual machine by the host: some 50 µs, whoever it is for. The
    request ends with the file that was opened for it. Raises `OSError` where it may not be made."""
    with AWAKE.open("wb", buffering=0) as request:
        request.write(struct.pack("=i", 0))
        yield


def busy_s(cpu: int | None = None) -> float:
    """Return the busy seconds of core `cpu` (or all cores) since boot, time stolen by the host included."""
    name = "cpu" if cpu is None else f"cpu{cpu}"
    for line in Path("/proc/stat").read_text().splitlines():
        fields = line.split()
        if fields[0] == name:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[1:9])
            return (user + nice + system + irq + softirq + steal) * TICK_S
    raise LookupError(f"no {name} in /proc/stat")


def alive(pid: int) -> bool:
    """Return whether `pid` runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def processes_with(text: str) -> dict[int, str]:
    """Return {pid: command line} of running processes whose command line has `text`, ourselves excepted."""
    found: dict[int, str] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if text in line and alive(int(entry)):
            found[int(entry)] = line.strip()
    return found


def listens(port: int) -> bool:
    """Return whether anybody listens on `port` of any address of this machine."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                return True
    return False


def pin(pid: int, cpus: Iterable[int]) -> None:
    """Pin all threads of `pid`; threads that it starts later inherit that."""
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(task), set(cpus))
        except ProcessLookupError:
            continue


def machine() -> dict[str, object]:
    """Return what a reader needs to judge a figure."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(memory_kb * 1024 / 1e9, 1),
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
