"""The decisions that a journal holds, each with every input that its policy was given."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path

import msgspec

from wattmill.ledger import epoch as epochs
from wattmill.ledger.frame import BadHeader
from wattmill.ledger.tail import Tail
from wattmill.scheduling.spec import Fleet, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Asker, End, Intent, Refused, Snapshot
from wattmill.vocab.ids import request_id
from wattmill.vocab.request import ENDPOINTS, Request, Terms
from wattmill.vocab.route import Route

_fleet = msgspec.msgpack.Decoder(Fleet).decode
_weights = msgspec.msgpack.Decoder(Weights).decode
_caller = msgspec.msgpack.Decoder(Caller).decode
_request = msgspec.msgpack.Decoder(Request).decode
_NO_TERMS = Terms()


class View(msgspec.Struct, frozen=True):
    """One snapshot: the fleet, and the rules of the factory then."""

    fleet: Fleet
    weights: Weights
    seed: int
    version: str  # of the wattmill that decided


class Decision(msgspec.Struct, frozen=True):
    """One recorded decision. `view` or `caller` is None where the journal that told them is gone."""

    epoch: str
    seq: int
    at_us: int
    request: Request
    caller: Caller | None
    view: View | None
    route: Route  # what was decided; without candidates: the policy refused
    code: str | None = None  # of a refusal, by the policy or (with candidates) by the caps
    message: str | None = None

    @property
    def id(self) -> str:
        return request_id(self.epoch, self.seq)


def decisions(
    journal: Path, *, since_us: int = 0, until_us: int | None = None
) -> Iterator[Decision | tuple[str, End]]:
    """Yield the decisions of a period in the order in which each worker took them, workers merged by time;
    and (epoch, `End`) of the attempts that followed, for what really happened."""
    streams = [_of_epoch(journal / name, since_us, until_us) for name in epochs.names(journal)]
    for _, _, item in heapq.merge(*streams, key=lambda row: row[:2]):
        yield item


def _of_epoch(
    folder: Path, since_us: int, until_us: int | None
) -> Iterator[tuple[int, str, Decision | tuple[str, End]]]:
    views: dict[int, View] = {}
    callers: dict[int, Caller] = {}
    name = folder.name
    tail = Tail(folder)
    final = not epochs.alive(folder)
    at_us = 0
    inside: set[int] = set()  # requests whose decision was told
    attempts: set[int] = set()  # theirs that have not ended
    try:
        while True:
            batch = tail.read(10_000, final=final)
            for fact, _, _ in batch.records:
                if isinstance(fact, Snapshot):
                    if fact.policy:  # an older version told the fleet only, which is not enough
                        views[fact.id] = View(
                            _fleet(fact.fleet), _weights(fact.weights), fact.seed, fact.version
                        )
                elif isinstance(fact, Asker):
                    callers[fact.id] = _caller(fact.caller)
                elif isinstance(fact, End):
                    at_us = max(at_us, fact.at_us)
                    if fact.seq in attempts:
                        attempts.discard(fact.seq)
                        yield at_us, name, (name, fact)
                elif isinstance(fact, Intent | Refused):
                    at_us = max(at_us, fact.at_us)
                    told = fact.route is not None and (isinstance(fact, Intent) or bool(fact.ask))
                    if told and at_us >= since_us and (until_us is None or at_us <= until_us):
                        inside.add(fact.seq)
                        yield at_us, name, _decision(name, fact, views, callers)
                    if isinstance(fact, Intent) and fact.request in inside:
                        attempts.add(fact.seq)
            if batch.at_end:
                return
    except BadHeader:
        return
    finally:
        tail.close()


def _decision(
    epoch: str, fact: Intent | Refused, views: dict[int, View], callers: dict[int, Caller]
) -> Decision:
    route = fact.route
    assert route is not None
    view, caller = views.get(route.snapshot), callers.get(route.hints.asker)
    if isinstance(fact, Intent):
        ask = request_of(fact, epoch)
        return Decision(epoch, fact.request, fact.at_us, ask, caller, view, route)
    ask = _request(fact.ask)
    return Decision(epoch, fact.seq, fact.at_us, ask, caller, view, route, fact.code, fact.message)


def request_of(intent: Intent, epoch: str) -> Request:
    """Return the request as the policy was given it."""
    terms = intent.terms or _NO_TERMS
    place, _, rest = intent.model.partition("/")
    return Request(
        id=request_id(epoch, intent.request),
        # Other doors than these are translated to a chat before a policy sees them.
        endpoint=intent.endpoint if intent.endpoint in ENDPOINTS else "chat",
        model=rest if intent.pinned else intent.model,
        pool=place if intent.pinned else None,
        stream=intent.stream,
        input_bound_tok=intent.input_bound_tok,
        max_output_tok=intent.asked_output_tok,
        choices=intent.choices,
        needs=frozenset(intent.needs),
        privacy=intent.privacy,
        evidence=intent.evidence,
        **{name: getattr(terms, name) for name in Terms.__struct_fields__},
    )
