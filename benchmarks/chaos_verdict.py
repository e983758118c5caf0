"""The verdict of the chaos test: were tokens lost or counted twice? Does not import wattmill.

    python benchmarks/chaos_verdict.py --home DIR --engine-log FILE --client-log FILE --kills N --in-flight M

Three witnesses are compared: the engines' log (each token was written down before it was sent), the
clients' log (what each caller saw), and the books (`ledger.db`, read by SQL; the journal tells which
attempt carries which client's label). A request is known by the label that the client drew for it.

LOST, one for each of these:
  * a request that arrived at an engine, and no attempt at that pool under its label is in the books;
  * a measured attempt with fewer prompt or output tokens than the engine's log has for it;
  * an estimated attempt (its client left, its engine died) with fewer output tokens than the engine had
    logged 100 ms before the attempt ended in the books; or fewer than its client had received. Tokens that
    an engine wrote down and could no longer send, because it or the connection died within that time, were
    never seen by anyone but it: they are counted as `unsent` and shown;
    An attempt of the source `unmetered` says that it does not know: it is counted as `unmetered` and shown;
  * an attempt in doubt whose reservation (its output clamp) is smaller than what the engine logged;
  * an answer that a client saw to its end, and no finished attempt is booked for it, or its tokens differ.
DOUBLED, one for each of these:
  * an (epoch, sequence number) that is booked twice;
  * more booked attempts with tokens at a pool under one label than requests that arrived at that pool with
    it;
  * a measured attempt with more tokens than the engine's log has; an estimated one with more output tokens
    than the engine logged, or more prompt tokens than the bound that was reserved;
  * two finished attempts for one request.
IN DOUBT counts attempts that ever were in doubt, whether they have been reconciled since or not. Each is a
request that was in flight at a kill, so there may be no more of them than requests were in flight then.
"""

from __future__ import annotations

import argparse
import collections
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import books

GRACE_US = 100_000


@dataclass(slots=True)
class Arrival:
    """One request as an engine saw it."""

    engine_id: str
    label: str
    prompt_tok: int
    pool: str
    at_us: int
    tokens_us: list[int] = field(default_factory=list)  # when each was written down
    end: str = "killed"  # the engine died before it wrote an end

    @property
    def output_tok(self) -> int:
        return len(self.tokens_us)


class Verdict(NamedTuple):
    requests: int
    lost: list[str]
    doubled: list[str]
    in_doubt: int
    unsent: int
    unmetered: int


def read_engine_log(path: Path) -> list[Arrival]:
    """Return arrivals in order. The last line may be cut off by a kill."""
    found: dict[str, Arrival] = {}
    for line in path.read_text().split("\n")[:-1]:
        kind, *rest = line.split(" ")
        if kind == "A":
            engine_id, label, prompt, _wanted, _stream, pool, at_us = rest
            found[engine_id] = Arrival(engine_id, label, int(prompt), pool, int(at_us))
        elif kind == "T":
            found[rest[0]].tokens_us.append(int(rest[2]))
        elif kind == "E":
            found[rest[0]].end = rest[1]
    return list(found.values())


def read_client_log(path: Path) -> dict[str, dict[str, Any]]:
    """Return, by label, the last thing that each client wrote of its request."""
    seen: dict[str, dict[str, Any]] = {}
    for line in path.read_text().split("\n"):
        if line:
            entry = json.loads(line)
            seen.setdefault(entry["label"], {}).update(entry)
    return seen


def judge(
    arrivals: list[Arrival],
    clients: dict[str, dict[str, Any]],
    intents: list[books.JournalIntent],
    booked: list[books.Booked],
) -> Verdict:
    """Compare the witnesses; each finding is a sentence."""
    lost: list[str] = []
    doubled: list[str] = []
    unsent = unmetered = 0
    intent_of = {(one.epoch, one.seq): one for one in intents}
    label_of = {key: one.label for key, one in intent_of.items()}

    times = collections.Counter((one.epoch, one.seq) for one in booked)
    doubled += [f"{epoch}/{seq} is booked {n} times" for (epoch, seq), n in times.items() if n > 1]

    by_place: dict[tuple[str, str], list[books.Booked]] = collections.defaultdict(list)
    by_label: dict[str, list[books.Booked]] = collections.defaultdict(list)
    for one in booked:
        label = label_of.get((one.epoch, one.seq)) or label_of.get((one.epoch, one.request))
        if label is None:
            lost.append(f"{one.epoch}/{one.seq} is booked without an intent in the journal")
            continue
        by_place[label, one.pool].append(one)
        by_label[label].append(one)

    arrived: dict[tuple[str, str], list[Arrival]] = collections.defaultdict(list)
    for arrival in arrivals:
        arrived[arrival.label, arrival.pool].append(arrival)

    for place, here in arrived.items():
        attempts = sorted(by_place.get(place, ()), key=lambda one: (one.epoch, one.seq))
        # An attempt that the engine never saw (connection refused) has no tokens: it needs no arrival.
        worked = [
            one
            for one in attempts
            if one.prompt_tok or one.output_tok or one.status == "in_doubt" or one.doubted
        ]
        if len(worked) > len(here):
            doubled.append(f"{place}: {len(worked)} attempts with tokens booked, the engine saw {len(here)}")
        if len(attempts) < len(here):
            lost.append(f"{place}: the engine saw {len(here)} requests, {len(attempts)} attempts are booked")
            continue
        # What nobody counted may have arrived: as many of these as there are arrivals left for them. All are
        # paired in the order of time; those that never arrived come last.
        room = max(0, len(here) - len(worked))
        uncounted = [one for one in attempts if one not in worked and one.source == "unmetered"][:room]
        met = [one for one in attempts if one in worked or one in uncounted]
        paired = met + [one for one in attempts if one not in met]
        for arrival, attempt in zip(here, paired, strict=False):
            if attempt.source == "unmetered" and not attempt.doubted:
                unmetered += arrival.output_tok
                continue
            unsent += _compare(arrival, attempt, intent_of.get((attempt.epoch, attempt.seq)), lost, doubled)

    for label, seen in clients.items():
        finished = [one for one in by_label.get(label, ()) if one.status in ("finished", "cut")]
        if len(finished) > 1:
            doubled.append(f"{label}: {len(finished)} finished attempts are booked for one request")
        if seen.get("end") == "done":
            if not finished:
                lost.append(f"{label}: its client saw the whole answer, no finished attempt is booked")
            elif finished[0].output_tok < seen["tokens"]:
                lost.append(
                    f"{label}: its client got {seen['tokens']} tokens, booked are {finished[0].output_tok}"
                )
            elif finished[0].output_tok > seen["tokens"]:
                doubled.append(
                    f"{label}: its client got {seen['tokens']} tokens, booked are {finished[0].output_tok}"
                )
        elif seen.get("tokens"):
            most = sum(max(one.output_tok, _reserved(one, intent_of)) for one in by_label.get(label, ()))
            if most < seen["tokens"]:
                lost.append(f"{label}: its client received {seen['tokens']} tokens, {most} are covered")

    for place, attempts in by_place.items():
        if place not in arrived:
            doubled += [
                f"{place}: {one.epoch}/{one.seq} is booked with {one.prompt_tok} + {one.output_tok} tokens "
                "and never arrived at the engine"
                for one in attempts
                if not one.doubted and (one.output_tok or one.prompt_tok)
            ]
    in_doubt = sum(1 for one in booked if one.doubted is not None or one.status == "in_doubt")
    return Verdict(len(clients), lost, doubled, in_doubt, unsent, unmetered)


def _reserved(attempt: books.Booked, intent_of: dict[tuple[str, int], books.JournalIntent]) -> int:
    intent = intent_of.get((attempt.epoch, attempt.seq))
    return intent.output_clamp_tok if intent is not None and attempt.status == "in_doubt" else 0


def _compare(
    arrival: Arrival,
    attempt: books.Booked,
    intent: books.JournalIntent | None,
    lost: list[str],
    doubled: list[str],
) -> int:
    """Compare one request at an engine with its attempt in the books; return the tokens nobody else saw."""
    attempt_id = f"{attempt.epoch}/{attempt.seq}"
    who = f"{arrival.engine_id} ({arrival.label}, {attempt_id} {attempt.status}, {attempt.source})"
    made, has = arrival.output_tok, attempt.output_tok
    if attempt.status == "in_doubt":
        clamp = intent.output_clamp_tok if intent is not None else 0
        if made > clamp:
            lost.append(f"{who}: in doubt at a reservation of {clamp} tokens, the engine made {made}")
        return 0
    if attempt.source == "measured":
        if has < made or attempt.prompt_tok < arrival.prompt_tok:
            lost.append(
                f"{who}: booked {attempt.prompt_tok} + {has}, the engine made {arrival.prompt_tok} + {made}"
            )
        if has > made or attempt.prompt_tok > arrival.prompt_tok:
            doubled.append(
                f"{who}: booked {attempt.prompt_tok} + {has}, the engine made {arrival.prompt_tok} + {made}"
            )
        return 0
    if attempt.doubted is not None:  # reconciled by a rule: worst case or what was delivered
        if has > max(made, intent.output_clamp_tok if intent is not None else 0):
            doubled.append(f"{who}: reconciled with {has} tokens, more than was reserved")
        return max(0, made - has)
    sent = sum(1 for at_us in arrival.tokens_us if at_us <= attempt.ended_us - GRACE_US)
    if has < sent:
        lost.append(
            f"{who}: booked {has} tokens, the engine had logged {sent} of {made} 100 ms before the end"
        )
    if has > made:
        doubled.append(f"{who}: booked {has} tokens, the engine made {made}")
    if intent is not None and attempt.prompt_tok > max(arrival.prompt_tok, intent.input_bound_tok):
        doubled.append(
            f"{who}: booked {attempt.prompt_tok} prompt tokens, {intent.input_bound_tok} were reserved"
        )
    return max(0, made - has)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--engine-log", type=Path, required=True)
    parser.add_argument("--client-log", type=Path, required=True)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument(
        "--in-flight", type=int, required=True, help="requests in flight when a gateway was killed, in all"
    )
    args = parser.parse_args()
    arrivals = read_engine_log(args.engine_log)
    clients = read_client_log(args.client_log)
    verdict = judge(arrivals, clients, list(books.intents(args.home)), books.booked(args.home))
    for kind, findings in (("lost", verdict.lost), ("doubled", verdict.doubled)):
        for finding in findings[:40]:
            print(f"{kind}: {finding}")
    ends = collections.Counter(str(seen.get("end")) for seen in clients.values())
    print(f"clients: {dict(sorted(ends.items()))}")
    made = sum(arrival.output_tok for arrival in arrivals)
    print(
        f"engines: {len(arrivals)} requests, {made} tokens, {verdict.unsent} of them never left a dying "
        f"connection, {verdict.unmetered} are in the books as unmetered"
    )
    print(f"in flight when gateways were killed: {args.in_flight}")
    if verdict.in_doubt > args.in_flight:
        print(f"in_doubt: {verdict.in_doubt} attempts, only {args.in_flight} requests were in flight then")
    print(
        f"kills={args.kills} requests={verdict.requests} lost={len(verdict.lost)} "
        f"doubled={len(verdict.doubled)} in_doubt={verdict.in_doubt}"
    )
    return int(bool(verdict.lost or verdict.doubled or verdict.in_doubt > args.in_flight))


if __name__ == "__main__":
    raise SystemExit(main())
