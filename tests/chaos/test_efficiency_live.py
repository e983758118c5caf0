"""A few seconds of `make efficiency-live`: a loss that is put into a living factory shows under its name.

That its bar moves most is a matter of longer phases on a quiet machine: the verdict of the program.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.engine
@pytest.mark.timeout(120)
def test_clients_that_leave_show_as_aborted_work() -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "efficiency_live.py")),
            *("--seconds", "4", "--only", "aborted"),
        ],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    said = done.stdout
    moved = re.search(r"^aborted: aborted ([+-][\d.]+) points; with it", said, re.MULTILINE)
    assert moved is not None and float(moved[1]) > 3.0, said + done.stderr
    assert re.search(r"^own_bar_moved_most=[01]/1$", said, re.MULTILINE), said
