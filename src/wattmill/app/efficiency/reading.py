"""A period of a factory as efficiency takes it: what happened from the journal, joules from the books."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from wattmill.app.declared.plan import Place, places
from wattmill.app.declared.pool_settings import OwnedCost
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.twin_settings import ColdStartTimes
from wattmill.app.efficiency.spans import Span, both, union
from wattmill.app.efficiency.spec import BEST_BACK_S, GAP_S, Attempt, Ended, Joules, Overhead, PlaceSeen, Seen
from wattmill.app.home import Home
from wattmill.app.running import home_lock
from wattmill.ledger import epoch as epochs
from wattmill.ledger.book import opened
from wattmill.ledger.frame import BadHeader, Record, segment_name
from wattmill.ledger.promise import NO_PLACE, kept
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.ledger.stores.sqlite_schema import LINE_BITS
from wattmill.ledger.tail import START, Position, Tail
from wattmill.scheduling.spec import Fleet
from wattmill.units import US_PER_S, nusd_from_usd
from wattmill.vocab.fact import End, Intent, MeterWindow, Progress, Refused, Snapshot
from wattmill.vocab.ids import Epoch, request_id
from wattmill.vocab.usage import Provenance

_fleet = msgspec.msgpack.Decoder(Fleet).decode
_LATE_WINDOW_US = 300 * US_PER_S  # windows are booked in their order, give or take
_SURE: tuple[Provenance, ...] = ("measured", "modelled", "estimated", "declared", "unknown")


def seen(
    home: Home,
    *,
    since_us: int,
    until_us: int,
    settings: Settings | None = None,
    overheads: Sequence[Overhead] = (),
    env: Mapping[str, str] = os.environ,
) -> Seen:
    """Return what happened between two instants.

    The period begins with the first record, and ends with the last one if the factory does not run: before
    and after there is nothing to know. A factory without a declaration (a journal alone) has each place that
    its journal names, paid by an hour of unknown price.
    """
    horizon_us = since_us - round(BEST_BACK_S * US_PER_S)
    lives = [_life(home.journal / name, horizon_us, until_us) for name in epochs.names(home.journal)]
    running = home_lock.running(home) is not None
    firsts = [life.first_us for life in lives if life.last_us]
    last_us = max((life.last_us for life in lives), default=until_us)
    start_us = max([since_us, min(firsts, default=until_us)])
    end_us = until_us if running else min(until_us, last_us)
    end_us = max(end_us, start_us)
    # The last gateway to die was there until the meters fell silent: it has nothing to say while it is idle.
    gateways = [life for life in lives if life.gateway]
    youngest = max(gateways, key=lambda life: life.last_us, default=None)
    if youngest is not None:
        youngest.lasted_us = end_us if youngest.alive else max(youngest.last_us, last_us)
    energy, joules = _booked(home, start_us, end_us)
    every = sorted(
        (a for life in gateways for a in life.attempts(energy) if a.waits_us < end_us),
        key=lambda a: (a.left_us, a.id, a.number),
    )
    return Seen(
        start_us=start_us,
        end_us=end_us,
        attempts=tuple(a for a in every if a.end_us > start_us),
        earlier=tuple(a for a in every if a.end_us <= start_us),
        places=tuple(_places(settings, env, gateways, start_us, end_us)),
        joules=joules,
        overheads=tuple(overheads),
        tariff_nusd_per_kwh=None if settings is None else nusd_from_usd(settings.host.tariff_usd_per_kwh),
        refused=sum(1 for life in gateways for at in life.refused_us if start_us <= at < end_us),
    )


class _Life:
    """One epoch: a worker's or a meter's journal from its beginning to where it stands."""

    def __init__(self, name: str, *, alive: bool, horizon_us: int, until_us: int) -> None:
        self.name = name
        self.horizon_us = horizon_us
        self.begun_before = False  # older segments were left unread
        self.alive = alive
        self.until_us = until_us
        self.first_us = 0
        self.last_us = 0
        self.lasted_us = 0
        self.gateway = False
        self.refused_us: list[int] = []
        self._intents: dict[int, Intent] = {}
        self._progress: dict[int, Progress] = {}
        self._ended: list[tuple[Intent, End]] = []
        self._views: list[tuple[int, dict[str, bool]]] = []

    def take(self, fact: Record) -> None:
        at_us = fact.end_us if isinstance(fact, MeterWindow) else getattr(fact, "at_us", 0)
        if at_us > self.until_us:
            return
        if at_us:
            known_us = self.horizon_us if self.begun_before else at_us
            self.first_us = min(self.first_us or known_us, known_us)
            self.last_us = max(self.last_us, at_us)
        match fact:
            case Intent():
                self._intents[fact.seq] = fact
            case End():
                intent = self._intents.pop(fact.seq, None)
                self._progress.pop(fact.seq, None)
                if intent is not None and at_us >= self.horizon_us:
                    self._ended.append((intent, fact))
            case Progress():
                self._progress[fact.seq] = fact
            case Snapshot():
                self.gateway = True
                fleet = _fleet(fact.fleet)
                self._views.append((at_us, {pool.name: pool.healthy for pool in fleet.pools}))
            case Refused() if fact.code in NO_PLACE:
                self.refused_us.append(at_us)
            case _:
                return
        self.gateway = True

    def complete(self) -> None:
        """All is read: the first view held before it, too, if older ones were left unread."""
        if self.begun_before and self._views:
            first_us, view = self._views[0]
            self._views.insert(0, (min(self.horizon_us, first_us), view))

    def pools(self) -> list[str]:
        """Return the places that its views or its attempts name, in their order."""
        names = [name for _, view in self._views for name in view]
        names += [intent.pool for intent, _ in self._ended]
        return list(dict.fromkeys(names))

    def healthy(self, pool: str) -> list[Span]:
        """Return when this worker saw `pool` healthy: each view holds until the next, the last to its end."""
        ends = [at for at, _ in self._views[1:]] + [max(self.last_us, self.lasted_us)]
        return [(at, end) for (at, view), end in zip(self._views, ends, strict=True) if view.get(pool, False)]

    def viewed(self, pool: str) -> bool:
        return any(pool in view for _, view in self._views)

    def attempts(self, energy: Mapping[tuple[str, int], int]) -> Iterator[Attempt]:
        for intent, end in self._ended:
            yield self._attempt(intent, end, energy.get((self.name, intent.seq)))
        for intent in self._intents.values():
            yield self._without_end(intent, energy.get((self.name, intent.seq)))

    def _attempt(self, intent: Intent, end: End, energy_uj: int | None) -> Attempt:
        left_us = max(end.started_us, intent.at_us) if end.started_us else intent.at_us
        arrived_us = end.at_us - end.duration_us
        first_us = None if end.ttft_us is None else min(max(arrived_us + end.ttft_us, left_us), end.at_us)
        works_us, queues_us, told = _engine_times(left_us, end)
        terms = intent.terms
        promised = terms is not None and (
            terms.promise_ttft_s is not None or terms.promise_tok_per_s is not None
        )
        # An estimate of a prompt that nobody saw answered is a bound for the caller's money, and no work.
        usage = None if end.usage_source == "estimated" and end.ttft_us is None else end.usage
        return Attempt(
            id=request_id(Epoch(self.name), intent.request),
            number=intent.attempt,
            pool=intent.pool,
            tier="" if terms is None else terms.tier,
            waits_us=intent.at_us - intent.queued_us if intent.queued_us else left_us,
            left_us=left_us,
            queues_us=queues_us,
            works_us=works_us,
            first_us=first_us,
            end_us=end.at_us,
            prefill_tok=0 if usage is None else usage.prompt_tok - usage.cached_tok,
            output_tok=0 if usage is None else usage.output_tok,
            status=end.status,
            kept=kept(opened(intent), end).whole if promised else None,
            energy_uj=energy_uj,
            cost_nusd=end.cost_nusd,
            charge_nusd=end.charge_nusd,
            model=intent.model,
            engine_told=told,
        )

    def _without_end(self, intent: Intent, energy_uj: int | None) -> Attempt:
        """An attempt that still runs, or whose end nobody saw: what was seen of its answer counts."""
        progress = self._progress.get(intent.seq)
        status: Ended = "running" if self.alive else "in_doubt"
        seen_us = intent.at_us if progress is None else progress.at_us
        terms = intent.terms
        return Attempt(
            id=request_id(Epoch(self.name), intent.request),
            number=intent.attempt,
            pool=intent.pool,
            tier="" if terms is None else terms.tier,
            waits_us=intent.at_us - intent.queued_us,
            left_us=intent.at_us,
            queues_us=intent.at_us,
            works_us=intent.at_us,
            first_us=intent.at_us,
            end_us=self.until_us if self.alive else seen_us,
            prefill_tok=0,
            output_tok=0 if progress is None else progress.output_tok,
            status=status,
            kept=None,
            energy_uj=energy_uj,
            model=intent.model,
        )


def _engine_times(left_us: int, end: End) -> tuple[int, int, bool]:
    """Return when the engine began to work, when it had the request, and whether it told.

    What is neither its queue nor its work was spent on the way; it is taken to lie before the work.
    """
    if end.prefill_us is None or end.decode_us is None:
        return left_us, left_us, False
    works_us = min(max(end.at_us - end.prefill_us - end.decode_us, left_us), end.at_us)
    return works_us, max(works_us - (end.queue_us or 0), left_us), True


def _life(folder: Path, horizon_us: int, until_us: int) -> _Life:
    alive = epochs.alive(folder)
    life = _Life(folder.name, alive=alive, horizon_us=horizon_us, until_us=until_us)
    tail = Tail(folder, _begin(folder, horizon_us))
    life.begun_before = tail.position.segment > 1
    try:
        while True:
            batch = tail.read(10_000, final=not alive)
            for fact, _, _ in batch.records:
                life.take(fact)
            if batch.at_end:
                life.complete()
                return life
    except BadHeader:
        return life
    finally:
        tail.close()


def _begin(folder: Path, horizon_us: int) -> Position:
    """Return the first segment that was written to after the horizon: those before hold older records."""
    numbers = epochs.segments(folder)
    for number in numbers:
        try:
            written_us = (folder / segment_name(number)).stat().st_mtime_ns // 1_000
        except OSError:
            continue  # swept away meanwhile: it was older
        if written_us >= horizon_us:
            return Position(number, 0)
    return Position(numbers[-1], 0) if numbers else START


# ---- places


def _places(
    settings: Settings | None, env: Mapping[str, str], lives: Sequence[_Life], start_us: int, end_us: int
) -> Iterator[PlaceSeen]:
    declared = {} if settings is None else places(settings, env)
    named = list(dict.fromkeys([*declared, *(pool for life in lives for pool in life.pools())]))
    for name in named:
        up = None
        if any(life.viewed(name) for life in lives):
            whole = [(start_us, end_us)]
            up = tuple(both(union([span for life in lives for span in life.healthy(name)]), whole))
        place = declared.get(name)
        if place is not None and settings is not None:
            yield _declared(settings, place, up)
        elif settings is None:
            yield PlaceSeen(name=name, up=up)


def _declared(settings: Settings, place: Place, up: tuple[Span, ...] | None) -> PlaceSeen:
    cost = place.declared.cost
    owned = isinstance(cost, OwnedCost) and not place.stand_in
    params = [settings.models[m].params for m in place.models if m in settings.models]
    known = [count for count in params if count is not None]
    twin = place.declared.twin
    seen = PlaceSeen(
        name=place.pool,
        up=up,
        owned=owned,
        hourly_nusd=nusd_from_usd(cost.hourly_usd) if isinstance(cost, OwnedCost) and owned else None,
        declared_per_s=cost.decode_tok_per_s if isinstance(cost, OwnedCost) and owned else None,
        flop_per_tok=2.0 * max(known) if known else None,
        gap_s=GAP_S if twin is None or twin.cold_start is None else _start_s(twin.cold_start),
    )
    if twin is None or twin.deployment is None:
        return seen
    from wattmill.app.efficiency.hardware import with_hardware  # the catalogue: only where it is asked for

    return with_hardware(seen, place, twin.deployment, replicas=twin.replicas)


def _start_s(times: ColdStartTimes) -> float:
    weights_s = 0.0 if times.weights_gb is None else times.weights_gb / times.storage_gb_per_s
    image_s = times.image_gb / times.image_gb_per_s
    return times.provisioning_s + image_s + weights_s + times.compile_s + times.warm_up_s


# ---- joules


def _booked(home: Home, start_us: int, end_us: int) -> tuple[dict[tuple[str, int], int], Joules | None]:
    """Return booked joules of attempts by (epoch, seq), and those of all meters over the period."""
    if not home.ledger_db.exists():
        return {}, None
    with Books(home.ledger_db) as books:
        rows = books.db.execute(
            "SELECT e.name, a.seq, g.uj FROM attempt a JOIN energy g ON g.attempt = a.id "
            "JOIN epoch e ON e.id = a.epoch WHERE a.id >= ? AND e.start_us + a.ended_us >= ?",
            (_first_attempt(books.db, start_us), start_us),
        )
        energy = {(epoch, seq): uj for epoch, seq, uj in rows}
        return energy, _joules(books.db, start_us, end_us)


def _first_attempt(db: sqlite3.Connection, since_us: int) -> int:
    """Return an id before which every attempt had ended by `since_us`: they are booked about as they end."""
    low, high = 0, int(db.execute("SELECT ifnull(max(id), 0) FROM attempt").fetchone()[0])
    while low < high:
        middle = (low + high) // 2
        row = db.execute(
            "SELECT a.id, e.start_us + a.ended_us FROM attempt a JOIN epoch e ON e.id = a.epoch "
            "WHERE a.id > ? ORDER BY a.id LIMIT 1",
            (middle,),
        ).fetchone()
        if row is None or row[1] >= since_us - _LATE_WINDOW_US:
            high = middle
        else:
            low = int(row[0])
    return low


def _joules(db: sqlite3.Connection, start_us: int, end_us: int) -> Joules | None:
    """Return the sum of the windows that lie in the period: no joule is in those of two meters."""
    windows: dict[int, int] = {}  # transaction -> microjoules
    said: dict[str, tuple[str, str]] = {}
    rows = db.execute(
        "SELECT tx, m.text, start_us, length_us, total_uj, p.text, s.text "
        "FROM meter_window JOIN name m ON m.id = meter JOIN name p ON p.id = provenance "
        "JOIN name s ON s.id = source ORDER BY tx DESC"
    )
    for tx, meter, at_us, length_us, total_uj, provenance, source in rows:
        if at_us < start_us - _LATE_WINDOW_US:
            break
        if at_us >= start_us and at_us + length_us <= end_us:  # they are short: edges are left to neighbours
            windows[tx] = total_uj
            said.setdefault(meter, (provenance, source))
    if not windows:
        return None
    of = _by_account(db, windows)
    known = [provenance for provenance, _ in said.values()]
    return Joules(
        meter=", ".join(sorted(said)),
        total_uj=sum(windows.values()),
        idle_uj=of.get("idle", 0),
        unattributed_uj=of.get("unattributed", 0),
        service_uj=of.get("service", 0),
        foreign_uj=of.get("foreign", 0),
        overhead_uj=of.get("overhead", 0),
        windows=len(windows),
        provenance=max((p for p in _SURE if p in known), key=_SURE.index, default="unknown"),
        source="; ".join(dict.fromkeys(source for _, source in said.values())),
    )


def _by_account(db: sqlite3.Connection, windows: Collection[int]) -> dict[str, int]:
    """Return where the joules of these windows' transactions went, by the kind of account."""
    sums: dict[str, int] = {}
    rows = db.execute(
        "SELECT p.id >> ?, a.name, p.amount FROM posting p JOIN account a ON a.id = p.account "
        "WHERE p.id >= ? AND p.id < ? AND a.commodity = 'uj'",
        (LINE_BITS, min(windows) << LINE_BITS, (max(windows) + 1) << LINE_BITS),
    )
    for tx, account, amount in rows:
        if tx in windows:
            kind = account.partition(":")[0]
            sums[kind] = sums.get(kind, 0) + amount
    return sums
