"""No orphans: a child process dies with the supervisor that started it, however that one dies.

Two strings hold it: Linux' parent-death signal, and a pipe whose other end only the supervisor has. At the
pipe's end the child leaves at once; that works on every POSIX system and when the parent changed before the
signal was asked for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

ENV = "WATTMILL_LIFELINE"
_PR_SET_PDEATHSIG = 1


def make() -> tuple[int, int]:
    """Return (the end for children, the end to keep open while they may live). The first must be passed on:
    `subprocess.Popen(..., pass_fds=(child_end,), env=child_env(child_end))`."""
    return os.pipe()


def child_env(child_end: int) -> dict[str, str]:
    """Return what a child's environment needs beside the parent's."""
    return {ENV: str(child_end)}


def arm() -> bool:
    """Make this process die with its supervisor; False when none started it (run by hand)."""
    text = os.environ.pop(ENV, None)  # its own children have another parent
    if text is None:
        return False
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_hold, args=(int(text),), name="lifeline", daemon=True).start()
    return True


def _hold(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except OSError:
        pass
    os._exit(83)  # nothing to tidy: everything that must survive is on the disk already
