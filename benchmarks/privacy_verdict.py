"""Count violations of privacy and residency from what each place itself wrote down. Does not import wattmill.

    python benchmarks/privacy_verdict.py --folder DIR

DIR holds `places.json` (what each place is, as declared), `places.log` (every request that a place got,
whole), `clients.log` (for each request: what its data is, by whom it may be seen, which secrets must stay,
and what its client saw) and `home/` (all that the factory wrote to the disk). Each request carries a canary,
`cnry-N-`, by which it is known again wherever it appears. Counted are:

  class       a place got data more sensitive than it may see
  residency   a place in a region got data that may not go there
  operator    a place got data that may not be seen by who runs it
  pinned      a place got a request that named another one
  secret      a place got a text that a rule replaces, in whatever form
  refused     a place got a request that a rule refuses, or that no place may see
  crossed     a client was shown the canary of another team's request, or of another class
  restored    a finished answer does not repeat what was sent, originals and all
  disk        a secret stands somewhere in the factory's folder
  unknown     a place got something without a canary that its client had sent
"""

from __future__ import annotations

import argparse
import collections
import json
import re
from pathlib import Path
from typing import Any

RANK = {"public": 0, "internal": 1, "private": 2}
CANARY = re.compile(r"cnry-(\d+)-")
DIGITS = re.compile(r"\D")


def judge(folder: Path) -> tuple[collections.Counter[str], collections.Counter[str], list[str]]:
    """Return violations by kind, what was looked at, and some of the violations in words."""
    places = json.loads((folder / "places.json").read_text())
    told = [json.loads(line) for line in (folder / "clients.log").read_text().splitlines()]
    truth = {
        entry["n"]: entry for entry in told
    }  # some are asked twice, byte for byte: the truth is the same
    bad: collections.Counter[str] = collections.Counter()
    seen: collections.Counter[str] = collections.Counter(requests=len(told))
    words: list[str] = []

    def blame(kind: str, text: str) -> None:
        bad[kind] += 1
        if len(words) < 40:
            words.append(f"{kind}: {text}")

    for line in (folder / "places.log").read_bytes().split(b"\n"):
        if line:
            name, _, body = line.split(b"\t", 2)
            arrival(name.decode(), body, places, truth, seen, blame)
    for entry in told:
        answer(entry, truth, seen, blame)
    on_disk(folder / "home", folder / "secrets.txt", seen, blame)
    return bad, seen, words


def arrival(name: str, body: bytes, places: Any, truth: Any, seen: Any, blame: Any) -> None:
    """Hold one request at a place against what its client knows of it."""
    place = places[name]
    text = json.dumps(json.loads(body), ensure_ascii=False)  # escapes undone: nothing hides in them
    text = text.replace("\\/", "/")
    numbers = {int(n) for n in CANARY.findall(text)}
    seen["arrivals"] += 1
    seen[f"at {place['class']}"] += 1
    if not numbers or not numbers <= truth.keys():
        blame("unknown", f"{name} got {body[:80]!r}")
        return
    for number in numbers:
        entry = truth[number]
        who = f"{name} ({place['class']}, {place['region']}, {place['operator']}) got request {number}"
        if RANK[entry["class"]] > RANK[place["class"]]:
            blame("class", f"{who} of class {entry['class']}")
        if entry["regions"] is not None and place["region"] not in entry["regions"]:
            blame("residency", f"{who} bound to {entry['regions']}")
        if entry["operators"] is not None and place["operator"] not in entry["operators"]:
            blame("operator", f"{who} bound to {entry['operators']}")
        if entry["pinned"] is not None and entry["pinned"] != name:
            blame("pinned", f"{who} pinned to {entry['pinned']}")
        if entry["refuse"]:
            blame("refused", who)
        digits = DIGITS.sub("", text)
        for secret in entry["secrets"]:
            bare = DIGITS.sub("", secret)
            if secret in text or (len(bare) > 9 and bare in digits):
                blame("secret", f"{who} with {secret!r}")


def answer(entry: Any, truth: Any, seen: Any, blame: Any) -> None:
    seen[f"status {entry['status']}"] += 1
    shown = entry["answer"] or ""
    for number in {int(n) for n in CANARY.findall(shown)}:
        other = truth.get(number)
        if other is None or (other["team"], other["class"]) != (entry["team"], entry["class"]):
            blame("crossed", f"request {entry['n']} was shown {number}")
    if entry["secrets"] and not entry["refuse"]:
        seen["with secrets"] += 1
    if entry["status"] == 200 and entry["complete"] and entry["expected"] is not None:
        seen["answers compared"] += 1
        if shown != entry["expected"]:
            blame("restored", f"request {entry['n']} saw {shown[:80]!r}, not {entry['expected'][:80]!r}")


def on_disk(home: Path, secrets: Path, seen: Any, blame: Any) -> None:
    """Look for every secret in every file that the factory has written."""
    needles = [line.encode() for line in secrets.read_text().splitlines()]
    marks = sorted({needle[:12] for needle in needles})
    for path in sorted(p for p in home.rglob("*") if p.is_file()):
        data = path.read_bytes()
        seen["files"] += 1
        seen["bytes on disk"] += len(data)
        if any(mark in data for mark in marks):
            for needle in needles:
                if needle in data:
                    blame("disk", f"{path.relative_to(home)} holds {needle!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    bad, seen, words = judge(folder)
    for text in words:
        print(text)
    print("looked at: " + ", ".join(f"{name}={count}" for name, count in sorted(seen.items())))
    kinds = (
        "class",
        "residency",
        "operator",
        "pinned",
        "secret",
        "refused",
        "crossed",
        "restored",
        "disk",
        "unknown",
    )
    print(" ".join(f"{kind}={bad[kind]}" for kind in kinds))
    print(f"requests={seen['requests']} arrivals={seen['arrivals']} violations={sum(bad.values())}")
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
