"""The declared meters, read about once a second, each in windows of its own, as the books want them."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from wattmill.ports import Meter
from wattmill.power import tree
from wattmill.power.counters import GAP_PERIODS, Span, span
from wattmill.power.live.cpu import CpuUse
from wattmill.power.model import split_by_cpu
from wattmill.power.spec import MeterConfig
from wattmill.units import US_PER_S
from wattmill.vocab.fact import MeterWindow
from wattmill.vocab.meter import MeterError, Reading
from wattmill.vocab.usage import Provenance

_KEEP_S = 600.0
_SHORT_TIMES, _SHORT_WINDOWS = 5, 20  # of what the meters below see, so many windows in a row: it never will
_MOST_USES = 3_600  # CPU times that wait for a meter that is silent


class Point(NamedTuple):
    """What a meter has seen from its beginning to an instant."""

    t_s: float
    wall_us: int
    uj: int
    event: str  # of what lies between this point and the one before
    known: bool  # whether the energy from the point before to this one is


class Trace:
    """One meter's readings as a curve of energy that only rises; and what it has not been asked for yet."""

    def __init__(self, config: MeterConfig, meter: Meter) -> None:
        self.config, self.meter = config, meter
        self.points: list[Point] = []
        self.closed = 0  # points up to this one lie in windows that are told
        self.carry_uj = 0
        self.owes = 0  # windows in a row in which it owed much to the meters below it
        self.missed: list[tuple[Trace, float, float]] = []  # (child, from, to) that were counted as its own
        self.use: list[CpuUse] = []  # CPU times since the last window
        self.trouble = ""  # why it is silent now
        self.failures = 0
        self.odd = ""  # what was odd about the time before the next window: no window of its own tells it
        self._last: dict[str, Reading] = {}
        self._moved_s: dict[str, float] = {}  # when each counter's figure last changed
        self._fell_from: dict[str, Reading] = {}  # last figures of counters that were taken to begin again
        self._doubts = False

    def read(self, *, t_s: float, wall_us: int) -> None:
        """Ask once. A meter that cannot be read leaves a gap and says why."""
        try:
            self.add(self.meter.read(t_s=t_s), t_s=t_s, wall_us=wall_us)
        except Exception as error:  # noqa: BLE001 - the boundary to what others wrote; it must not end the sampler
            self.trouble, self.failures = _words(error), self.failures + 1
            return
        self.trouble = ""

    def add(self, readings: Sequence[Reading], *, t_s: float, wall_us: int) -> None:
        at_s = max((reading.t_s for reading in readings), default=t_s)
        if self.points and at_s <= self.points[-1].t_s:
            return  # the same as before
        uj, event, known = 0, "", bool(self.points)
        for reading in readings:
            before = self._last.get(reading.counter)
            if before is None:
                known = False
                continue
            found = self._span(before, reading)
            event = found.event or event
            known = known and found.uj is not None
            uj += found.uj or 0
        if "reset" in event and not self._doubts:
            self._doubts = True  # one low figure is more often a stammer: its next one says which it was
            return
        self._doubts = False
        if self.points and {reading.counter for reading in readings} != set(self._last):
            known, event = False, event or "gap"  # a chip that came or went: the sum is of other things
        for reading in readings:
            before = self._last.get(reading.counter)
            if before is None or before.energy_uj != reading.energy_uj:
                self._moved_s[reading.counter] = reading.t_s
            if before is not None and (before.energy_uj or 0) > (reading.energy_uj or 0):
                self._fell_from[reading.counter] = before
        self._last = {reading.counter: reading for reading in readings}
        seen_uj = self.points[-1].uj if self.points else 0
        wall = wall_us - round((t_s - at_s) * US_PER_S)
        self.points.append(Point(at_s, wall, seen_uj + uj if known else seen_uj, event, known))

    def _span(self, before: Reading, reading: Reading) -> Span:
        """Return what a counter says. One that said too little for some seconds and is back where it was
        never began again: it goes on from where it had fallen."""
        spec = self.meter.spec
        fell = self._fell_from.get(reading.counter)
        if fell is not None and fell.energy_uj is not None and reading.energy_uj is not None:
            soon = reading.t_s - before.t_s <= GAP_PERIODS * spec.period_s
            if soon and 2 * (before.energy_uj or 0) < fell.energy_uj <= reading.energy_uj:
                counted_uj = before.energy_uj or 0
                return Span(max(0, reading.energy_uj - fell.energy_uj - counted_uj), "gap")
            if reading.energy_uj > fell.energy_uj:
                del self._fell_from[reading.counter]
        still_s = before.t_s - self._moved_s.get(reading.counter, before.t_s)
        return span(before, reading, period_s=spec.period_s, max_w=spec.max_w, still_s=still_s)

    def seen_uj(self, t_s: float) -> int | None:
        """Return what it had seen at an instant between two readings; None outside of them, or in a gap."""
        place = bisect.bisect_left(self.points, t_s, key=lambda point: point.t_s)
        if place == len(self.points):
            return None
        after = self.points[place]
        if after.t_s == t_s:
            return after.uj
        if place == 0 or not after.known:
            return None
        before = self.points[place - 1]
        share = (t_s - before.t_s) / (after.t_s - before.t_s)
        return before.uj + round((after.uj - before.uj) * share)

    def forget(self, before_s: float) -> None:
        drop = 0
        while drop < self.closed and self.points[drop].t_s < before_s:
            drop += 1
        del self.points[:drop]
        self.closed -= drop


class MeterBank:
    """Reads every declared meter and closes its windows, parents without what their children saw."""

    def __init__(self, meters: Sequence[tuple[MeterConfig, Meter]]) -> None:
        self.traces = {config.name: Trace(config, meter) for config, meter in meters}
        configs = [config for config, _ in meters]
        self._below = tree.children(configs)
        self._pools = {c.name: tree.pools_below({m.name: m for m in configs}, c.name) for c in configs}

    @property
    def covers_cpu(self) -> bool:
        """Whether some meter sees this machine's CPU: then the host model must not be added to it."""
        return any(
            _by_cpu(t.config, self._below[n]) or t.config.level != "chip" for n, t in self.traces.items()
        )

    def sample(self, use: CpuUse | None, *, t_s: float, wall_us: int) -> list[MeterWindow]:
        """Read what is due and return the windows that this closes, the oldest first."""
        for trace in self.traces.values():
            last = trace.points[-1].t_s if trace.points else None
            if last is None or t_s - last >= 0.9 * trace.config.period_s:
                trace.read(t_s=t_s, wall_us=wall_us)
            if use is not None:
                trace.use = [*trace.use[-_MOST_USES:], use]
        windows = [w for name in self.traces for w in self._close(name, t_s)]
        for trace in self.traces.values():
            trace.forget(t_s - _KEEP_S)
        return sorted(windows, key=lambda window: window.end_us)

    def _close(self, name: str, now_s: float) -> list[MeterWindow]:
        trace = self.traces[name]
        windows: list[MeterWindow] = []
        while trace.closed + 1 < len(trace.points):
            before, after = trace.points[trace.closed], trace.points[trace.closed + 1]
            below = [self.traces[child] for child in self._below[name]]
            patience_s = 2 * GAP_PERIODS * max([t.config.period_s for t in (trace, *below)])
            ready = all(t.points and t.points[-1].t_s >= after.t_s for t in below)
            if not ready and now_s - after.t_s < patience_s:
                break  # a child's next reading says what it saw until then
            trace.closed += 1
            use, trace.use = trace.use, []
            if after.known:
                windows.append(self._window(trace, before, after, below, use))
                trace.odd = ""
            else:
                trace.odd = after.event or trace.odd
        return windows

    @staticmethod
    def _make_good(trace: Trace) -> None:
        """Take back what a child turned out to have seen while it was silent: its own windows hold it now."""
        still: list[tuple[Trace, float, float]] = []
        for child, start_s, end_s in trace.missed:
            late_uj = _between(child, start_s, end_s)
            if late_uj is not None:
                trace.carry_uj -= late_uj
            elif child.points and child.points[-1].t_s < end_s + _KEEP_S:
                still.append((child, start_s, end_s))
        trace.missed = still[-_MOST_USES:]

    def _window(
        self, trace: Trace, before: Point, after: Point, below: Sequence[Trace], use: Sequence[CpuUse]
    ) -> MeterWindow:
        config, spec = trace.config, trace.meter.spec
        seconds = after.t_s - before.t_s
        seen = [_between(t, before.t_s, after.t_s) for t in below]
        self._make_good(trace)
        trace.missed += [
            (t, before.t_s, after.t_s) for t, uj in zip(below, seen, strict=True) if uj is None and t.points
        ]
        part = tree.own_part(
            after.uj - before.uj,
            [uj for uj in seen if uj is not None],
            idle_w=config.idle_w,
            below_idle_w=[t.config.idle_w for t, uj in zip(below, seen, strict=True) if uj is not None],
            seconds=seconds,
            carry_uj=trace.carry_uj,
        )
        trace.carry_uj = part.carry_uj
        event = after.event or trace.odd or ("part" if None in seen else "")
        much = -part.carry_uj > _SHORT_TIMES * sum(uj for uj in seen if uj is not None)
        trace.owes = trace.owes + 1 if part.carry_uj < 0 and much else 0
        if trace.owes >= _SHORT_WINDOWS:  # no matter of instants any more
            event = event or "short"
        provenance: Provenance = spec.provenance
        if below and any(t.meter.spec.provenance != "measured" for t in below):
            provenance = "estimated"
        source = spec.source + (f", less {', '.join(t.config.name for t in below)}" if below else "")
        dynamic_uj = part.total_uj - part.idle_uj
        shares: dict[str, int] = {}
        service = foreign = overhead = other = 0
        pools = self._pools[config.name]
        if config.level in ("rack", "site"):
            overhead = dynamic_uj
        elif _by_cpu(config, self._below[config.name]):
            split = split_by_cpu(
                part.total_uj,
                part.idle_uj,
                busy_cpu_s=sum(u.busy_s for u in use),
                cpu_s_by_owner=_sums(use),
                service_cpu_s=sum(u.service_s for u in use),
                rest_known=all(u.rest_known for u in use),
            )
            shares, service, foreign, other = (
                split.shares_uj, split.service_uj, split.foreign_uj, split.other_uj,
            )  # fmt: skip
        elif below:
            shares, service = dict.fromkeys(pools, 0), dynamic_uj  # the host around its chips
        else:
            shares = {"|".join(config.pools): dynamic_uj}
        return MeterWindow(
            meter=config.name, start_us=before.wall_us, end_us=max(after.wall_us, before.wall_us),
            total_uj=part.total_uj, idle_uj=part.idle_uj, shares_uj=shares, other_uj=other,
            provenance=provenance, source=source, service_uj=service, foreign_uj=foreign,
            overhead_uj=overhead, parent=config.parent or "", resolution_uj=spec.resolution_uj or 0,
            event=event,
        )  # fmt: skip


def open_bank(
    configs: Sequence[MeterConfig], opened: Callable[[MeterConfig], Meter]
) -> tuple[MeterBank, dict[str, str]]:
    """Open what can be opened; return the bank and why the others cannot, by name.

    A meter whose parent cannot be opened stands alone; one whose child cannot sees the child's joules too.
    """
    found: dict[str, tuple[MeterConfig, Meter]] = {}
    troubles: dict[str, str] = {}
    for config in configs:
        try:
            found[config.name] = (config, opened(config))
        except Exception as error:  # noqa: BLE001 - the same boundary: one meter must not stop the factory
            troubles[config.name] = f"meter {config.name!r}: {_words(error)}"
    whole: list[tuple[MeterConfig, Meter]] = []
    for config, meter in found.values():
        whole.append((_under({c.name: c for c in configs}, config, found), meter))
    return MeterBank(whole), troubles


def _words(error: Exception) -> str:
    """Return what went wrong: a meter's own words, or of a defect its kind too."""
    return str(error) if isinstance(error, MeterError) else f"{type(error).__name__}: {error}"


def _under(
    configs: Mapping[str, MeterConfig], config: MeterConfig, found: Mapping[str, object]
) -> MeterConfig:
    """Return `config` below the nearest meter above it that is there."""
    parent = config.parent
    while parent is not None and parent not in found:
        parent = configs[parent].parent if parent in configs else None
    return config if parent == config.parent else msgspec.structs.replace(config, parent=parent)


def _by_cpu(config: MeterConfig, below: Sequence[str]) -> bool:
    """A meter of this machine that names no pool and has none below it: its joules go by CPU time."""
    return config.level in ("chip", "node") and not config.pools and not below


def _sums(use: Sequence[CpuUse]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for one in use:
        for pool, seconds in one.by_pool.items():
            sums[pool] = sums.get(pool, 0.0) + seconds
    return sums


def _between(trace: Trace, start_s: float, end_s: float) -> int | None:
    first, last = trace.seen_uj(start_s), trace.seen_uj(end_s)
    return None if first is None or last is None else last - first
