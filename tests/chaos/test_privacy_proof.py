"""The privacy proof in small, a defect planted on purpose, and a judge that convicts of each violation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import privacy_verdict  # noqa: E402
from factory import ROOT  # noqa: E402
from privacy_proof import prove  # noqa: E402

FORGETFUL = """
import msgspec
from wattmill.distribution.exchange import Exchange


def forgets_the_filters(self, failed):
    \"\"\"After a failure every place is good enough.\"\"\"
    first = self.route.candidates[0]
    known = {c.pool for c in self.route.candidates}
    rest = msgspec.structs.astuple(first)[1:]
    more = tuple(type(first)(p, *rest) for p in self.services.backends if p not in known)
    self.route = msgspec.structs.replace(self.route, candidates=(*self.route.candidates, *more))
    return any(c.pool not in self._tried for c in self.route.candidates[self._next :])


assert hasattr(Exchange, "_may_try_again")
Exchange._may_try_again = forgets_the_filters
"""


@pytest.mark.timeout(180)
def test_no_place_gets_what_it_must_not_see_under_random_faults(tmp_path: Path) -> None:
    done = prove(tmp_path, requests=1_500, seed=7, connections=48)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 0, done.stdout + done.stderr
    assert last.startswith("requests=1500 ") and last.endswith(" violations=0")
    assert int(last.split("arrivals=")[1].split()[0]) > 1_000


@pytest.mark.timeout(180)
def test_a_gateway_that_forgets_its_filters_when_a_place_fails_is_caught(tmp_path: Path) -> None:
    defect = tmp_path / "defect"
    defect.mkdir()
    (defect / "sitecustomize.py").write_text(
        "import sys\nif any('wattmill.app.worker' in a for a in sys.orig_argv):\n"
        + "".join(f"    {line}\n" for line in FORGETFUL.splitlines())
    )
    done = prove(
        tmp_path, requests=600, seed=8, connections=32, env={"PYTHONPATH": f"{defect}:{ROOT / 'src'}"}
    )
    assert done.returncode == 1, done.stdout
    kinds = dict(part.split("=") for part in done.stdout.splitlines()[-2].split())
    assert int(kinds["class"]) and int(kinds["residency"]) and int(kinds["operator"])


# --- the judge -------------------------------------------------------------------------------------------

PLACE = {"class": "internal", "region": "eu", "operator": "own"}
ENTRY: dict[str, Any] = {
    "n": 1,
    "team": "t",
    "class": "internal",
    "regions": ["eu"],
    "operators": ["own"],
    "pinned": None,
    "refuse": False,
    "secrets": ["p1@leak.example", "4111 1111 1111 1111"],
    "expected": "cnry-1- hi",
    "status": 200,
    "answer": "cnry-1- hi",
    "complete": True,
}


def judged(
    folder: Path, entry: dict[str, Any], text: str = "cnry-1- hi", *, disk: str = ""
) -> dict[str, int]:
    (folder / "home").mkdir()
    (folder / "home" / "journal").write_text(disk)
    (folder / "places.json").write_text(json.dumps({"here": PLACE}))
    (folder / "secrets.txt").write_text("@leak.example\n")
    other = ENTRY | {"n": 2, "team": "other", "answer": None, "complete": False}
    (folder / "clients.log").write_text(json.dumps(entry) + "\n" + json.dumps(other) + "\n")
    body = json.dumps({"messages": [{"content": text}]})
    (folder / "places.log").write_text(f"here\t/v1/chat/completions\t{body}\n")
    bad, _, _ = privacy_verdict.judge(folder)
    return dict(bad)


def test_a_run_without_violations_is_acquitted(tmp_path: Path) -> None:
    assert judged(tmp_path, ENTRY) == {}


@pytest.mark.parametrize(
    ("kind", "change", "text", "disk"),
    [
        ("class", {"class": "private"}, "cnry-1-", ""),
        ("residency", {"regions": ["us"]}, "cnry-1-", ""),
        ("residency", {"regions": []}, "cnry-1-", ""),
        ("operator", {"operators": ["bigco"]}, "cnry-1-", ""),
        ("pinned", {"pinned": "elsewhere"}, "cnry-1-", ""),
        ("refused", {"refuse": True}, "cnry-1-", ""),
        ("secret", {}, "cnry-1- p1@leak.example", ""),
        ("secret", {}, "cnry-1- 4111-1111-1111-1111", ""),
        ("unknown", {}, "no canary", ""),
        ("unknown", {}, "cnry-99-", ""),
        ("crossed", {"answer": "cnry-2-", "expected": None}, "cnry-1-", ""),
        ("restored", {"answer": "cnry-1- [EMAIL_1]"}, "cnry-1-", ""),
        ("disk", {}, "cnry-1-", "x@leak.example"),
    ],
)
def test_each_kind_of_violation_is_convicted(
    tmp_path: Path, kind: str, change: dict[str, Any], text: str, disk: str
) -> None:
    assert judged(tmp_path, ENTRY | change, text, disk=disk) == {kind: 1}
