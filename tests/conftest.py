"""What every test may use, and the rule for tests that cannot run on a machine."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from wattmill.app.home import Home

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).parent
FACTORIES = (
    "chaos",
    "clients",
    "cluster",
    "docs",
    "engines",
    "http",
)  # folders with real processes and sockets
NICE = 10
IN_CI = os.environ.get("CI") == "true"
COLLECTS = os.environ.get("WATTMILL_TEST_COLLECT") == "1"
CANNOT = (
    "cannot here:"  # a skip with this beginning is accepted in CI: the machine's kernel or rights forbid it
)

# How long an example takes says how busy the machine is, and nothing about the law.
settings.register_profile("untimed", settings.get_profile("ci" if IN_CI else "default"), deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=COLLECTS)
def collected() -> Generator[None, None, None]:
    """Find what a test left to the collector while its name is still known: `WATTMILL_TEST_COLLECT=1`.

    Otherwise a socket that is not closed fails whichever test runs when the collector comes by.
    """
    yield
    gc.collect()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return the empty data folder of a factory that nobody else uses."""
    home = Home(tmp_path / "factory")
    home.create()
    return home


@pytest.fixture
def free_port() -> int:
    """Return a loopback port that was free a moment ago; prefer port 0 where a program tells its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Give the tests that run factories to one process, in their order, and share out the others by file.

    Factories side by side would only fight for the processors; beside arithmetic they mostly wait.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FactoriesTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "factories" if _runs_factories(config.rootpath / file) else file

    return FactoriesTogether(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Arithmetic gives way to the factories beside it: what they promise is promised in seconds."""
    if "PYTEST_XDIST_WORKER" in os.environ and not _runs_factories(item.path) and os.nice(0) < NICE:
        os.nice(NICE - os.nice(0))


def _runs_factories(file: Path) -> bool:
    return file.relative_to(HERE).parts[0] in FACTORIES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the minutes-long tests to their make targets: they run when `-m` names them."""
    for item in items:  # whichever comes first to a compiled function waits for the compiler
        if HERE / "twin" in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))
    if "slow" in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI: what is never run there would be a promise that nobody checks."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(CANNOT):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}\n(begin the reason with {CANNOT!r} if it may be so)"
    return report
