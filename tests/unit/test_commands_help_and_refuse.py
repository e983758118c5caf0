"""What holds for every command: its help leads on, and what the machine refuses is said in one line."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wattmill.app.home import Home
from wattmill.cli.application import command_of
from wattmill.cli.guides import EXAMPLES, PAGES, page_of
from wattmill.cli.main import COMMANDS, app_name
from wattmill.ledger.stores.control import Control

ROOT = Path(__file__).parents[2]


def leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield path, command
    for name, one in inner.items():
        yield from leaves(f"{path} {name}", one)


def all_leaves() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (module, summary) in COMMANDS.items():
        app = getattr(importlib.import_module(module), app_name(name))
        found |= leaves(name, command_of(app, name, summary))
    return found


LEAVES = all_leaves()


def typed(*words: str, home: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "wattmill", *words],
        env={**os.environ, "WATTMILL_HOME": str(home), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )


def test_every_command_has_examples_and_no_example_is_of_another() -> None:
    assert set(EXAMPLES) == set(LEAVES)
    assert set(PAGES) >= set(COMMANDS)


@pytest.mark.parametrize("path", LEAVES)
def test_the_examples_of_a_help_are_understood(path: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books.tar").touch()
    for example in EXAMPLES[path]:
        words = shlex.split(example.split(" | ")[0].split(" > ")[0])
        assert words[: len(path.split())] == path.split()
        LEAVES[path].make_context(path, words[len(path.split()) :]).close()
        for word in words:
            assert not word.startswith("examples/") or (ROOT / word).exists()


@pytest.mark.parametrize("path", LEAVES)
def test_a_help_names_a_page_that_tells_of_the_command(path: str) -> None:
    page = (ROOT / page_of(path)).read_text(encoding="utf-8")
    name = path.split()[0]
    assert f"wattmill {name}" in page or page_of(path).startswith("docs/reference/")
    assert LEAVES[path].epilog.endswith(f"More: {page_of(path)}")


def test_the_brackets_of_a_table_stand_in_the_help(tmp_path: Path) -> None:
    said = typed("simulate", "--help", home=tmp_path).stdout.decode()
    assert "the declaration's [load]" in " ".join(said.split())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = Home(tmp_path / "there")
    place.create()
    with Control(place.control_db) as control:
        control.put_team(control.put_org("demo", None), "search")
    return place.root


@pytest.mark.parametrize(
    "words",
    ["status", "audit", "explain req_5f0c1e2d3a4b_1f", "replay", "efficiency", "reconcile", "backup x.tar",
     "keys list", "budget show", "runs list", "kept show", "prices list", "meters joules", "power now",
     "power list", "twin check --pool edge"],
)  # fmt: skip
def test_where_no_factory_is_each_command_says_the_same(words: str, tmp_path: Path) -> None:
    name, *rest = words.split()
    app = getattr(importlib.import_module(COMMANDS[name][0]), app_name(name))
    nowhere = tmp_path / "nowhere"
    said = CliRunner().invoke(app, rest, env={"WATTMILL_HOME": str(nowhere)})
    assert said.exit_code == 1
    assert f"no factory in {nowhere}: name its folder with --home or WATTMILL_HOME" in said.output
    assert not nowhere.exists()


def test_a_terminal_that_is_not_utf_8_still_gets_its_figures(home: Path) -> None:
    done = typed("status", home=home, PYTHONIOENCODING="ascii")
    assert b"ledger difference" in done.stdout and b"Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_not_answered_with_a_traceback(home: Path) -> None:
    for words in ("--help", "config schema"):
        done = subprocess.run(
            ["bash", "-c", f"exec 3>&2; {sys.executable} -m wattmill {words} 2>&3 | true"],
            capture_output=True,
            timeout=30,
            check=True,
        )
        assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_in_one_line(home: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wattmill", "config", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"wattmill: No space left on device") and done.stderr.count(b"\n") == 1
