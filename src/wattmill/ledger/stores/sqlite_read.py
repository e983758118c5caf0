"""ledger.db for everybody who looks: overview, recent attempts, one request, balances, roll-ups.

Read-only; never blocks the writer. Names of nodes live in the control database, so that these rows carry ids.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from wattmill.ledger.book import BEYOND
from wattmill.ledger.stores.sqlite import connect
from wattmill.ledger.stores.sqlite_schema import MEASURES, SOURCES, STATUSES
from wattmill.vocab.budget import UNITS, Unit
from wattmill.vocab.usage import TOKEN_CLASSES


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over attempts. Money in nano-dollars, energy in microjoules, tokens by class, times in
    microseconds."""

    requests: int = 0  # first attempts
    attempts: int = 0
    errors: int = 0  # attempts that failed, were cut, or are in doubt
    aborted: int = 0
    tok_input: int = 0
    tok_cached_input: int = 0
    tok_cache_write: int = 0
    tok_audio_input: int = 0
    tok_output: int = 0
    tok_reasoning: int = 0
    tok_audio_output: int = 0
    charge_nusd: int = 0
    cost_nusd: int = 0
    overrun_nusd: int = 0
    energy_uj: int = 0  # of requests; 0 while no window is settled
    ttft_us: int = 0  # sum over `ttft_n` attempts
    ttft_n: int = 0
    duration_us: int = 0

    @property
    def input_tok(self) -> int:
        return self.tok_input + self.tok_cached_input + self.tok_cache_write + self.tok_audio_input

    @property
    def output_tok(self) -> int:
        return self.tok_output + self.tok_reasoning + self.tok_audio_output


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt as it is booked."""

    id: int
    request_id: str
    epoch: str
    seq: int
    request: int
    number: int  # 0: the first attempt of its request
    key: int  # node id
    pool: str
    model: str
    endpoint: str
    stream: bool
    privacy: str
    cost_price: int
    charge_price: int
    status: str  # vocab.fact.Status or "in_doubt"
    source: str  # of its token counts, see vocab.fact.UsageSource
    started_us: int
    ended_us: int
    duration_us: int  # from the request's arrival
    ttft_us: int | None
    prefill_tok: int  # prompt tokens that were computed
    cached_tok: int
    output_tok: int
    charge_nusd: int
    cost_nusd: int
    overrun_nusd: int
    energy_uj: int | None  # settled so far; None: no window yet
    cause: str | None


class RefusedRow(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    at_us: int
    key: int
    code: str
    model: str
    endpoint: str
    message: str


class RollupRow(msgspec.Struct, frozen=True, kw_only=True):
    start_s: int
    key: int
    pool: str
    model: str
    sums: Sums


class NodeSums(msgspec.Struct, frozen=True, kw_only=True):
    """What a key used since the books began, from its accounts."""

    key: int
    charge_nusd: int
    tokens: dict[str, int]  # by class
    energy_uj: int


class DoubtRow(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int
    request_id: str
    epoch: str
    seq: int
    pool: str
    state: str  # "open", "uncounted", "late_end", "settled_engine" ...
    since_us: int
    reserved_nusd: int
    key: int


class AlarmRow(msgspec.Struct, frozen=True, kw_only=True):
    at_us: int
    kind: str
    epoch: str | None
    seq: int | None
    text: str


class EnergySums(msgspec.Struct, frozen=True, kw_only=True):
    """Booked meter windows: total = requests + idle + unattributed, exactly."""

    windows: int
    total_uj: int
    idle_uj: int
    unattributed_uj: int
    provenance: str  # "unknown" without windows
    source: str

    @property
    def requests_uj(self) -> int:
        return self.total_uj - self.idle_uj - self.unattributed_uj


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The factory since an instant."""

    since_us: int
    sums: Sums
    by_pool: dict[str, Sums]
    energy: EnergySums
    in_doubt: int
    in_doubt_nusd: int
    refused: dict[str, int]  # by code
    alarms: int


_ATTEMPT = (
    "SELECT a.id, e.name, a.seq, a.back, a.number, a.key, p.text, m.text, n.text, s.stream, v.text, "
    "s.cost_price, "
    "s.charge_price, a.status, a.source, e.start_us + a.ended_us, a.duration_us, a.lead_us, a.ttft_us, "
    "a.prefill_tok, "
    "a.cached_tok, a.output_tok, a.charge_nusd, a.cost_nusd, a.overrun_nusd, energy.uj, c.text "
    "FROM attempt a JOIN epoch e ON e.id = a.epoch JOIN shape s ON s.id = a.shape JOIN name p ON p.id = "
    "s.pool "
    "JOIN name m ON m.id = s.model JOIN name n ON n.id = s.endpoint JOIN name v ON v.id = s.privacy "
    "LEFT JOIN energy ON energy.attempt = a.id LEFT JOIN name c ON c.id = a.cause "
)
_SUMS = ", ".join(f"ifnull(sum({name}), 0)" for name in MEASURES)


class Books:
    """A reader. Raises `FileNotFoundError` when nothing was ever booked there. Close it, or use `with`."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(
                f"no ledger at {path}: no factory ran here yet; start one with `wattmill up`"
            )
        self.db: sqlite3.Connection = connect(path, readonly=True)

    def __enter__(self) -> Books:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.db.close()

    def overview(self, since_us: int = 0) -> Overview:
        """Return sums since the minute of `since_us`."""
        since_s = since_us // 60_000_000 * 60
        by_pool = {
            row[0]: _sums(row[1:])
            for row in self.db.execute(
                f"SELECT text, {_SUMS} FROM rollup_minute JOIN name ON name.id = pool WHERE start_s >= "
                f"? GROUP BY pool "
                "ORDER BY text",
                (since_s,),
            )
        }
        total = _sums([sum(getattr(sums, name) for sums in by_pool.values()) for name in MEASURES])
        doubts = [doubt for doubt in self.doubts() if doubt.state == "open"]
        refused = self.db.execute(
            "SELECT text, sum(count) FROM rollup_refused JOIN name ON name.id = code WHERE start_s >= ? "
            "GROUP BY code",
            (since_s,),
        )
        alarms = self.db.execute("SELECT count(*) FROM alarm WHERE at_us >= ?", (since_us,)).fetchone()[0]
        return Overview(
            since_us=since_us,
            sums=total,
            by_pool=by_pool,
            energy=self.energy(since_us),
            in_doubt=len(doubts),
            in_doubt_nusd=sum(doubt.reserved_nusd for doubt in doubts),
            refused=dict(refused.fetchall()),
            alarms=alarms,
        )

    def energy(self, since_us: int = 0) -> EnergySums:
        row = self.db.execute(
            "SELECT count(*), ifnull(sum(total_uj), 0), ifnull(sum(idle_uj), 0), "
            "ifnull(sum(unattributed_uj), 0), "
            "max(tx) FROM meter_window WHERE start_us >= ?",
            (since_us,),
        ).fetchone()
        words = self.db.execute(
            "SELECT p.text, s.text FROM meter_window JOIN name p ON p.id = provenance JOIN name s ON "
            "s.id = source "
            "WHERE tx = ?",
            (row[4],),
        ).fetchone() or ("unknown", "")
        return EnergySums(
            windows=row[0], total_uj=row[1], idle_uj=row[2], unattributed_uj=row[3],
            provenance=words[0], source=words[1],
        )  # fmt: skip

    def recent(self, limit: int = 50, *, after_id: int = 0, key: int | None = None) -> list[AttemptRow]:
        """Return the last attempts, newest first; `after_id` asks only for newer ones than that."""
        rows = self.db.execute(
            _ATTEMPT + "WHERE a.id > ?1 AND (?2 IS NULL OR a.key = ?2) ORDER BY a.id DESC LIMIT ?3",
            (after_id, key, limit),
        )
        return [_attempt(row) for row in rows]

    def recent_refused(self, limit: int = 50) -> list[RefusedRow]:
        rows = self.db.execute(_REFUSED + "ORDER BY r.id DESC LIMIT ?", (limit,))
        return [_refused(row) for row in rows]

    def request(self, epoch: str, seq: int) -> list[AttemptRow]:
        """Return all attempts of the request whose first attempt is `seq` of `epoch`, in their order."""
        return [
            _attempt(row)
            for row in self.db.execute(
                _ATTEMPT
                + "WHERE a.epoch = (SELECT id FROM epoch WHERE name = ?1) AND a.seq IN (SELECT ?2 UNION "
                "SELECT seq FROM retry WHERE request = ?2 AND epoch = (SELECT id FROM epoch WHERE name "
                "= ?1)) "
                "ORDER BY a.number, a.seq",
                (epoch, seq),
            )
            if row[2] - row[3] == seq
        ]

    def refused(self, epoch: str, seq: int) -> RefusedRow | None:
        row = self.db.execute(_REFUSED + "WHERE e.name = ? AND r.seq = ?", (epoch, seq)).fetchone()
        return None if row is None else _refused(row)

    def tokens(self, attempt: int) -> dict[str, int]:
        """Return the tokens of an attempt by class, from its postings; classes without tokens are absent."""
        sums: dict[str, int] = {}
        for (tx,) in self.db.execute(
            "SELECT ?1 UNION SELECT tx FROM correction WHERE attempt = ?1", (attempt,)
        ):
            for commodity, amount in self.db.execute(
                "SELECT commodity, amount FROM posting JOIN account ON account.id = account "
                "WHERE posting.id >= ? AND posting.id < ? AND commodity LIKE 'tok:%' AND name LIKE 'key:%'",
                (tx << 6, (tx + 1) << 6),
            ):
                sums[commodity[4:]] = sums.get(commodity[4:], 0) + amount
        return {name: sums[name] for name in TOKEN_CLASSES if sums.get(name)}

    def balances(self) -> dict[tuple[str, str], int]:
        """Return (commodity, account) -> balance. Each commodity sums to zero."""
        return {
            (c, n): b
            for c, n, b in self.db.execute("SELECT commodity, name, balance FROM account ORDER BY 1, 2")
        }

    def rollup(
        self,
        step: Literal["minute", "hour"],
        since_s: int = 0,
        until_s: int = 1 << 60,
        *,
        key: int | None = None,
    ) -> list[RollupRow]:
        """Return roll-ups whose start is in [since_s, until_s), oldest first."""
        rows = self.db.execute(
            f"SELECT start_s, key, p.text, m.text, {', '.join(MEASURES)} FROM rollup_{step} JOIN name p "
            f"ON p.id = pool "
            "JOIN name m ON m.id = model WHERE start_s >= ?1 AND start_s < ?2 AND (?3 IS NULL OR key = ?3) "
            "ORDER BY 1, 2, 3, 4",
            (since_s, until_s, key),
        )
        return [RollupRow(start_s=r[0], key=r[1], pool=r[2], model=r[3], sums=_sums(r[4:])) for r in rows]

    def by_node(self) -> dict[int, NodeSums]:
        """Return what each key used, by its node id. Parents are the sums of their keys."""
        found: dict[int, dict[str, int]] = {}
        for commodity, name, balance in self.db.execute(
            "SELECT commodity, name, balance FROM account WHERE name LIKE 'key:%'"
        ):
            found.setdefault(int(name[4:]), {})[commodity] = balance
        return {
            key: NodeSums(
                key=key,
                charge_nusd=sums.get("nusd", 0),
                tokens={name: sums[f"tok:{name}"] for name in TOKEN_CLASSES if f"tok:{name}" in sums},
                energy_uj=sums.get("uj", 0),
            )
            for key, sums in sorted(found.items())
        }

    def doubts(self, *, settled: bool = False) -> list[DoubtRow]:
        """Return what is in doubt, oldest first, and what ended with nothing counted ("uncounted"); with
        `settled`, also what was."""
        rows = self.db.execute(
            "SELECT d.attempt, e.name, d.seq, a.back, d.pool, d.state, d.since_us, a.charge_nusd, a.key "
            "FROM doubt d "
            "JOIN epoch e ON e.id = d.epoch JOIN attempt a ON a.id = d.attempt WHERE ? OR d.state IN "
            "('open', 'uncounted') "
            "ORDER BY d.attempt",
            (settled,),
        )
        return [
            DoubtRow(
                attempt=r[0], epoch=r[1], seq=r[2], request_id=f"req_{r[1]}_{r[2] - r[3]:x}", pool=r[4],
                state=r[5],
                since_us=r[6], reserved_nusd=r[7], key=r[8],
            )
            for r in rows
        ]  # fmt: skip

    def alarms(self, limit: int = 100) -> list[AlarmRow]:
        rows = self.db.execute(
            "SELECT at_us, kind, epoch, seq, text FROM alarm ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [AlarmRow(at_us=r[0], kind=r[1], epoch=r[2], seq=r[3], text=r[4]) for r in rows]


def overrun_units(db: sqlite3.Connection) -> dict[Unit, int]:
    """Return what was taken of limits beyond reservations, by unit: the operator's."""
    sums = dict(
        db.execute(
            "SELECT commodity, sum(balance) FROM account WHERE name LIKE 'overrun:%' "
            "AND commodity LIKE 'over:%' GROUP BY commodity"
        )
    )
    return {unit: total for unit in UNITS if (total := sums.get(BEYOND + unit, 0))}


_REFUSED = (
    "SELECT e.name, r.seq, r.at_us, r.key, c.text, m.text, n.text, r.message FROM refused r "
    "JOIN epoch e ON e.id = r.epoch JOIN name c ON c.id = r.code JOIN name m ON m.id = r.model "
    "JOIN name n ON n.id = r.endpoint "
)


def _refused(r: Sequence[object]) -> RefusedRow:
    return msgspec.convert(
        {
            "request_id": f"req_{r[0]}_{r[1]:x}", "at_us": r[2], "key": r[3], "code": r[4], "model": r[5],
            "endpoint": r[6], "message": r[7],
        },
        RefusedRow,
    )  # fmt: skip


def _sums(row: Sequence[int]) -> Sums:
    return Sums(**dict(zip(MEASURES, row, strict=True)))


def _attempt(r: tuple[object, ...]) -> AttemptRow:
    (
        id, epoch, seq, back, number, key, pool, model, endpoint, stream, privacy, cost_price,
        charge_price, status,
        source, ended, duration, lead, ttft, prefill, cached, output, charge, cost, overrun, energy, cause,
    ) = r  # fmt: skip
    assert (
        isinstance(seq, int)
        and isinstance(back, int)
        and isinstance(ended, int)
        and isinstance(duration, int)
    )
    assert isinstance(status, int) and isinstance(source, int) and isinstance(lead, int)
    return msgspec.convert(
        {
            "id": id, "request_id": f"req_{epoch}_{seq - back:x}", "epoch": epoch, "seq": seq,
            "request": seq - back,
            "number": number, "key": key, "pool": pool, "model": model, "endpoint": endpoint,
            "stream": bool(stream),
            "privacy": privacy, "cost_price": cost_price, "charge_price": charge_price,
            "status": STATUSES[status],
            "source": SOURCES[source], "started_us": ended - duration + lead, "ended_us": ended,
            "duration_us": duration, "ttft_us": ttft, "prefill_tok": prefill, "cached_tok": cached,
            "output_tok": output, "charge_nusd": charge, "cost_nusd": cost, "overrun_nusd": overrun,
            "energy_uj": energy, "cause": cause,
        },
        AttemptRow,
    )  # fmt: skip
