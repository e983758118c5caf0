"""One factory per folder: a lock that the kernel frees when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os

import msgspec

from wattmill.app.home import Home


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a factory's folder."""

    pid: int
    since: str  # local time, for people
    command: str
    gateway: str = ""


class HomeLock:
    """Held from `take` until the process ends. The descriptor is not inherited by children."""

    def __init__(self, home: Home) -> None:
        self._path = home.lock
        self._fd: int | None = None

    def take(self, me: Holder) -> Holder | None:
        """Take the lock and say who we are; if another process has it, return that holder."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = os.pread(fd, 4096, 0)
            os.close(fd)
            return _holder(text)
        os.ftruncate(fd, 0)
        os.pwrite(fd, msgspec.json.encode(me), 0)
        self._fd = fd
        return None

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def running(home: Home) -> Holder | None:
    """Return who runs a factory in `home`, or None if nobody does."""
    try:
        fd = os.open(home.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except OSError:
        return _holder(os.pread(fd, 4096, 0))
    finally:
        os.close(fd)


def _holder(text: bytes) -> Holder:
    try:
        return msgspec.json.decode(text, type=Holder)
    except msgspec.DecodeError:
        return Holder(pid=0, since="unknown", command="unknown")  # between its lock and its first write
