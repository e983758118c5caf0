"""A minute of `make caps`: crowds on a real factory spend a key to its cap and not beyond it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from caps_verdict import Prices, read  # noqa: E402


def caps(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "caps.py"), *args],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    return done.stdout


@pytest.mark.parametrize(
    ("setting", "scenario"),
    [
        ("2 workers", "success"),
        ("1 worker", "aborted stream"),
        ("1 worker", "500 after tokens"),
        ("1 worker", "kill -9"),
    ],
)
def test_a_crowd_spends_a_key_to_its_cap_and_not_beyond(setting: str, scenario: str) -> None:
    said = caps("--setting", setting, "--scenario", scenario, "--fan-out", "16")
    # One cell spends dollars; some scenarios have a second one, which spends a limit of another unit.
    assert re.fullmatch(r"cells=[12] overshoot=0", said.splitlines()[-1]), said
    assert "wrong=0" in said


def test_the_verdict_counts_what_engines_wrote_down(tmp_path: Path) -> None:
    log = tmp_path / "engines.log"
    log.write_text(
        "A e1 c1.0 50 20 1 a 1\nT e1 0 2\nT e1 1 3\nE e1 left 4\n"
        "A e2 c1.1r 50 20 0 b 5\nF e2 status_429 6\nE e2 cut 6\n"
        "A e3 c2.0 10 20 1 a 7\nF e3 reset_half 8\nT e3 0 8\nE e3 cut 9\n"
    )
    made = read(log)
    assert made["c1"].spent_nusd(Prices(150, 600)) == 50 * 150 + 2 * 600
    assert made["c2"].spent_nusd(Prices(150, 600)) == 10 * 150 + 600
    assert made["c1"].attempts == 2
