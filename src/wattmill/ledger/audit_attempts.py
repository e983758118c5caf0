"""What is told of each attempt, against its postings; and roll-ups, against what is told of the attempts."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from wattmill.ledger.audit_check import Check, check
from wattmill.ledger.rating import Unpriced, rate
from wattmill.ledger.stores.sqlite_schema import NO_GOOD_END, STATUSES
from wattmill.vocab.price import Price
from wattmill.vocab.usage import TOKEN_CLASSES, Usage

_CACHE = "cache"  # the place of answers that were there already: no engine was asked

_POSTED = """
SELECT e.name, a.seq - a.back, a.key, p.text, a.charge_nusd, a.cost_nusd, a.overrun_nusd,
       a.prefill_tok + a.cached_tok + a.output_tok,
       ifnull(t.charge, 0), ifnull(t.cost, 0), ifnull(t.overrun, 0), ifnull(t.tokens, 0)
FROM attempt a JOIN epoch e ON e.id = a.epoch JOIN shape s ON s.id = a.shape JOIN name p ON p.id = s.pool
LEFT JOIN (
  SELECT b.id AS attempt,
         sum(CASE WHEN k.commodity = 'nusd' AND k.name = 'key:' || b.key THEN line.amount END) AS charge,
         sum(CASE WHEN k.name = 'cost:' || q.text THEN line.amount END) AS cost,
         sum(CASE WHEN k.name = 'overrun:' || q.text THEN line.amount END) AS overrun,
         sum(CASE WHEN k.commodity LIKE 'tok:%' AND k.name = 'key:' || b.key THEN line.amount END) AS tokens
  FROM posting line JOIN account k ON k.id = line.account LEFT JOIN correction c ON c.tx = line.id >> 6
  JOIN attempt b ON b.id = ifnull(c.attempt, line.id >> 6) JOIN shape z ON z.id = b.shape
  JOIN name q ON q.id = z.pool GROUP BY b.id) t ON t.attempt = a.id
WHERE a.charge_nusd <> ifnull(t.charge, 0) OR a.cost_nusd <> ifnull(t.cost, 0)
   OR a.overrun_nusd <> ifnull(t.overrun, 0)
   OR a.prefill_tok + a.cached_tok + a.output_tok <> ifnull(t.tokens, 0)
"""

_SUMMED = {
    "attempts": "count(*)",
    "requests": "sum(a.number = 0)",
    "errors": f"sum(a.status IN ({', '.join(str(STATUSES.index(name)) for name in NO_GOOD_END)}))",
    "aborted": f"sum(a.status = {STATUSES.index('aborted')})",
    "charge_nusd": "sum(a.charge_nusd)",
    "cost_nusd": "sum(a.cost_nusd)",
    "overrun_nusd": "sum(a.overrun_nusd)",
    "tok_input + tok_cache_write + tok_audio_input": "sum(a.prefill_tok)",
    "tok_cached_input": "sum(a.cached_tok)",
    "tok_output + tok_reasoning + tok_audio_output": "sum(a.output_tok)",
}


def attempts(db: sqlite3.Connection) -> Check:
    """Charge, cost, overrun and tokens of each attempt against its own postings and their corrections."""
    broken = []
    for epoch, seq, key, pool, *figures in db.execute(_POSTED):
        told, posted = figures[:4], figures[4:]
        broken += [
            f"req_{epoch}_{seq:x} of key {key} on {pool}: told {name} {a}, its postings say {b}"
            for name, a, b in zip(("charge", "cost", "overrun", "tokens"), told, posted, strict=True)
            if a != b
        ]
    for key, charge, posted in db.execute(
        "SELECT k.key, ifnull(sum(a.charge_nusd), 0), k.balance FROM (SELECT CAST(substr(name, 5) AS "
        "INTEGER) AS key, balance FROM account WHERE commodity = 'nusd' AND name LIKE 'key:%') k "
        "LEFT JOIN attempt a ON a.key = k.key GROUP BY k.key "
        "HAVING ifnull(sum(a.charge_nusd), 0) <> k.balance"
    ):
        broken.append(f"key {key}: attempts were told {charge} nUSD, postings say {posted}")
    doubt = STATUSES.index("in_doubt")
    for attempt, state, status in db.execute(
        "SELECT d.attempt, d.state, a.status FROM doubt d LEFT JOIN attempt a ON a.id = d.attempt "
        "WHERE a.id IS NULL OR (d.state = 'open') <> (a.status = ?1) UNION ALL "
        "SELECT id, 'unknown', status FROM attempt WHERE status = ?1 "
        "AND id NOT IN (SELECT attempt FROM doubt)",
        (doubt,),
    ):
        what = "no attempt at all" if status is None else f"status {STATUSES[status]!r}"
        broken.append(f"attempt {attempt}: its doubt is {state!r}, but it has {what}")
    count = db.execute("SELECT count(*) FROM attempt").fetchone()[0]
    return check("what attempts were told is what is posted", f"{count} attempts", broken)


def rollups_by_place(db: sqlite3.Connection) -> Check:
    """Counts, money and tokens of the roll-ups, by key, place and model, against the attempts."""
    names = list(_SUMMED)
    told = {
        tuple(row[:3]): row[3:]
        for row in db.execute(
            f"SELECT a.key, s.pool, s.model, {', '.join(_SUMMED.values())} FROM attempt a "
            "JOIN shape s ON s.id = a.shape GROUP BY 1, 2, 3"
        )
    }
    text = dict(db.execute("SELECT id, text FROM name"))
    broken = []
    for step in ("minute", "hour"):
        rolled = {
            tuple(row[:3]): row[3:]
            for row in db.execute(
                f"SELECT key, pool, model, {', '.join(f'sum({name})' for name in names)} "
                f"FROM rollup_{step} GROUP BY 1, 2, 3"
            )
        }
        nothing = (0,) * len(names)
        for at in sorted(told.keys() | rolled.keys()):
            key, pool, model = at
            broken += [
                f"{step}, key {key}, {text.get(pool, pool)}/{text.get(model, model)}: {name} is {b}, "
                f"attempts say {a}"
                for name, a, b in zip(names, told.get(at, nothing), rolled.get(at, nothing), strict=True)
                if a != b
            ]
    return check("roll-ups are the sums of the attempts", f"{len(told)} keys by place and model", broken)


def rated(db: sqlite3.Connection, prices: Mapping[int, Price]) -> Check:
    """The told charge (and its overrun) and the cost against the usage in the books and the price versions of
    both, rated again.

    Python's integers, not the database's: those turn into floats beyond 2**63.
    """
    failed = STATUSES.index("failed")
    classes = ", ".join(
        f"ifnull(sum(CASE WHEN k.commodity = 'tok:{name}' THEN line.amount END), 0)" for name in TOKEN_CLASSES
    )
    rows = db.execute(
        "SELECT e.name, a.seq - a.back, a.charge_nusd, a.overrun_nusd, a.cost_nusd, a.status, "
        "s.charge_price, s.cost_price, p.text, c.text, t.* "
        f"FROM (SELECT line.id >> 6 AS tx, {classes}, "
        "ifnull(sum(CASE WHEN k.name LIKE 'saved:%' THEN line.amount END), 0) "
        "FROM posting line JOIN account k ON k.id = line.account "
        "WHERE k.name LIKE 'key:%' AND k.commodity LIKE 'tok:%' OR k.name LIKE 'saved:%' GROUP BY 1) t "
        "JOIN attempt a ON a.id = t.tx JOIN epoch e ON e.id = a.epoch JOIN shape s ON s.id = a.shape "
        "JOIN name p ON p.id = s.pool "
        "LEFT JOIN name c ON c.id = a.cause "
        "WHERE a.source < 2 AND a.status <> ? AND a.id NOT IN (SELECT attempt FROM correction)",
        (STATUSES.index("in_doubt"),),
    )
    broken = []
    unpriced = 0
    for epoch, seq, charge, overrun, cost, status, price_id, cost_id, pool, cause, _, *tokens, saved in rows:
        price, cost_price = prices.get(price_id), prices.get(cost_id)
        if price is None or cost_price is None:
            continue  # named below
        told = charge + overrun + saved  # what the cache saved is the rest of the price
        computed, cached, write, audio_in, text, reasoning, audio_out = tokens
        usage = Usage(
            computed + cached + write + audio_in, text + reasoning + audio_out, cached, write, audio_in,
            reasoning, audio_out,
        )  # fmt: skip
        try:
            costs, total = rate(cost_price, usage), rate(price, usage)
        except Unpriced as error:
            unpriced += 1  # the reservation stands, and the row must say so
            if cause is None:
                broken.append(f"req_{epoch}_{seq:x}: told {told} nUSD without a word, but {error}")
            continue
        if cost != (0 if pool == _CACHE else costs):
            broken.append(f"req_{epoch}_{seq:x}: cost {cost} nUSD, price version {cost_id} says {costs}")
        if status == failed and told == 0:
            continue  # free, unless its client had already seen a part: then that part is paid for
        if told != total:
            broken.append(f"req_{epoch}_{seq:x}: told {told} nUSD, price version {price_id} says {total}")
    broken += [
        f"req_{epoch}_{seq:x}: failed with nothing counted, but charged {charge} nUSD"
        for epoch, seq, charge in db.execute(
            "SELECT e.name, a.seq - a.back, a.charge_nusd FROM attempt a JOIN epoch e ON e.id = a.epoch "
            "WHERE a.status = ? AND a.source >= 2 AND a.charge_nusd <> 0",
            (failed,),
        )
    ]
    known = {
        row[0] for row in db.execute("SELECT charge_price FROM shape UNION SELECT cost_price FROM shape")
    }
    broken += [f"price version {id} is used and not known" for id in sorted(known - prices.keys())]
    detail = f"{len(known)} price versions"
    if unpriced:
        detail += f"; {unpriced} attempts at their reservation: a class without a rate"
    return check("told charges and costs are usage times price", detail, broken)
