"""No orphans: a child process dies with the supervisor that started it, however that one dies.

The supervisor's side of `models.engines.lifeline`, which holds the string: Linux' parent-death signal, and a
pipe whose other end only the supervisor has. At the pipe's end the child leaves at once; nothing needs to be
tidied, since everything that must survive is on the disk already.
"""

from __future__ import annotations

import os

from wattmill.models.engines.lifeline import VARIABLE, hold


def make() -> tuple[int, int]:
    """Return (the end for children, the end to keep open while they may live). The first must be passed on:
    `subprocess.Popen(..., pass_fds=(child_end,), env=child_env(child_end))`."""
    return os.pipe()


def child_env(child_end: int) -> dict[str, str]:
    """Return what a child's environment needs beside the parent's."""
    return {VARIABLE: str(child_end)}


def arm() -> bool:
    """Make this process die with its supervisor; False when none started it (run by hand)."""
    if VARIABLE not in os.environ:
        return False
    hold()
    del os.environ[VARIABLE]  # its own children have another parent
    return True
