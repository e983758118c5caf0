"""The verdict of the fault campaign: who was charged twice, who was not served? Does not import wattmill.

    python benchmarks/faults_verdict.py --home DIR --engine-log FILE --client-log FILE

Three witnesses: what each client saw, what each engine wrote down before it sent it, and the books, read by
SQL.

DOUBLE CHARGES, one for each of these:
  * an (epoch, sequence number) that is booked twice;
  * a request with two attempts that both claim to have given the same answer: two finished ones;
  * a charge for an attempt of which the client saw nothing;
  * a request whose charges are more than the price of what its client received: the prompt, read once by each
    place that gave a part, and each token that arrived, once;
  * a charge that was told to a client and is not what is booked;
  * tokens of an attempt beyond what the engine wrote down (and what `chaos_verdict` calls doubled).
LOST: what `chaos_verdict` calls lost, but for hedges that were cancelled: what such an engine had sent and
nobody had read is counted and shown (an engine's own counters set it right, where it has any).
AUDIT DIFFERENCE: the sum, over commodities, of |sum of all postings|.
SERVED: a client that saw its whole answer, each token once and in order. A partial answer, marked or not, is
not served. SERVABLE: requests for which some place that may see their data had no scripted fault.
"""

from __future__ import annotations

import argparse
import collections
import json
import sqlite3
from pathlib import Path
from typing import Any

import books
from chaos_verdict import judge, read_client_log, read_engine_log

INPUT_NUSD_PER_MTOK = 150_000_000
OUTPUT_NUSD_PER_MTOK = 600_000_000
MTOK = 1_000_000


def price(prompt_tok: int, output_tok: int) -> int:
    """The price book of `factory.declaration`, rounded half up once per class."""
    return (prompt_tok * INPUT_NUSD_PER_MTOK + MTOK // 2) // MTOK + (
        output_tok * OUTPUT_NUSD_PER_MTOK + MTOK // 2
    ) // MTOK


def double_charges(
    clients: dict[str, dict[str, Any]], intents: list[books.JournalIntent], booked: list[books.Booked]
) -> list[str]:
    found: list[str] = []
    times = collections.Counter((one.epoch, one.seq) for one in booked)
    found += [f"{epoch}/{seq} is booked {n} times" for (epoch, seq), n in times.items() if n > 1]
    label_of = {(one.epoch, one.seq): one.label for one in intents}
    by_label: dict[str, list[books.Booked]] = collections.defaultdict(list)
    for one in booked:
        by_label[label_of.get((one.epoch, one.seq)) or "?"].append(one)
    for label, attempts in by_label.items():
        seen = clients.get(label)
        if seen is None:
            found.append(f"{label}: booked, and no client sent it")
            continue
        charged = [one for one in attempts if one.charge_nusd]
        finished = [one for one in attempts if one.status in ("finished", "cut")]
        total = sum(one.charge_nusd for one in charged)
        if len(finished) > 1:
            found.append(f"{label}: {len(finished)} finished attempts for one answer")
        got = seen["tokens"]
        if not got and total:
            found.append(f"{label}: its client saw nothing and is charged {total} nUSD")
        most = sum(price(one.prompt_tok, 0) for one in charged) + price(0, got) + len(charged)
        if total > most:
            found.append(f"{label}: {got} tokens arrived, worth at most {most} nUSD; charged {total}")
        told = seen.get("told_nusd")
        if told is not None and seen["end"] == "done" and told != total:
            found.append(f"{label}: its client was told {told} nUSD, the books say {total}")
    return found


def causes(home: Path) -> dict[str, int]:
    with sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True) as db:
        rows = db.execute(
            "SELECT name.text, count(*) FROM attempt JOIN name ON name.id = attempt.cause "
            "GROUP BY 1 ORDER BY 1"
        ).fetchall()
    db.close()
    return dict(rows)


def cancelled_hedges(home: Path) -> set[str]:
    """Return "epoch/seq" of each attempt that another one of its request had overtaken."""
    with sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True) as db:
        rows = db.execute(
            "SELECT epoch.name || '/' || attempt.seq FROM attempt JOIN epoch ON epoch.id = attempt.epoch "
            "JOIN name ON name.id = attempt.cause WHERE name.text = 'hedge_lost'"
        ).fetchall()
    db.close()
    return {row[0] for row in rows}


def audit_difference(home: Path) -> int:
    with sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True) as db:
        rows = db.execute(
            "SELECT account.commodity, sum(posting.amount) FROM posting JOIN account "
            "ON account.id = posting.account GROUP BY 1"
        ).fetchall()
    db.close()
    return sum(abs(total) for _, total in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--engine-log", type=Path, required=True)
    parser.add_argument("--client-log", type=Path, required=True)
    args = parser.parse_args()
    clients = read_client_log(args.client_log)
    intents, booked = list(books.intents(args.home)), books.booked(args.home)
    arrivals = read_engine_log(args.engine_log)
    # A continued answer has several attempts that gave a part each: its tokens are compared below.
    continued = {
        label
        for label, n in collections.Counter(one.label for one in intents if one.label is not None).items()
        if n > 1
    }
    plain = {
        label: seen | ({"end": "several", "tokens": 0} if label in continued else {})
        for label, seen in clients.items()
    }
    witnesses = judge(arrivals, plain, intents, booked)
    cancelled = cancelled_hedges(args.home)
    lost = [one for one in witnesses.lost if not any(f" {attempt} " in one for attempt in cancelled)]
    unread = len(witnesses.lost) - len(lost)
    doubles = [*double_charges(clients, intents, booked), *witnesses.doubled]
    faults = collections.Counter(
        line.split(" ")[2] for line in args.engine_log.read_text().splitlines() if line.startswith("F ")
    )
    slow = faults.pop("slow", 0)
    servable = [seen for seen in clients.values() if set(seen["allowed"]) - set(seen["faults"])]
    served = [seen for seen in servable if seen["end"] == "done" and seen["exact"]]
    wrong = [seen for seen in clients.values() if seen["end"] == "done" and not seen["exact"]]
    difference = audit_difference(args.home)
    for kind, findings in (("double", doubles), ("lost", lost)):
        for finding in findings[:20]:
            print(f"{kind}: {finding}")
    for seen in wrong[:10]:
        print(f"wrong: {seen['label']} was told that it was done, and got {seen['text']!r}")
    missed = [seen for seen in servable if not (seen["end"] == "done" and seen["exact"])]
    for seen in missed[:10]:
        print(f"not served: {json.dumps({k: v for k, v in seen.items() if k != 'text'})}")
    print(f"faults that happened: {dict(sorted(faults.items()))}, and {slow} slow starts")
    print(f"clients: {dict(collections.Counter(str(seen['end']) for seen in clients.values()))}")
    print(f"hedges that were cancelled: {len(cancelled)}, of which {unread} had sent what nobody read")
    print(f"causes of failed attempts: {causes(args.home)}")
    print(f"attempts: {dict(collections.Counter(one.status for one in booked))}, in the books: {len(booked)}")
    print(
        f"injections={sum(faults.values())} requests={len(clients)} servable={len(servable)} "
        f"served={len(served)} double_charges={len(doubles)} lost={len(lost)} wrong={len(wrong)} "
        f"audit_difference={difference}"
    )
    few = len(served) < 0.999 * len(servable)
    return int(bool(doubles or lost or wrong or difference or few))


if __name__ == "__main__":
    raise SystemExit(main())
