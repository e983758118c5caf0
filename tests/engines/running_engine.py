"""Runs an embedded engine for tests."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_under_test import EngineUnderTest

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.engines.embedded import READY_PATH, EmbeddedSpec, command
from wattmill.models.requantise import BadWeights
from wattmill.models.weights import Missing, pull, weights_path

WEIGHTS = "smollm2-135m-instruct.q4_1"


def weights_or_say_why() -> Path:
    path = weights_path(WEIGHTS)
    if not isinstance(path, Missing):
        return path
    try:
        return pull([WEIGHTS])[0]
    except BadWeights as e:
        if os.environ.get("CI"):
            pytest.fail(f"the engine's weights are missing in CI: {e}")
        pytest.skip(f"the engine's weights are missing: {e}")


def serve(spec: EmbeddedSpec, log: Path) -> Iterator[EngineUnderTest]:
    """Run one embedded engine until the tests that want it are over."""
    model = weights_or_say_why()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = secrets.token_hex(16)
    arguments, environment = command(spec, port, model=model, key=key)
    end, ours = os.pipe()
    environment["WATTMILL_LIFELINE"] = str(end)
    with log.open("wb") as out:
        process = subprocess.Popen(
            arguments, env=environment, stdout=out, stderr=subprocess.STDOUT, pass_fds=(end,)
        )
    os.close(end)
    try:
        wait_until_ready(process, port, log)
        yield EngineUnderTest(
            name="embedded",
            adapter=ADAPTERS["llama.cpp"],
            host="127.0.0.1",
            port=port,
            model=spec.alias,
            key=key,
            slots=spec.slots,
            batch=spec.batch,
        )
    finally:
        os.close(ours)
        process.kill()
        process.wait(10)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, (
            f"the engine ended with {process.returncode}: {log.read_text()[-2000:]}"
        )
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            link.request("GET", READY_PATH)
            if link.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            link.close()
        time.sleep(0.05)
    pytest.fail(f"the engine was not ready after 60 s: {log.read_text()[-2000:]}")
