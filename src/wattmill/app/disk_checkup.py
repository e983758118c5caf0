"""The disk under the data folder: is there room, are locks kept, how long does a promise take?"""

from __future__ import annotations

import fcntl
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from wattmill.units import MS_PER_S, US_PER_S

Line = tuple[str, str, Literal["good", "note", "poor", "bad"], str]
"""What, value, verdict, way out."""

RECORD_BYTES = 400  # about one intent with its routing decision
ROUNDS = 40
FREE_POOR_BYTES = 2 << 30
FREE_BAD_BYTES = 128 << 20
SLOW_SYNC_S = 0.05
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p")
_VOLATILE = ("tmpfs", "ramfs")


def disk(home: Path) -> Iterator[Line]:
    """Look at the folder `home`, or at the nearest folder above it that exists. Leaves nothing behind."""
    folder = home.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        yield "data folder", f"{folder} cannot be written", "bad", "Choose another with --home"
        return
    yield _place(folder)
    yield _room(folder)
    yield from _promise(folder)


def _place(folder: Path) -> Line:
    kind = filesystem_of(folder)
    if kind in _REMOTE:
        return (
            "data folder",
            f"{folder} on {kind}",
            "bad",
            "Locks and shared memory of SQLite are not safe on a network file system; choose a local disk",
        )
    if kind in _VOLATILE:
        return "data folder", f"{folder} on {kind}", "poor", "The books are gone when the machine restarts"
    return "data folder", f"{folder} on {kind or 'an unknown file system'}", "good", ""


def filesystem_of(folder: Path) -> str | None:
    """Return the type of the file system that holds `folder`, e.g. `ext4`; None without Linux's /proc."""
    best: tuple[int, str] | None = None
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    real = folder.resolve()
    for line in mounts:
        _, point, kind, *_ = line.split()
        at = Path(point.replace("\\040", " "))
        # Of two mounts at one point the later one is seen.
        if real.is_relative_to(at) and (best is None or len(at.parts) >= best[0]):
            best = (len(at.parts), kind)
    return best[1] if best else None


def _room(folder: Path) -> Line:
    free = shutil.disk_usage(folder).free
    value = f"{free / (1 << 30):.1f} GiB free"
    if free < FREE_BAD_BYTES:
        return "disk space", value, "bad", "Without room in the journal nothing is served: make space"
    if free < FREE_POOR_BYTES:
        return "disk space", value, "poor", "About 1 kB is kept per request until it is booked and trimmed"
    return "disk space", value, "good", ""


def _promise(folder: Path) -> Iterator[Line]:
    """Write and sync as the journal does, and take a lock as a worker does."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".wattmill-doctor-") as file:
        fd = file.fileno()
        writes, syncs = [], []
        record = b"\0" * RECORD_BYTES
        try:
            for _ in range(ROUNDS):
                before_s = time.perf_counter()
                os.write(fd, record)
                written_s = time.perf_counter()
                os.fdatasync(fd)
                writes.append(written_s - before_s)
                syncs.append(time.perf_counter() - written_s)
        except OSError as error:
            yield (
                "journal write",
                f"failed: {error.strerror}",
                "bad",
                "Nothing is served unbooked: mend the disk",
            )
            return
        median_s = statistics.median(writes)
        yield (
            "journal write",
            f"median {median_s * US_PER_S:.0f} µs, slowest {max(writes) * US_PER_S:.0f} µs of {ROUNDS}",
            "good",
            "",
        )
        median_s = statistics.median(syncs)
        slow = median_s > SLOW_SYNC_S
        yield (
            "journal fdatasync",
            f"median {median_s * MS_PER_S:.2f} ms, slowest {max(syncs) * MS_PER_S:.2f} ms of {ROUNDS}",
            "poor" if slow else "good",
            "Off the request's way, but each wait delays the next: a longer sync_ms batches more"
            if slow
            else "",
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield "file lock", f"failed: {error.strerror}", "bad", "Choose a file system that keeps locks"
        else:
            yield "file lock", "kept", "good", ""
