"""Proving the books on the spot: each law as a check that holds, or names the rows that break it.

Everything is computed again from the postings and the journals; nothing is believed because it was written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from wattmill.ledger.audit_attempts import attempts, rated, rollups_by_place
from wattmill.ledger.audit_check import Check, check
from wattmill.ledger.audit_energy import energy, provenance
from wattmill.ledger.audit_journal import journals
from wattmill.ledger.stores.sqlite_read import Books, overrun_units
from wattmill.ledger.stores.sqlite_schema import MEASURES, SOURCES, STATUSES
from wattmill.vocab.budget import Unit
from wattmill.vocab.price import Price
from wattmill.vocab.usage import TOKEN_CLASSES


class PlaceTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that an engine says against tokens in the books, as (computed prompt, output)."""

    pool: str
    witness: str  # "engine counter", "own log", "none"
    engine_tok: tuple[int, int] | None  # what its counters said, all its lives, at the last quiet reading
    books_tok: tuple[int, int]  # up to then, or all if there is no counter
    since_tok: tuple[int, int]  # booked since that reading: no witness yet
    unmetered_tok: int  # counted by the engine, of no attempt
    estimated: int  # attempts whose tokens are partial counts or bounds
    unmetered: int  # attempts whose tokens nobody counted
    in_doubt: int
    difference_tok: int


Progress = Callable[[int, int, str], None]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    checks: tuple[Check, ...]
    places: tuple[PlaceTokens, ...]
    attempts: int
    in_doubt: tuple[str, ...]  # request ids
    in_doubt_nusd: int
    overrun_nusd: int
    alarms: int
    overrun_units: dict[Unit, int]  # beyond what was reserved of limits

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)

    @property
    def difference_tok(self) -> int:
        return sum(abs(place.difference_tok) for place in self.places)


def audit(
    books: Books,
    journal: Path,
    *,
    prices: Mapping[int, Price],
    parents: Mapping[int, int | None],
    used: Mapping[int, int] | None = None,
    progress: Progress = lambda _done, _steps, _name: None,
) -> Report:
    """Return the proof or its failure.

    Args:
        books: a reader; everything is read at one moment.
        journal: the folder of the epochs.
        prices: price versions by id.
        parents: the budget tree, node to parent.
        used: what the caps count as used, by node,
        if no worker is alive (a living one tells it a little later).
        progress: told (steps done, steps in all, what is looked at now) before each step and after the last.
    """
    db = books.db
    db.execute("BEGIN")
    try:
        places = tuple(_places(db))
        doubts = [doubt for doubt in books.doubts() if doubt.state == "open"]
        steps: tuple[tuple[str, Callable[[], Iterable[Check]]], ...] = (
            ("commodities", lambda: [_commodities(db)]),
            ("transactions", lambda: [_transactions(db)]),
            ("balances", lambda: [_balances(db)]),
            ("roll-ups by minute", lambda: [_rollups(db, "minute")]),
            ("roll-ups by hour", lambda: [_rollups(db, "hour")]),
            ("roll-ups by place", lambda: [rollups_by_place(db)]),
            ("attempts", lambda: [attempts(db)]),
            ("energy", lambda: [energy(db), provenance(db)]),
            ("engines' tokens", lambda: [_tokens(db, places)]),
            ("ratings", lambda: [rated(db, prices)]),
            ("the tree", lambda: [_tree(db, parents)]),
            ("caps", lambda: [_caps(books, parents, used)]),
            ("journals", lambda: journals(db, journal)),
        )
        checks: list[Check] = []
        for number, (name, step) in enumerate(steps):
            progress(number, len(steps), name)
            checks += step()
        progress(len(steps), len(steps), "")
        return Report(
            checks=tuple(checks),
            places=places,
            attempts=db.execute("SELECT count(*) FROM attempt").fetchone()[0],
            in_doubt=tuple(doubt.request_id for doubt in doubts),
            in_doubt_nusd=sum(doubt.reserved_nusd for doubt in doubts),
            overrun_nusd=db.execute("SELECT ifnull(sum(overrun_nusd), 0) FROM attempt").fetchone()[0],
            alarms=db.execute("SELECT count(*) FROM alarm").fetchone()[0],
            overrun_units=overrun_units(db),
        )
    finally:
        db.execute("COMMIT")


def _commodities(db: sqlite3.Connection) -> Check:
    rows = db.execute(
        "SELECT commodity, sum(amount), count(*) FROM posting JOIN account ON account.id = account "
        "GROUP BY commodity"
    ).fetchall()
    lines = sum(row[2] for row in rows)
    return check(
        "every commodity sums to zero",
        f"{len(rows)} commodities, {lines} postings",
        (f"{commodity}: {total} over all accounts" for commodity, total, _ in rows if total),
    )


def _transactions(db: sqlite3.Connection) -> Check:
    rows = db.execute(
        "SELECT p.id >> 6 AS tx, commodity, sum(amount) FROM posting p JOIN account ON account.id = account "
        "GROUP BY tx, commodity HAVING sum(amount) <> 0"
    )
    count = db.execute("SELECT count(DISTINCT id >> 6) FROM posting").fetchone()[0]
    return check(
        "every transaction sums to zero",
        f"{count} transactions",
        (f"transaction {tx}: {commodity} {total}" for tx, commodity, total in rows),
    )


def _balances(db: sqlite3.Connection) -> Check:
    rows = db.execute(
        "SELECT a.commodity, a.name, a.balance, ifnull(s.total, 0) FROM account a LEFT JOIN "
        "(SELECT account, sum(amount) AS total FROM posting GROUP BY account) s ON s.account = a.id "
        "WHERE a.balance <> ifnull(s.total, 0)"
    )
    strays = db.execute(
        "SELECT count(*) FROM posting WHERE account NOT IN (SELECT id FROM account)"
    ).fetchone()[0]
    broken = [
        f"{name} ({commodity}): balance {balance}, postings {total}"
        for commodity, name, balance, total in rows
    ]
    if strays:
        broken.append(f"{strays} postings to accounts that do not exist")
    accounts = db.execute("SELECT count(*) FROM account").fetchone()[0]
    return check("balances are the sums of their postings", f"{accounts} accounts", broken)


def _rollups(db: sqlite3.Connection, step: str) -> Check:
    """Roll-ups per key (charge, tokens, joules) and per pool (cost) against the accounts' postings."""
    broken = []
    found = dict(
        db.execute(
            "SELECT a.id, sum(p.amount) FROM posting p JOIN account a ON a.id = p.account GROUP BY a.id"
        )
    )
    accounts = {
        (c, n): found.get(id, 0) for id, c, n in db.execute("SELECT id, commodity, name FROM account")
    }
    columns = {"charge_nusd": "nusd", "energy_uj": "uj"} | {
        f"tok_{name}": f"tok:{name}" for name in TOKEN_CLASSES
    }
    sums = ", ".join(f"sum({name})" for name in columns)
    keys = {row[0]: row[1:] for row in db.execute(f"SELECT key, {sums} FROM rollup_{step} GROUP BY key")}
    ids = {int(name[4:]) for _, name in accounts if name.startswith("key:")} | keys.keys()
    for key in sorted(ids):
        row = keys.get(key, (0,) * len(columns))
        for (column, commodity), value in zip(columns.items(), row, strict=True):
            posted = accounts.get((commodity, f"key:{key}"), 0)
            if value != posted:
                broken.append(f"key {key}: {column} {value}, postings {posted}")
    for pool, cost, overrun in db.execute(
        f"SELECT text, sum(cost_nusd), sum(overrun_nusd) FROM rollup_{step} JOIN name ON name.id = pool "
        f"GROUP BY pool"
    ):
        for name, value in ((f"cost:{pool}", cost), (f"overrun:{pool}", overrun)):
            posted = accounts.get(("nusd", name), 0)
            if value != posted:
                broken.append(f"{name}: roll-up {value}, postings {posted}")
    count = db.execute(f"SELECT count(*) FROM rollup_{step}").fetchone()[0]
    return check(
        f"roll-ups by {step} are the sums of the postings", f"{count} rows of {len(MEASURES)} sums", broken
    )


def _places(db: sqlite3.Connection) -> Iterable[PlaceTokens]:
    names = {
        name
        for (name,) in db.execute(
            "SELECT text FROM shape JOIN name ON name.id = pool UNION SELECT pool FROM engine_count"
        )
    }
    for pool in sorted(names):
        sums = dict(db.execute("SELECT commodity, balance FROM account WHERE name = ?", (f"engine:{pool}",)))
        prompt = -sum(sums.get(f"tok:{name}", 0) for name in ("input", "cache_write", "audio_input"))
        output = -sum(sums.get(f"tok:{name}", 0) for name in TOKEN_CLASSES[4:])
        unmetered = db.execute(
            "SELECT ifnull(sum(balance), 0) FROM account WHERE name = ?", (f"unmetered:{pool}",)
        ).fetchone()[0]
        counts = dict(
            db.execute(
                "SELECT source, count(*) FROM attempt JOIN shape ON shape.id = shape JOIN name ON "
                "name.id = pool "
                "WHERE text = ? AND status <> ? GROUP BY source",
                (pool, STATUSES.index("in_doubt")),
            )
        )
        in_doubt = db.execute(
            "SELECT count(*) FROM doubt WHERE state = 'open' AND pool = ?", (pool,)
        ).fetchone()[0]
        lives = db.execute(
            "SELECT prompt_tok, output_tok, base_prompt_tok, base_output_tok, at_us FROM engine_count "
            "WHERE pool = ? "
            "ORDER BY at_us",
            (pool,),
        ).fetchall()
        measured = counts.get(SOURCES.index("measured"), 0)
        if not lives:
            yield PlaceTokens(
                pool=pool, witness="own log" if measured else "none", engine_tok=None, books_tok=(prompt,
                output),
                since_tok=(0, 0), unmetered_tok=unmetered, estimated=counts.get(SOURCES.index("estimated"),
                0),
                unmetered=counts.get(SOURCES.index("unmetered"), 0), in_doubt=in_doubt, difference_tok=0,
            )  # fmt: skip
            continue
        since = _since(db, pool, lives[-1][4])
        said = (sum(life[0] for life in lives), sum(life[1] for life in lives))
        # Between two lives of an engine there may be tokens that no counter saw: they lie in the later base.
        unseen = [0, 0]
        end = (0, 0)
        for count_prompt, count_output, base_prompt, base_output, _ in lives:
            unseen = [unseen[0] + base_prompt - end[0], unseen[1] + base_output - end[1]]
            end = (base_prompt + count_prompt, base_output + count_output)
        until = (prompt - since[0] - unseen[0], output - since[1] - unseen[1])
        yield PlaceTokens(
            pool=pool, witness="engine counter", engine_tok=said, books_tok=until,
            since_tok=(since[0] + unseen[0], since[1] + unseen[1]), unmetered_tok=unmetered,
            estimated=counts.get(SOURCES.index("estimated"), 0),
            unmetered=counts.get(SOURCES.index("unmetered"), 0),
            in_doubt=in_doubt, difference_tok=abs(until[0] - said[0]) + abs(until[1] - said[1]),
        )  # fmt: skip


def _since(db: sqlite3.Connection, pool: str, at_us: int) -> tuple[int, int]:
    """Return (prompt, output) tokens that were booked of a pool for what came after an instant."""
    doubt = STATUSES.index("in_doubt")
    prompt, output = db.execute(
        "SELECT ifnull(sum(prefill_tok), 0), ifnull(sum(output_tok), 0) FROM attempt a JOIN epoch e ON "
        "e.id = a.epoch "
        "JOIN shape s ON s.id = a.shape JOIN name ON name.id = s.pool "
        "WHERE text = ? AND status <> ? AND e.start_us + ended_us - duration_us + lead_us > ?",
        (pool, doubt, at_us),
    ).fetchone()
    for commodity, amount in db.execute(
        "SELECT commodity, -amount FROM correction c JOIN note ON note.tx = c.tx JOIN attempt a ON a.id "
        "= c.attempt "
        "JOIN epoch e ON e.id = a.epoch JOIN posting p ON p.id >= c.tx << 6 AND p.id < (c.tx + 1) << 6 "
        "JOIN account ON account.id = p.account WHERE account.name = ? AND note.at_us > ? "
        "AND e.start_us + ended_us - duration_us + lead_us <= ?",
        (f"engine:{pool}", at_us, at_us),
    ):
        if commodity[4:] in TOKEN_CLASSES[4:]:
            output += amount
        elif commodity != "tok:cached_input":
            prompt += amount
    return prompt, output


def _tokens(db: sqlite3.Connection, places: Sequence[PlaceTokens]) -> Check:
    """What engines counted beyond the attempts has a row of its own; less than them is a broken law."""
    less = db.execute("SELECT text FROM alarm WHERE kind = 'overbooked' ORDER BY id").fetchall()
    witnesses = ", ".join(f"{place.pool}: {place.witness}" for place in places) or "nothing served yet"
    return check(
        "tokens that engines say are tokens in the books",
        witnesses,
        [
            *(
                f"{place.pool}: engine says {place.engine_tok}, books say {place.books_tok} (prompt, output)"
                for place in places
                if place.difference_tok
            ),
            *(text for (text,) in less),
        ],
    )


def _tree(db: sqlite3.Connection, parents: Mapping[int, int | None]) -> Check:
    """In each epoch: what a parent used is what its children used."""
    broken = []
    used: dict[str, dict[int, int]] = {}
    keys = dict(db.execute("SELECT key, sum(charge_nusd) FROM attempt GROUP BY key"))
    kept = _kept_by_key(db)
    for epoch, node, nusd in db.execute(
        "SELECT name, node, nusd FROM epoch_used JOIN epoch ON epoch.id = epoch WHERE node < 1 << 32"
    ):
        used.setdefault(epoch, {})[node] = nusd
    for epoch, nodes in used.items():
        sums: dict[int, int] = {}
        for node, nusd in nodes.items():
            parent = parents.get(node)
            if parent is not None:
                sums[parent] = sums.get(parent, 0) + nusd
        broken += [
            f"epoch {epoch}, node {node}: {nodes.get(node, 0)} nUSD, its children {total}"
            for node, total in sums.items()
            if (nodes.get(node, 0) < total if _spends(node, keys, parents) else nodes.get(node, 0) != total)
        ]
    for key, charge in keys.items():
        (told,) = db.execute("SELECT ifnull(sum(nusd), 0) FROM epoch_used WHERE node = ?", (key,)).fetchone()
        (fixed,) = db.execute(
            "SELECT ifnull(sum(p.amount), 0) FROM correction c JOIN posting p ON p.id >= c.tx << 6 "
            "AND p.id < (c.tx + 1) << 6 JOIN account a ON a.id = p.account "
            "WHERE a.commodity = 'nusd' AND a.name = 'key:' || ?",
            (key,),
        ).fetchone()
        counted = told + fixed - kept.get(key, 0)
        if counted != charge:
            broken.append(f"key {key}: {charge} nUSD charged, {counted} counted against caps")
    return check("children sum to their parents", f"{len(keys)} keys in {len(used)} epochs", broken)


def _spends(node: int, keys: Mapping[int, int], parents: Mapping[int, int | None]) -> bool:
    """Whether requests may be charged to a node itself: a key, or a run below one."""
    at: int | None = node
    while at is not None:
        if at in keys:
            return True
        at = parents.get(at)
    return False


def _kept_by_key(db: sqlite3.Connection) -> dict[int, int]:
    """Return what counts against caps beyond charges: nobody saw what was produced."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'epoch_kept'").fetchone():
        return {}
    return dict(db.execute("SELECT key, sum(nusd) FROM epoch_kept GROUP BY key"))


def _caps(books: Books, parents: Mapping[int, int | None], used: Mapping[int, int] | None) -> Check:
    """What the caps count as used against the books: never less."""
    name = "caps count what the books say"
    if used is None:
        return Check(
            name=name, holds=True, detail="workers are alive: their last quarter second is not told yet"
        )
    sums: dict[int, int] = {}
    for key, node_sums in books.by_node().items():
        node: int | None = key
        while node is not None:
            sums[node] = sums.get(node, 0) + node_sums.charge_nusd
            node = parents.get(node)
    waiting = books.db.execute("SELECT count(*) FROM adjustment").fetchone()[0]
    if waiting:
        return Check(name=name, holds=True, detail=f"{waiting} corrections are on their way to the caps")
    more = sum(used.get(node, 0) > nusd for node, nusd in sums.items())
    detail = f"{len(sums)} nodes" + (
        f"; {more} count more: what nobody saw, or a journal's tail that died" if more else ""
    )
    broken = (
        f"node {n}: caps {used.get(n, 0)} nUSD, books {b}" for n, b in sums.items() if used.get(n, 0) < b
    )
    return check(name, detail, broken)


def as_builtins(report: Report) -> dict[str, Any]:
    """Return the report for `--json`."""
    return msgspec.to_builtins(report) | {"holds": report.holds, "difference_tok": report.difference_tok}  # type: ignore[no-any-return]
