"""Supply chain: few direct dependencies, each with a reason, all pinned with hashes, no addresses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DIRECT = [re.split(r"[ <>=!~;\[]", line)[0] for line in PROJECT["project"]["dependencies"]]
DEVELOPMENT = [re.split(r"[ <>=!~;\[]", line)[0] for line in PROJECT["dependency-groups"]["dev"]]


def pinned(lock: str) -> dict[str, list[str]]:
    """Return {package: its hashes}, over all versions that the lock has for one platform or another."""
    out: dict[str, list[str]] = {}
    name = ""
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==", line):
            name = match[1]
            out.setdefault(name, [])
        out[name] += re.findall(r"--hash=(sha256:[0-9a-f]{64})", line)
    return out


def test_there_are_at_most_fifteen_direct_dependencies() -> None:
    assert len(DIRECT) <= 15


@pytest.mark.parametrize("package", DIRECT)
def test_each_direct_dependency_has_its_reason_in_the_design(package: str) -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| {re.escape(package)} \| .{{20,}} \|", design, re.MULTILINE), (
        f"docs/design.md, part 'Dependencies', has no row with a reason for {package!r}"
    )


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_pins_every_package_by_hash_and_names_no_address(lock: str) -> None:
    packages = pinned(lock)
    assert [name for name, hashes in packages.items() if not hashes] == []
    assert "://" not in (ROOT / lock).read_text(encoding="utf-8")
    wanted = DIRECT + (DEVELOPMENT if "dev" in lock else [])
    assert [name for name in wanted if name not in packages] == [], "run `make lock`"


def test_developers_run_the_same_versions_as_users() -> None:
    users, developers = pinned("requirements.lock"), pinned("requirements-dev.lock")
    assert {name: developers.get(name) for name in users} == users
