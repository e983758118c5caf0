"""Engines under test: the embedded one, and others that `WATTMILL_TEST_ENGINES` names with their address.

`WATTMILL_TEST_ENGINES="embedded,vllm=127.0.0.1:8000,transformers=127.0.0.1:8001"`; `scripts/test-engines.sh`
starts those. The model's name at another engine stands in `WATTMILL_TEST_MODEL`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_under_test import EngineUnderTest
from known_engines import KNOWN
from running_engine import WEIGHTS, serve

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.engines.contract import Adapter
from wattmill.models.engines.embedded import EmbeddedSpec

NEEDS: dict[str, Callable[[str, Adapter], bool]] = {
    "counters": lambda _, adapter: adapter.counters_path is not None,
    "counts in chunks": lambda _, adapter: adapter.counts_in is not None,
    "progress": lambda _, adapter: adapter.name == "llama.cpp",
    "a limit of its own": lambda name, _: KNOWN[name].refuses_beyond_context,
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(what): an engine without it has no such test; see NEEDS")
    config.addinivalue_line("markers", "only_for(adapter): pins a fault that no other engine has")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what an engine does not offer: a skip would be a promise that is not checked. Called with the
    tests of all folders, and others call other things an engine."""
    here = Path(__file__).parent
    away = [item for item in items if here in item.path.parents and not _is_for_its_engine(item)]
    if away:
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if item not in set(away)]


def _is_for_its_engine(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    if "embedding_engine" in getattr(item, "fixturenames", ()):
        return "embedded" in NAMED
    if callspec is None or "engine" not in callspec.params:
        return True
    name = str(callspec.params["engine"]).partition("=")[0]
    adapter = ADAPTERS["llama.cpp" if name == "embedded" else name]
    for marker in item.iter_markers("only_for"):
        if adapter.name != marker.args[0]:
            return False
    for marker in item.iter_markers("needs"):
        what = marker.args[0]
        has = NEEDS[what](name, adapter) if what in NEEDS else what in adapter.capabilities
        if not has:
            return False
    return True


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
        slots=1 if name == "transformers" else 4,
        batch=2048,
    )


@pytest.fixture(scope="session")
def embedding_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    spec = EmbeddedSpec(pool="test", weights=WEIGHTS, alias="smollm2", slots=1, ctx=512, embeddings=True)
    yield from serve(spec, tmp_path_factory.mktemp("embeddings") / "log")
