"""`wattmill plan --sweep --on ray`: a real cluster of two nodes plans what one does (`make test-ray`)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON = os.environ.get("WATTMILL_RAY_PYTHON", "")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Start two nodes; yield the environment in which a client finds them."""
    assert PYTHON, "run `make test-ray`"
    env = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{HERE}",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else a client takes 127.0.0.1 for this machine's address in the network, where nobody listens.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "NO_COLOR": "1",
    }
    with subprocess.Popen(
        [PYTHON, str(HERE / "two_nodes.py")],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nodes:
        assert nodes.stdin is not None and nodes.stdout is not None
        address = ""
        for line in nodes.stdout:
            if line.startswith("127.0.0.1:"):
                address = line.strip()
                break
        assert address, "the cluster did not start"
        yield {**env, "RAY_ADDRESS": address}
        nodes.stdin.close()
        nodes.wait(60)


def run(env: dict[str, str], *args: str) -> Any:
    done = subprocess.run([PYTHON, *args], env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_work_is_spread_over_both_nodes_and_comes_back_in_order(cluster: dict[str, str]) -> None:
    found = run(cluster, str(HERE / "which_nodes.py"))
    assert [number for number, _ in found] == list(range(8))
    assert len({node for _, node in found}) == 2


def test_a_sweep_on_the_cluster_plans_what_it_plans_here(cluster: dict[str, str]) -> None:
    file = str(ROOT / "examples" / "demand-scarce.toml")
    asked = ["-m", "wattmill", "plan", file, "--extrapolate", "--draws", "100", "--sweep", "--json"]
    here = run(cluster, *asked)["sweep"]
    there = run(cluster, *asked, "--on", "ray")["sweep"]
    machines = {row.pop("machine") for row in there}
    assert len(machines) >= 2, "one process did it all"
    assert machines.isdisjoint({row.pop("machine") for row in here})
    assert there == here


def test_where_no_cluster_answers_the_way_out_is_named_at_once(cluster: dict[str, str]) -> None:
    file = str(ROOT / "examples" / "demand-scarce.toml")
    done = subprocess.run(
        [PYTHON, "-m", "wattmill", "plan", file, "--extrapolate", "--draws", "100", "--sweep", "--on", "ray"],
        env={**cluster, "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "RAY_ADDRESS is '127.0.0.1:1', where no Ray cluster answers" in done.stderr
    assert "Traceback" not in done.stderr
