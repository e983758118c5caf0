"""`make bench-twin` in small, and what it stands on: compiled and Python least-loaded decide alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from twin import part_agree  # noqa: E402

VIEWS = 10_000  # of the hundred thousand that `make bench-twin` compares


def test_the_compiled_dispatcher_and_the_gateways_policy_agree_on_random_views() -> None:
    assert part_agree(VIEWS) == {"views_agreed": VIEWS}


def test_a_small_run_of_the_benchmark() -> None:
    for part, wanted in (("million", "requests_per_s"), ("fleet", "fleet_s"), ("whatif", "whatif_ms")):
        said = subprocess.run(
            [
                sys.executable, str(ROOT / "benchmarks/twin.py"), "--part", part, "--requests", "2000",
                "--replicas", "20", "--seconds", "30",
            ],
            capture_output=True, text=True, timeout=110,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        assert json.loads(said.stdout)[wanted] > 0
