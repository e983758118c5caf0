"""Child processes under supervision: started, watched, restarted, and never left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wattmill.app.running.state import ProcessState

_BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
LOG_MOST_BYTES = 16 << 20
_STEADY_S = 30.0  # up that long, a child has recovered: its next crash restarts at once again


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start one process. `ready` is asked until it says True; until then the child is `starting`.
    `final_exits` are exit codes after which starting it again cannot help, with their meaning."""

    role: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] | None = None
    final_exits: Mapping[int, str] = field(default_factory=dict)
    without: frozenset[str] = frozenset()  # variables that this process has no business to know


_LIVES = 8  # a meter's window is a second long; nothing dies more often


def _reaped_cpu_s() -> float:
    """CPU seconds of all children that were waited for: around one `poll`, that of the one it reaped."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Child:
    """One supervised process. All methods are called from the supervisor's main thread: on Linux a child's
    parent-death signal follows the thread that started it, not the process."""

    def __init__(self, spec: ChildSpec, *, logs: Path, lifeline_fd: int) -> None:
        self.spec = spec
        self._logs = logs
        self._lifeline_fd = lifeline_fd
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._started_us = 0
        self._start_at_s = 0.0
        self._failures = 0
        self._is_ready = False
        self.restarts = 0
        self.last_exit: str | None = None
        self.given_up: str | None = None  # why it is not started again
        self.ended: dict[int, float] = {}  # pid -> CPU seconds it used in all, of its last few lives

    @property
    def pid(self) -> int | None:
        process = self._process  # the sampler's thread asks too
        return process.pid if process is not None else None

    @property
    def is_ready(self) -> bool:
        return self._process is not None and self._is_ready

    def start(self, *, now_s: float, wall_us: int) -> None:
        path = self._logs / f"{self.spec.role}.log"
        if path.exists() and path.stat().st_size > LOG_MOST_BYTES:
            path.replace(path.with_suffix(".log.1"))  # what ends again and again must not fill the disk
        log = os.open(
            path,
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        try:
            self._process = subprocess.Popen(
                self.spec.argv,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._lifeline_fd,),
                start_new_session=True,  # Ctrl-C is for the supervisor, which then ends its children in order
            )
        finally:
            os.close(log)
        self._started_s, self._started_us = now_s, wall_us
        self._is_ready = self.spec.ready is None

    def _environment(self) -> dict[str, str]:
        whole = {**os.environ, **self.spec.env, "WATTMILL_LIFELINE": str(self._lifeline_fd)}
        return {name: value for name, value in whole.items() if name not in self.spec.without}

    def tend(self, *, now_s: float, wall_us: int) -> bool:
        """Notice an exit, restart after a growing pause. Returns True when the child's state changed."""
        if self._process is None:
            if now_s < self._start_at_s or self.given_up is not None:
                return False
            self.restarts += 1
            self.start(now_s=now_s, wall_us=wall_us)
            return True
        before_s = _reaped_cpu_s()
        code = self._process.poll()
        if code is not None:
            self.ended[self._process.pid] = _reaped_cpu_s() - before_s
            if len(self.ended) > _LIVES:
                del self.ended[next(iter(self.ended))]
            self.last_exit = _exit_text(code)
            if now_s - self._started_s > _STEADY_S:
                self._failures = 0
            self._start_at_s = now_s + _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
            self._failures += 1
            self.given_up = self.spec.final_exits.get(code)
            self._process, self._is_ready = None, False
            return True
        if not self._is_ready and self.spec.ready is not None and self.spec.ready():
            self._is_ready = True
            return True
        return False

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self, timeout_s: float) -> None:
        """Ask it to end, wait, then make it end."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.last_exit = _exit_text(self._process.returncode)
        self._process, self._is_ready = None, False

    def state(self) -> ProcessState:
        up = "up" if self._is_ready else "starting"
        return ProcessState(
            role=self.spec.role,
            pid=self.pid,
            since_us=self._started_us,
            restarts=self.restarts,
            state=up if self._process is not None else "down",
            last_exit=self.last_exit,
        )


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
