"""The import contracts hold the house: each is broken on purpose in a copy of the tree, and says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = "Layers point downwards: watts at the bottom, people at the top"
LEDGER = "Only the composition root, the twin and the surfaces see the ledger; layers emit facts"
PURE = "What a thing is, how it behaves and what it decides never look at the world"
GATEWAY = "The gateway's process imports three packages from outside"
CYCLES = "No import cycles between siblings"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Return a copy of the source tree with its contracts."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.gguf"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(house: Path, module: str, line: str) -> None:
    """Add an import to `module`, made if it does not exist yet."""
    path = house / "src" / "wattmill" / module
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{line}  # planted\n")


def lint(house: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house / "src"), "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_house_as_it_is_keeps_every_contract(house: Path) -> None:
    done = lint(house)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("contract", "module", "line"),
    [
        pytest.param(LAYERS, "units.py", "import wattmill.app.home", id="units-know-the-app"),
        pytest.param(LAYERS, "scheduling/spec.py", "import wattmill.cli.main", id="scheduler-knows-the-cli"),
        pytest.param(LAYERS, "basement/__init__.py", "", id="a-folder-that-no-layer-names"),
        pytest.param(LEDGER, "distribution/spec.py", "import wattmill.ledger", id="gateway-sees-the-books"),
        pytest.param(LEDGER, "models/spec.py", "import wattmill.ledger", id="models-see-the-books"),
        pytest.param(PURE, "scheduling/policy.py", "import time", id="policy-reads-the-clock"),
        pytest.param(PURE, "power/model.py", "import random", id="model-throws-dice"),
        pytest.param(PURE, "vocab/request.py", "import socket", id="noun-opens-a-socket"),
        pytest.param(GATEWAY, "distribution/spec.py", "import numpy", id="gateway-imports-numpy"),
        pytest.param(GATEWAY, "scheduling/spec.py", "import numba", id="gateway-imports-numba"),
        pytest.param(GATEWAY, "vocab/ids.py", "import starlette", id="noun-imports-a-web-framework"),
    ],
)
def test_a_planted_import_breaks_its_contract(house: Path, contract: str, module: str, line: str) -> None:
    plant(house, module, line)
    done = lint(house)
    assert done.returncode != 0, f"nobody missed {line!r} in {module}:\n{done.stdout}"
    assert f"{contract} BROKEN" in done.stdout, done.stdout + done.stderr


def test_two_siblings_that_import_each_other_break_the_contract(house: Path) -> None:
    plant(house, "ledger/one.py", "import wattmill.ledger.two")
    plant(house, "ledger/two.py", "import wattmill.ledger.one")
    done = lint(house)
    assert done.returncode != 0
    assert f"{CYCLES} BROKEN" in done.stdout, done.stdout + done.stderr
