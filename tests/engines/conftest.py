"""Engines under test: the embedded one, and others that `WATTMILL_TEST_ENGINES` names with their address.

`WATTMILL_TEST_ENGINES="embedded,vllm=127.0.0.1:8000,transformers=127.0.0.1:8001"`; `scripts/test-engines.sh`
starts those. The model's name at another engine stands in `WATTMILL_TEST_MODEL`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from engine_under_test import EngineUnderTest
from running_engine import WEIGHTS, serve

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.engines.embedded import EmbeddedSpec

NAMED = [e for e in os.environ.get("WATTMILL_TEST_ENGINES", "embedded").split(",") if e]


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
