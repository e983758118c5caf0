"""Where power events lie: `power/inbox` takes messages, `power/events` keeps each with its report."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import msgspec

from wattmill.app.home import Home
from wattmill.power.signal.account import Reached, Sample
from wattmill.power.signal.spec import PowerEvent

MOST_BYTES = 1 << 20
"""A message beyond this is refused unread."""

KEPT = 200
"""Reports, and refused messages, that are kept: the newest."""


class GaveWay(msgspec.Struct, frozen=True, kw_only=True):
    """What the tiers and batches did without, counted at the gates. Work is expected output tokens."""

    deferred_work: float = 0.0  # that waited longer than it would have
    refused: dict[str, int] = {}  # requests, by tier
    refused_work: dict[str, float] = {}
    value_lost_nusd: dict[str, int] = {}  # of the refused, at what the tier paid per token before; by tier
    value_unknown: tuple[str, ...] = ()  # tiers whose tokens had no price to go by


class EventReport(msgspec.Struct, frozen=True, kw_only=True):
    """One event from its notice on. Rewritten while it lasts."""

    event: PowerEvent
    state: str  # noticed, ramp, active, recovering, over, replaced, lifted, lifts, refused
    at_s: float
    baseline_w: float | None = None
    baseline_from_s: float | None = None  # seconds of power that the baseline is the mean of
    limit_w: float | None = None
    infeasible_floor_w: float | None = None  # the limit lies below this, the least that can be reached
    reached: Reached | None = None
    gave_way: GaveWay = GaveWay()
    least_engine_share: float = 1.0
    provenance: str = "unknown"  # of the watts
    meter: str = ""
    boundary: str = "host"
    problem: str | None = None
    samples: tuple[Sample, ...] = ()


class Shelf:
    """Files of one factory's power events. Written by the supervisor, messages also by whoever brings one."""

    def __init__(self, home: Home) -> None:
        self.inbox = home.root / "power" / "inbox"
        self.events = home.root / "power" / "events"
        self.refused = home.root / "power" / "refused"

    def make(self) -> None:
        for folder in (self.inbox, self.events, self.refused):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, message: bytes) -> str:
        """Lay a message down for the supervisor; return its name."""
        self.make()
        name = f"{secrets.token_hex(8)}.json"
        draft = self.inbox / f".{name}"
        draft.write_bytes(message)
        os.replace(draft, self.inbox / name)
        return name

    def waiting(self) -> list[Path]:
        """Return messages that were not taken yet, the oldest first."""
        try:
            found = [path for path in self.inbox.iterdir() if not path.name.startswith(".")]
        except OSError:
            return []
        return sorted(found, key=lambda path: (_age(path), path.name))

    def refuse(self, path: Path, why: str) -> None:
        """Lay a message aside with the reason beside it."""
        try:
            os.replace(path, self.refused / path.name)
            (self.refused / f"{path.name}.why").write_text(why + "\n", encoding="utf-8")
        except OSError:
            path.unlink(missing_ok=True)
        for old in _oldest(self.refused.glob("*.why")):
            old.unlink(missing_ok=True)
            old.with_suffix("").unlink(missing_ok=True)

    def keep(self, report: EventReport) -> None:
        target = self.events / f"{_slug(report.event.id)}.json"
        draft = target.with_suffix(".tmp")
        draft.write_bytes(msgspec.json.encode(report))
        is_new = not target.exists()
        os.replace(draft, target)
        if is_new:
            for old in _oldest(self.events.glob("*.json")):
                old.unlink(missing_ok=True)

    def reports(self) -> list[EventReport]:
        """Return all reports, the newest event first. A file that cannot be read is left out."""
        found: list[EventReport] = []
        try:
            paths = list(self.events.glob("*.json"))
        except OSError:
            return []
        for path in paths:
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=EventReport))
            except (OSError, msgspec.DecodeError):
                continue
        return sorted(found, key=lambda report: (-report.event.told_s, report.event.id))

    def report(self, id: str) -> EventReport | None:
        try:
            return msgspec.json.decode((self.events / f"{_slug(id)}.json").read_bytes(), type=EventReport)
        except (OSError, msgspec.DecodeError):
            return None

    def refusals(self) -> list[tuple[str, str]]:
        """Return (message, why) of messages that were not taken."""
        out = []
        for why in sorted(self.refused.glob("*.why")) if self.refused.is_dir() else []:
            try:
                out.append((why.name.removesuffix(".why"), why.read_text(encoding="utf-8").strip()))
            except OSError:
                continue
        return out


def _oldest(paths: Iterable[Path]) -> list[Path]:
    """Return those beyond the newest `KEPT`."""
    return sorted(paths, key=_age, reverse=True)[KEPT:]


def _age(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _slug(id: str) -> str:
    """Return a file name for an id that a stranger chose."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", id)[:48].strip(".") or "event"
    return safe if safe == id else f"{safe}-{hashlib.sha256(id.encode()).hexdigest()[:8]}"
