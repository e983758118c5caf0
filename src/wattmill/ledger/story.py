"""Finding what a journal says of one request: the decision's facts, which the books do not keep."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from wattmill.ledger import epoch as epochs
from wattmill.ledger.frame import BadHeader
from wattmill.ledger.tail import Position, Tail
from wattmill.vocab.fact import End, Intent, Progress, Refused, Replayed, RunawaySeen


class Told(NamedTuple):
    """What stands in one journal about one request, in the order of writing. Empty when it is not there."""

    intents: list[Intent]
    ends: list[End]
    progress: dict[int, Progress]  # the last mark of each attempt
    refused: Refused | None
    runaway: list[RunawaySeen]
    replayed: Replayed | None = None

    def __bool__(self) -> bool:
        return bool(self.intents or self.refused or self.replayed)


def told(journal: Path, epoch: str, request: int, *, first_segment: int = 0) -> Told:
    """Read what an epoch says of the request whose first attempt is `request`.

    Args:
        journal: the folder of the epochs.
        epoch: the request's epoch.
        request: the seq in its id.
        first_segment: where to begin, if the books know in which segment it began.
    """
    found = Told([], [], {}, None, [])
    folder = journal / epoch
    if not folder.is_dir():
        return found
    tail = Tail(folder, Position(first_segment, 0) if first_segment else Position())
    final = not epochs.alive(folder)
    seqs: set[int] = set()
    try:
        while True:
            batch = tail.read(10_000, final=final)
            for fact, _, _ in batch.records:
                if isinstance(fact, Intent):
                    if fact.request == request:
                        found.intents.append(fact)
                        seqs.add(fact.seq)
                elif isinstance(fact, End):
                    if fact.seq in seqs:
                        found.ends.append(fact)
                elif isinstance(fact, Progress):
                    if fact.seq in seqs:
                        found.progress[fact.seq] = fact
                elif isinstance(fact, RunawaySeen):
                    if fact.seq == request:
                        found.runaway.append(fact)
                elif isinstance(fact, Replayed) and fact.seq == request:
                    return found._replace(replayed=fact)
                elif isinstance(fact, Refused) and fact.seq == request:
                    return found._replace(refused=fact)
            if batch.at_end or _is_told(found, batch.position.segment, first_segment):
                return found
    except BadHeader:
        return found
    finally:
        tail.close()


def _is_told(found: Told, segment: int, first_segment: int) -> bool:
    """True when the request ended well and the reader has left its segment: no more attempts will come."""
    done = {end.seq for end in found.ends if end.status == "finished"}
    return (
        bool(done) and bool(found.intents) and found.intents[-1].seq in done and segment > first_segment + 1
    )
