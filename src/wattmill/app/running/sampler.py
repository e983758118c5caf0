"""The factory's own witness: once a second, joules of the host and the engines' own token counters.

A thread of the supervisor with a journal of its own, so that what it saw survives any other process.
"""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.ports import Clock, Journal
from wattmill.power.live.bank import MeterBank
from wattmill.power.live.cpu import CpuWatch, Processes
from wattmill.power.live.host import HostMeter
from wattmill.power.spec import HostPower
from wattmill.units import UJ_PER_J, US_PER_S
from wattmill.vocab.fact import EngineCount, MeterWindow

_log = logging.getLogger("wattmill.sampler")

_SAME_AGAIN_S = 5.0
_FRESH_US = 30 * US_PER_S  # a meter that is silent for longer is left out of the power that is shown


class EngineTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One engine whose counters are read. `pid` is None for engines that this machine does not run."""

    pool: str
    adapter: str
    root_url: str  # scheme and authority, without "/v1"
    headers: tuple[tuple[str, str], ...] = ()
    pid: int | None = None
    instance: str  # changes when the engine restarts: its counters begin again at zero
    since_us: int = 0  # when this life of it began
    joules_known: bool = True  # False for a stand-in: a provider would not tell its joules


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """Mean power of the last window, in watts."""

    host_w: float
    idle_w: float
    rest_w: dict[str, float]  # of no request, by the accounts of the books: service, foreign, overhead ...
    by_pool_w: dict[str, float]
    source: str
    provenance: str


class Sampler(threading.Thread):
    """Reads `targets()` each second until `finish`."""

    def __init__(
        self,
        *,
        host: HostPower,
        journal: Journal,
        clock: Clock,
        targets: Callable[[], list[EngineTarget]],
        meters: MeterBank | None = None,
        carbon: Callable[[int], tuple[int, str] | None] = lambda _at_us: None,
        services: Callable[[], Sequence[int]] = tuple,
        ended: Callable[[], Mapping[int, float]] = dict,
        period_s: float = 1.0,
    ) -> None:
        super().__init__(name="sampler", daemon=True)
        self._cpu = CpuWatch()
        self._bank = meters
        self._carbon = carbon
        self._host = None if meters is not None and meters.covers_cpu else HostMeter(host)
        self._last: dict[str, MeterWindow] = {}
        self._journal = journal
        self._clock = clock
        self._targets = targets
        self._services = services
        self._ended = ended
        self._period_s = period_s
        self._ending = threading.Event()
        self._last_count: dict[str, EngineCount] = {}
        self._told_s: dict[str, float] = {}
        self.power: Power | None = None

    def run(self) -> None:
        while not self._ending.wait(self._period_s):
            self._look()
        self._last_count.clear()  # the last word of each engine is always written
        self._look()

    def _look(self) -> None:
        try:
            self.sample()
        except Exception:  # noqa: BLE001 - the boundary of the thread: one defect must not end the only witness
            self.power = None  # nobody is shown an old figure for a new one
            _log.exception("a look at meters and counters failed")

    def finish(self) -> None:
        """Take one last reading of everything and stop."""
        self._ending.set()
        self.join()

    def sample(self) -> None:
        targets = self._targets()
        self._sample_energy(targets)
        for target in targets:
            count = read_counters(target, at_us=self._clock.wall_us())
            if count is not None and self._is_news(count):
                self._journal.append_note(count)
                self._last_count[target.pool] = count
                self._told_s[target.pool] = self._clock.now()

    def _sample_energy(self, targets: list[EngineTarget]) -> None:
        pids = {t.pool: t.pid for t in targets if t.pid is not None and t.joules_known}
        use = self._cpu.read(Processes(pids, tuple(self._services()), self._ended()))
        now_s, wall_us = self._clock.now(), self._clock.wall_us()
        windows = [] if self._bank is None else self._bank.sample(use, t_s=now_s, wall_us=wall_us)
        modelled = self._host.window(use, now_s=now_s, wall_us=wall_us) if self._host is not None else None
        for window in (*windows, *((modelled,) if modelled is not None else ())):
            grams = self._carbon(window.end_us)
            if grams is not None:
                window = msgspec.structs.replace(window, carbon_ug_per_kwh=grams[0], carbon_source=grams[1])
            self._journal.append_note(window)
            self._last[window.meter] = window
        self.power = _power([w for w in self._last.values() if wall_us - w.end_us < _fresh_us(w)])

    def _is_news(self, count: EngineCount) -> bool:
        """Whether it says something new. The same again is worth a record every few seconds: the books
        believe a reading only if nothing was on its way to the engine at its instant."""
        last = self._last_count.get(count.pool)
        if last is None or self._clock.now() - self._told_s[count.pool] >= _SAME_AGAIN_S:
            return True
        return msgspec.structs.replace(last, at_us=count.at_us) != count


def _fresh_us(window: MeterWindow) -> int:
    """Return for how long a window speaks of now: a slow meter's for longer."""
    return max(_FRESH_US, 3 * (window.end_us - window.start_us))


def read_counters(target: EngineTarget, *, at_us: int, timeout_s: float = 0.5) -> EngineCount | None:
    """Return what an engine's counters say now, or None if it has none or does not answer."""
    adapter = ADAPTERS[target.adapter]
    if adapter.counters_path is None:
        return None
    parts = urlsplit(target.root_url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", adapter.counters_path, headers=dict(target.headers))
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    counters = adapter.counters(text) if answer.status == 200 else None
    if counters is None or counters.prompt_tok is None or counters.output_tok is None:
        return None
    return EngineCount(
        pool=target.pool,
        instance=target.instance,
        at_us=at_us,
        prompt_tok=counters.prompt_tok,
        output_tok=counters.output_tok,
        idle=counters.running == 0,
        since_us=target.since_us,
    )


def _power(windows: Sequence[MeterWindow]) -> Power | None:
    """Return what all meters together say; windows of different meters hold no joule twice."""
    if not windows:
        return None
    host = idle = 0.0
    rest = dict.fromkeys(("service", "foreign", "overhead", "unattributed"), 0.0)
    by_pool: dict[str, float] = {}
    for window in windows:
        seconds = (window.end_us - window.start_us) / US_PER_S or 1.0
        watts = 1.0 / UJ_PER_J / seconds
        host += window.total_uj * watts
        idle += window.idle_uj * watts
        rest["service"] += window.service_uj * watts
        rest["foreign"] += window.foreign_uj * watts
        rest["overhead"] += window.overhead_uj * watts
        rest["unattributed"] += window.other_uj * watts
        for pool, uj in window.shares_uj.items():
            by_pool[pool] = by_pool.get(pool, 0.0) + uj * watts
    kinds = {window.provenance for window in windows}
    return Power(
        host_w=host,
        idle_w=idle,
        rest_w=rest,
        by_pool_w=by_pool,
        source="; ".join(f"{w.meter}: {w.source}" if len(windows) > 1 else w.source for w in windows),
        provenance=kinds.pop() if len(kinds) == 1 else "modelled" if "modelled" in kinds else "estimated",
    )
