"""The embedded engine as a process: it starts, says why it does not, and never outlives its parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running_engine import WEIGHTS, wait_until_ready, weights_or_say_why

from wattmill.models.engines.embedded import (
    EXIT_CANNOT_LOAD,
    EXIT_CODES,
    EXIT_NO_KEY,
    EXIT_NO_WEIGHTS,
    EXIT_PORT_TAKEN,
    EXIT_SPINNING,
    KEY_VARIABLE,
    EmbeddedSpec,
    command,
)

pytestmark = pytest.mark.engine

SPEC = EmbeddedSpec(pool="edge", weights=WEIGHTS, alias="m", slots=1, ctx=256)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_an_engine_without_a_key_or_with_spinning_threads_does_not_start(tmp_path: Path) -> None:
    model = tmp_path / "none.gguf"
    arguments, environment = command(SPEC, free_port(), model=model, key="k")
    assert run(arguments, {**environment, KEY_VARIABLE: ""}).returncode == EXIT_NO_KEY
    done = run(arguments, {**environment, "OMP_WAIT_POLICY": "active"})
    assert done.returncode == EXIT_SPINNING and "OMP_WAIT_POLICY=passive" in done.stderr
    done = run(arguments, environment)
    assert done.returncode == EXIT_NO_WEIGHTS and "wattmill models pull" in done.stderr
    model.write_bytes(b"GGUF, but not really")
    assert run(arguments, environment).returncode == EXIT_CANNOT_LOAD
    for code in (EXIT_NO_KEY, EXIT_SPINNING, EXIT_NO_WEIGHTS, EXIT_CANNOT_LOAD):
        again, meaning = EXIT_CODES[code]
        assert not again and meaning


def test_a_taken_port_is_refused_not_shared() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments, environment = command(SPEC, port, model=weights_or_say_why(), key="k")
        done = run(arguments, environment)
    assert done.returncode == EXIT_PORT_TAKEN and str(port) in done.stderr


PARENT = """
import os, subprocess, sys
end, ours = os.pipe()
os.set_inheritable(end, True)
child = subprocess.Popen(sys.argv[1:], env={**os.environ, "WATTMILL_LIFELINE": str(end)}, pass_fds=(end,))
os.close(end)
print(child.pid, flush=True)
child.wait()
"""


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_engine_dies_with_its_parent(tmp_path: Path) -> None:
    arguments, environment = command(SPEC, port := free_port(), model=weights_or_say_why(), key="k")
    log = tmp_path / "log"
    with log.open("wb") as out:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, *arguments], env=environment, stdout=subprocess.PIPE, stderr=out
        )
    try:
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        wait_until_ready(parent, port, log)
        assert is_alive(engine)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(10)
        if parent.stdout is not None:
            parent.stdout.close()
    end = time.monotonic() + 10
    while is_alive(engine) or listens(port):
        assert time.monotonic() < end, "the engine or its port outlived its parent"
        time.sleep(0.02)
