"""A few seconds of `make joules-hour`: every joule of the meter has an account, with a kill in between.

How small the unattributed part is, is a matter of an hour: the goal of the program, not of this test.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.engine
@pytest.mark.timeout(180)
def test_requests_idle_and_the_rest_are_the_meter_through_a_kill() -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "joules_hour.py"), "--seconds", "9"),
            *("--kill-s", "1", "--pause-s", "0.3"),
        ],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    said = done.stdout
    assert len(re.findall(r"difference 0 uJ", said)) == 2, said + done.stderr
    assert re.search(r"^kills: [1-9]", said, re.MULTILINE), said
    for law in ("joules of requests, idle and unattributed are the meter's", "every joule has a provenance"):
        assert f"audit: {law}: holds" in said, said
    (joules,) = re.findall(r"quiet: .*requests ([\d.]+) J", said)
    assert float(joules) > 0, said
