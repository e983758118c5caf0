"""Making a file that only its owner may read, for data bases that this process may have open already."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

_MAKING = threading.Lock()


def make_private(path: Path) -> None:
    """Make `path`, empty, if it is absent; never open one that is there.

    Closing any descriptor of a file drops all POSIX locks that the process has on it, SQLite's among them:
    the next process that closes the data base takes itself for the last one, and removes the write-ahead log
    under those that still write to it.
    """
    with _MAKING, contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
