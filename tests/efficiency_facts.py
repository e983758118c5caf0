"""A place's recorded life with losses of known size: facts in a journal, as a worker writes them.

The life is a row of segments. `busy` lists how many tokens a second each 8 s of work gave; between two
lie a share of each loss of time. Within a segment 20 attempts follow each other, 0.4 s each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from wattmill.app.efficiency.reading import seen
from wattmill.app.efficiency.spec import Seen
from wattmill.app.home import Home
from wattmill.ledger.journal import Journal
from wattmill.scheduling.spec import Fleet, Pool
from wattmill.vocab.fact import End, Intent, Snapshot
from wattmill.vocab.request import Terms
from wattmill.vocab.usage import Usage

S = 1_000_000
BEGIN = 1_600_000_000 * S
SEGMENT_S, EACH = 8.0, 20
FULL, HALF, MIDDLE = 100, 50, 75  # tokens a second; R* is the first
PROMISE = Terms(tier="premium", promise_ttft_s=1.0)


@dataclass(frozen=True)
class Life:
    """`late`, `failed` ...: attempts so lost, spread evenly over the segments."""

    busy: tuple[int, ...] = (FULL, HALF) * 48 + (MIDDLE,)  # 776 s at 75 tokens a second
    idle_s: float = 194.0
    over_s: float = 0.0
    queue_s: float = 0.0
    network_s: float = 0.0
    down_s: float = 30.0
    late: int = 97  # of 1,940: 5 %
    failed: int = 31
    aborted: int = 31
    retried: int = 30
    promised: bool = True
    tells: bool = True  # the engine tells its times

    def moved(self, loss: str, segments: int) -> Life:
        """Return the life in which so many segments of work (half of them fast) became that loss of time."""
        keep = (FULL, HALF) * ((len(self.busy) - 1 - segments) // 2) + (MIDDLE,)
        assert len(self.busy) - len(keep) == segments
        share = len(keep) / len(self.busy)
        few = {name: round(getattr(self, name) * share) for name in ("late", "failed", "aborted", "retried")}
        name = f"{loss}_s"
        return _replace(self, busy=keep, **few, **{name: getattr(self, name) + segments * SEGMENT_S})


def _replace(life: Life, **changes: object) -> Life:
    import dataclasses

    return dataclasses.replace(life, **changes)  # type: ignore[arg-type]


@dataclass
class _Told:
    """What a worker writes, in the order of time."""

    journal: Journal
    seq: int = 0
    open_request: int | None = None  # a failed attempt that the next one makes good
    facts: list[tuple[int, str, object]] = field(default_factory=list)

    def note(self, at_us: int, fact: object) -> None:
        self.facts.append((at_us, "note", fact))

    def write(self) -> None:
        for _, kind, fact in sorted(self.facts, key=lambda row: row[0]):
            getattr(self.journal, f"append_{kind}")(fact)


def _fleet(id: int, at_us: int, *, healthy: bool) -> Snapshot:
    pool = Pool(
        name="own", models=frozenset({"m"}), capabilities=frozenset(), context_tok=4096, privacy="private",
        healthy=healthy, slots=4, charge_in_nusd_per_mtok={}, charge_out_nusd_per_mtok={},
        prefill_tok_per_s=1000.0, decode_tok_per_s=100.0,
    )  # fmt: skip
    return Snapshot(id, at_us, msgspec.msgpack.encode(Fleet(id=id, at_us=at_us, pools=(pool,))))


def _fates(life: Life) -> list[str]:
    """Return what becomes of each attempt: losses of each kind are dealt out evenly."""
    count = len(life.busy) * EACH
    fates = [""] * count
    kinds = [(name, getattr(life, name)) for name in ("late", "failed", "aborted", "retried")]
    at = 0
    for offset, (name, many) in enumerate(kinds):
        for n in range(many):
            at = (n * count // many + 2 + 4 * offset) % count
            while fates[at] or (name == "retried" and fates[(at + 1) % count]):
                at = (at + 1) % count
            fates[at] = name
            if name == "retried":
                fates[(at + 1) % count] = "again"
    return fates


def write(folder: Path, life: Life) -> Home:
    """Write the life's journal into an empty folder."""
    home = Home(folder)
    home.create()
    journal = Journal(home.journal, kind="gateway", worker=0)
    told = _Told(journal)
    told.note(BEGIN, _fleet(1, BEGIN, healthy=True))
    at, each = float(BEGIN), len(life.busy)
    fates = _fates(life)
    pieces = 3 if life.down_s else 0
    for n, rate in enumerate(life.busy):
        if pieces and n % (each // pieces) == 1 and n // (each // pieces) < pieces:
            told.note(round(at), _fleet(2 * n + 2, round(at), healthy=False))
            at += life.down_s / pieces * S
            told.note(round(at), _fleet(2 * n + 3, round(at), healthy=True))
        queued = life.queue_s / each * S
        network = life.network_s / each * S
        left = at + queued
        at = left + network
        for i in range(EACH):
            _attempt(
                told, fates[n * EACH + i], rate, start=at, left=left if i == 0 else at,
                queued=queued if i == 0 else 0.0, life=life,
            )  # fmt: skip
            at += SEGMENT_S / EACH * S
        if n + 1 < each:  # between two segments
            at += life.idle_s / (each - 1) * S
    at += life.over_s * S
    told.note(round(at), _fleet(10_000, round(at), healthy=True))
    told.write()
    journal.close()
    return home


def _attempt(
    told: _Told, fate: str, rate: int, *, start: float, left: float, queued: float, life: Life
) -> None:
    told.seq += 1
    seq, took = told.seq, SEGMENT_S / EACH * S
    again = told.open_request if fate == "again" else None
    told.open_request = seq if fate == "retried" else None
    end_us, left_us = round(start + took), round(left)
    waited_us = round(1.5 * S) if fate == "late" else round(queued)
    arrived_us = left_us - waited_us
    told.facts.append(
        (
            left_us,
            "intent",
            Intent(
                seq, again or seq, 1 if again else 0, left_us, (1, 2, 3), "own", "m", "chat", True, 100, 100,
                1_000, 1, 1, terms=PROMISE if life.promised else None, queued_us=round(queued),
            ),
        )
    )  # fmt: skip
    status = {"failed": "failed", "retried": "failed", "aborted": "aborted"}.get(fate, "finished")
    told.facts.append(
        (
            end_us,
            "end",
            End(
                seq, end_us, status, Usage(0, round(rate * took / S)), "measured", 1, 1,  # type: ignore[arg-type]
                ttft_us=round(start) - arrived_us, duration_us=end_us - arrived_us, started_us=left_us,
                queue_us=0 if life.tells else None, prefill_us=0 if life.tells else None,
                decode_us=round(took) if life.tells else None,
            ),
        )
    )  # fmt: skip


def read(folder: Path, life: Life) -> Seen:
    """Write the life and read it again as `wattmill efficiency` does."""
    home = write(folder, life)
    return seen(home, since_us=0, until_us=BEGIN + 10**10, env={})
