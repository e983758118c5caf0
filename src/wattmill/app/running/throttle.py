"""Slows engines of this machine: they are stopped and let go on, some times a second.

The one way to slow an answer that has begun: its engine has no other knob that works while it runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Sequence

PERIOD_S = 0.2


class Throttle:
    """A thread that exists only while engines are slowed. Whoever ends up stopped is always let go on."""

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self._pids = pids
        self._share = 1.0
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    def set(self, share: float) -> None:
        """Let engines run for `share` of the time, 0..1; 1 stops slowing them."""
        self._share = min(1.0, max(0.0, share))
        if self._share < 1.0 and self._thread is None:
            self._ending.clear()
            self._thread = threading.Thread(target=self._run, name="throttle", daemon=True)
            self._thread.start()
        elif self._share >= 1.0:
            self.close()

    def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ending.set()
            thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            stopped_s = PERIOD_S * (1.0 - self._share)
            pids = list(self._pids())
            try:
                _tell(pids, signal.SIGSTOP)
                self._ending.wait(stopped_s)
            finally:
                _tell(pids, signal.SIGCONT)
            self._ending.wait(PERIOD_S - stopped_s)


def _tell(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
