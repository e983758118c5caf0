"""What the books keep of joules beside the windows: where those of no request went, and from where.

Tables added to format 1: a writer makes them where they are missing, a reader does without.
"""

from __future__ import annotations

import sqlite3

import msgspec

from wattmill.units import US_PER_S

ENERGY_SCHEMA = """
CREATE TABLE IF NOT EXISTS meter_more (
  tx INTEGER PRIMARY KEY, last_tx INTEGER NOT NULL, service_uj INTEGER NOT NULL, foreign_uj INTEGER NOT NULL,
  overhead_uj INTEGER NOT NULL, host_uj INTEGER NOT NULL, parent INTEGER NOT NULL,
  resolution_uj INTEGER NOT NULL,
  event INTEGER NOT NULL, weights INTEGER NOT NULL, ug INTEGER, carbon INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS energy_host (attempt INTEGER PRIMARY KEY, uj INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS energy_lesson (
  id INTEGER PRIMARY KEY, pool TEXT NOT NULL, start_us INTEGER NOT NULL, length_us INTEGER NOT NULL,
  prefill REAL NOT NULL, decode REAL NOT NULL, context REAL NOT NULL, uj INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS energy_lesson_of ON energy_lesson (pool, id);
CREATE TABLE IF NOT EXISTS energy_weights (
  pool TEXT PRIMARY KEY, seen INTEGER NOT NULL DEFAULT 1, prefill TEXT NOT NULL DEFAULT '0',
  decode TEXT NOT NULL DEFAULT '0', context TEXT NOT NULL DEFAULT '0', cached TEXT NOT NULL DEFAULT '0',
  source TEXT NOT NULL DEFAULT '');
"""
"""`meter_window.unattributed_uj` is all that is neither idle nor of a request; `meter_more` says which part
of it is the factory's own (service), other programs' (foreign) and conversion and cooling (overhead).
`host_uj` of the requests' joules, and `energy_host` of an attempt's, are the host's share."""


class MeterSums(msgspec.Struct, frozen=True, kw_only=True):
    """One meter's booked windows, in microjoules.

    total = requests + idle + service + foreign + overhead + unattributed, exactly."""

    meter: str
    parent: str  # "": nothing above it, or not told
    windows: int
    seconds: float
    total_uj: int
    idle_uj: int
    service_uj: int
    foreign_uj: int
    overhead_uj: int
    unattributed_uj: int
    host_uj: int  # part of requests_uj: what the factory's own processes used for them
    ug: int | None  # micrograms of CO2e; None: of no window the carbon is known
    provenance: tuple[str, ...]  # of all its windows
    source: str  # of the last
    weights: str  # by which the last was split
    events: dict[str, int]  # windows with a gap, a reset, a wrap

    @property
    def requests_uj(self) -> int:
        return (
            self.total_uj - self.idle_uj - self.service_uj - self.foreign_uj - self.overhead_uj
            - self.unattributed_uj
        )  # fmt: skip


def energy_there(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meter_more'").fetchone())


def meter_sums(db: sqlite3.Connection, since_us: int = 0, until_us: int = 1 << 62) -> list[MeterSums]:
    """Return the sums of every meter's windows that began in [since_us, until_us), by name."""
    more = energy_there(db)
    join = "LEFT JOIN meter_more x USING (tx)" if more else ""
    columns = (
        "ifnull(sum(x.service_uj), 0), ifnull(sum(x.foreign_uj), 0), ifnull(sum(x.overhead_uj), 0), "
        "ifnull(sum(x.host_uj), 0), sum(x.ug)"
        if more
        else "0, 0, 0, 0, NULL"
    )
    rows = db.execute(
        f"SELECT meter, n.text, count(*), sum(length_us), sum(total_uj), sum(idle_uj), sum(unattributed_uj), "
        f"max(tx), {columns} FROM meter_window JOIN name n ON n.id = meter {join} "
        "WHERE start_us >= ? AND start_us < ? GROUP BY meter ORDER BY n.text",
        (since_us, until_us),
    ).fetchall()
    found = []
    for id, meter, windows, length_us, total, idle, rest, last, service, foreign, overhead, host, ug in rows:
        kinds = db.execute(
            "SELECT DISTINCT p.text FROM meter_window JOIN name p ON p.id = provenance "
            "WHERE meter = ? AND start_us >= ? AND start_us < ? ORDER BY 1",
            (id, since_us, until_us),
        )
        (source,) = db.execute(
            "SELECT s.text FROM meter_window JOIN name s ON s.id = source WHERE tx = ?", (last,)
        ).fetchone()
        parent, weights, events = "", "", {}
        if more:
            parent, weights = db.execute(
                "SELECT p.text, w.text FROM meter_more JOIN name p ON p.id = parent "
                "JOIN name w ON w.id = weights WHERE tx = ?",
                (last,),
            ).fetchone() or ("", "")
            events = dict(
                db.execute(
                    "SELECT e.text, count(*) FROM meter_window JOIN meter_more USING (tx) "
                    "JOIN name e ON e.id = event WHERE meter = ? AND start_us >= ? AND start_us < ? "
                    "AND e.text <> '' GROUP BY 1",
                    (id, since_us, until_us),
                ).fetchall()
            )
        found.append(
            MeterSums(
                meter=meter, parent=parent, windows=windows, seconds=length_us / US_PER_S, total_uj=total,
                idle_uj=idle, service_uj=service, foreign_uj=foreign, overhead_uj=overhead,
                unattributed_uj=rest - service - foreign - overhead, host_uj=host, ug=ug,
                provenance=tuple(text for (text,) in kinds), source=source, weights=weights, events=events,
            )
        )  # fmt: skip
    return found


class MeterWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One booked window of a meter, in microjoules; its parts add up as those of `MeterSums` do."""

    meter: str
    start_us: int
    length_us: int
    total_uj: int
    idle_uj: int
    service_uj: int
    foreign_uj: int
    overhead_uj: int
    unattributed_uj: int
    provenance: str
    source: str

    @property
    def requests_uj(self) -> int:
        named = self.idle_uj + self.service_uj + self.foreign_uj + self.overhead_uj
        return self.total_uj - named - self.unattributed_uj


def latest_windows(db: sqlite3.Connection, limit: int) -> list[MeterWindow]:
    """Return the windows that were booked last, the newest first."""
    more = energy_there(db)
    join = "LEFT JOIN meter_more x USING (tx)" if more else ""
    names = ("service_uj", "foreign_uj", "overhead_uj")
    named = ", ".join(f"ifnull(x.{name}, 0)" for name in names) if more else "0, 0, 0"
    rows = db.execute(
        f"SELECT m.text, start_us, length_us, total_uj, idle_uj, unattributed_uj, {named}, p.text, s.text "
        "FROM (SELECT * FROM meter_window ORDER BY tx DESC LIMIT ?) "
        f"JOIN name m ON m.id = meter JOIN name p ON p.id = provenance JOIN name s ON s.id = source {join} "
        "ORDER BY tx DESC",
        (limit,),
    )
    return [
        MeterWindow(
            meter=meter, start_us=start, length_us=length, total_uj=total, idle_uj=idle, service_uj=service,
            foreign_uj=foreign, overhead_uj=overhead, unattributed_uj=rest - service - foreign - overhead,
            provenance=provenance, source=source,
        )
        for meter, start, length, total, idle, rest, service, foreign, overhead, provenance, source in rows
    ]  # fmt: skip


def host_share_uj(db: sqlite3.Connection, attempt: int) -> int:
    """Return which part of an attempt's joules the host used around its engine; 0 where nobody said."""
    if not energy_there(db):
        return 0
    row = db.execute("SELECT uj FROM energy_host WHERE attempt = ?", (attempt,)).fetchone()
    return 0 if row is None else int(row[0])
