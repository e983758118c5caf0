"""Epochs: one folder for each life of a writer, named by chance, guarded by a lock that the kernel drops.

Whether a writer lives is asked of its lock, never of a clock: a process that hangs for an hour is alive.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from wattmill.ledger.frame import SUFFIX

LOCK = "lock"
_NAME = re.compile(r"[0-9a-f]{12}")

Kind = Literal["gateway", "meter"]


class Who(NamedTuple):
    """Who wrote an epoch, as its lock file says."""

    kind: str
    worker: int
    pid: int
    start_us: int


def create(journal: Path, *, kind: Kind, worker: int, start_us: int) -> tuple[Path, int]:
    """Make a new epoch; return its folder and the descriptor that holds its lock.

    It is born under a hidden name and renamed when it is locked: nobody ever sees a living epoch unlocked.
    """
    while True:
        name = secrets.token_hex(6)
        born = journal / f".new-{name}"
        os.mkdir(born, 0o700)
        fd = os.open(born / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(
                fd,
                json.dumps(
                    {"kind": kind, "worker": worker, "pid": os.getpid(), "start_us": start_us}
                ).encode(),
            )
            os.rename(born, journal / name)  # fails if it exists: an epoch is never empty
        except FileExistsError:  # pragma: no cover - 1 in 2**48
            os.close(fd)
            continue
        except OSError:
            os.close(fd)
            raise
        return journal / name, fd


def names(journal: Path) -> list[str]:
    """Return the epochs of a journal, in no meaningful order but always the same one."""
    try:
        return sorted(entry for entry in os.listdir(journal) if _NAME.fullmatch(entry))
    except FileNotFoundError:
        return []


def alive(folder: Path) -> bool:
    """True while the epoch's writer lives. A folder without a lock file has no writer."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def who(folder: Path) -> Who:
    """Return what the lock file says; unknown values where it is gone or unreadable."""
    try:
        facts = json.loads((folder / LOCK).read_bytes())
        return Who(str(facts["kind"]), int(facts["worker"]), int(facts["pid"]), int(facts["start_us"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Who("unknown", -1, 0, 0)


def segments(folder: Path) -> list[int]:
    """Return the numbers of the segments that are there, ascending."""
    try:
        return sorted(_numbers(folder))
    except FileNotFoundError:
        return []


def _numbers(folder: Path) -> Iterator[int]:
    for entry in os.listdir(folder):
        stem, dot, _ = entry.partition(SUFFIX)
        if dot and stem.isdigit():
            yield int(stem)
