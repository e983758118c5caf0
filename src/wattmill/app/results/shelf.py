"""Sheets in a factory's folder: `twin/results/TIME-KIND.json`, whole or not at all; old ones go."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from wattmill.app.results.sheet import FORMAT, Brief, Kind, Sheet
from wattmill.units import US_PER_S

KEPT = 60  # of each kind
_ID = re.compile(r"^\d{8}T\d{6}\.\d{6}-(simulate|plan|check|rehearse)$")


class Shelf:
    """The results of one factory's folder."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "twin" / "results"
        self._briefs: dict[str, Brief] = {}

    def keep(self, sheet: Sheet) -> str:
        """Write `sheet` and return its id. Older ones of its kind beyond `KEPT` go."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        id = self._free_id(sheet.kind, sheet.at_us)
        fresh = self.folder / f"{id}.new"
        fresh.touch(mode=0o600)
        fresh.write_bytes(msgspec.json.encode(sheet))
        os.replace(fresh, self._path(id))
        for old in [known for known in self._ids() if known.endswith(f"-{sheet.kind}")][KEPT:]:
            self._path(old).unlink(missing_ok=True)
        return id

    def sheet(self, id: str) -> Sheet | None:
        """Return a sheet, or None: there is no such id, or the file is none that this version reads."""
        if not _ID.match(id):
            return None
        try:
            found = msgspec.json.decode(self._path(id).read_bytes(), type=Sheet)
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.format == FORMAT else None

    def briefs(self) -> list[Brief]:
        """Return what is kept, newest first; a file that cannot be read is left out.

        Files do not change once they are written: each is read once.
        """
        ids = list(self._ids())
        self._briefs = {id: self._briefs[id] for id in ids if id in self._briefs}
        for id in ids:
            if id not in self._briefs and (sheet := self.sheet(id)) is not None:
                self._briefs[id] = Brief(
                    id=id,
                    kind=sheet.kind,
                    at_us=sheet.at_us,
                    key=sheet.key,
                    title=sheet.title,
                    says=sheet.says,
                )
        return [self._briefs[id] for id in ids if id in self._briefs]

    def _ids(self) -> Iterator[str]:
        """Yield ids, newest first."""
        try:
            names = sorted((path.stem for path in self.folder.glob("*.json")), reverse=True)
        except OSError:
            return
        yield from (name for name in names if _ID.match(name))

    def _free_id(self, kind: Kind, at_us: int) -> str:
        while True:
            seconds, rest = divmod(at_us, US_PER_S)
            stamp = dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y%m%dT%H%M%S")
            id = f"{stamp}.{rest:06d}-{kind}"
            if not self._path(id).exists():
                return id
            at_us += 1

    def _path(self, id: str) -> Path:
        return self.folder / f"{id}.json"
