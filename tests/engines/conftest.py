"""Engines under test: the embedded one, and others that `WATTMILL_TEST_ENGINES` names with their address.

`WATTMILL_TEST_ENGINES="embedded,vllm=127.0.0.1:8000,transformers=127.0.0.1:8001"`; `scripts/test-engines.sh`
starts those. The model's name at another engine stands in `WATTMILL_TEST_MODEL`.
"""

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
NAMED = [e for e in os.environ.get("WATTMILL_TEST_ENGINES", "embedded").split(",") if e]


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


@pytest.fixture(scope="session", params=NAMED)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineUnderTest]:
    name, _, address = str(request.param).partition("=")
    if name == "embedded":
        spec = EmbeddedSpec(pool="test", weights=WEIGHTS, alias="smollm2", slots=2, ctx=2048, batch=64)
        yield from serve(spec, tmp_path_factory.mktemp("engine") / "log")
        return
    host, _, port = address.partition(":")
    yield EngineUnderTest(
        name=name,
        adapter=ADAPTERS[name],
        host=host,
        port=int(port),
        model=os.environ["WATTMILL_TEST_MODEL"],
        key="none",
        slots=4,
        batch=2048,
    )


@pytest.fixture(scope="session")
def embedding_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    spec = EmbeddedSpec(pool="test", weights=WEIGHTS, alias="smollm2", slots=1, ctx=512, embeddings=True)
    yield from serve(spec, tmp_path_factory.mktemp("embeddings") / "log")
