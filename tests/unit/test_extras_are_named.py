"""What an extra brings is named where it is missed, with the way out."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wattmill.cli.main import EXTRAS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "command",
    [
        ("plan", "examples/demand-scarce.toml"),
        ("twin", "validate", "nothing.csv"),
        ("twin", "calibrate", "--url", "http://127.0.0.1:1/v1", "--model", "x"),
    ],
)
def test_without_the_extra_a_command_says_what_to_install(command: tuple[str, ...]) -> None:
    code = "import sys; sys.modules['numba'] = None; from wattmill.cli.main import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "pip install 'wattmill[twin]', or in a clone `make dev`" in ran.stderr


def test_each_extra_that_is_named_exists_and_brings_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        # What is imported with an underscore is installed with a hyphen.
        assert any(line.replace("-", "_").startswith(package) for line in extras[extra]), (package, extra)
