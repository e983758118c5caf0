"""The factory's own witness: once a second, joules of the host and the engines' own token counters.

A thread of the supervisor with a journal of its own, so that what it saw survives any other process.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from wattmill.models.engines.adapter import ADAPTERS
from wattmill.ports import Clock, Journal
from wattmill.power.live.cpu import CpuWatch, Processes
from wattmill.power.live.host import HostMeter
from wattmill.power.spec import HostPower
from wattmill.units import UJ_PER_J, US_PER_S
from wattmill.vocab.fact import EngineCount, MeterWindow

_SAME_AGAIN_S = 5.0


class EngineTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One engine whose counters are read. `pid` is None for engines that this machine does not run."""

    pool: str
    adapter: str
    root_url: str  # scheme and authority, without "/v1"
    headers: tuple[tuple[str, str], ...] = ()
    pid: int | None = None
    instance: str  # changes when the engine restarts: its counters begin again at zero
    joules_known: bool = True  # False for a stand-in: a provider would not tell its joules


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """Mean power of the last window, in watts."""

    host_w: float
    idle_w: float
    other_w: float  # of no request: the factory's own processes while nobody is served, other programs
    by_pool_w: dict[str, float]
    source: str


class Sampler(threading.Thread):
    """Reads `targets()` each second until `finish`."""

    def __init__(
        self,
        *,
        host: HostPower,
        journal: Journal,
        clock: Clock,
        targets: Callable[[], list[EngineTarget]],
        services: Callable[[], Sequence[int]] = tuple,
        ended: Callable[[], Mapping[int, float]] = dict,
        period_s: float = 1.0,
    ) -> None:
        super().__init__(name="sampler", daemon=True)
        self._cpu = CpuWatch()
        self._meter = HostMeter(host)
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
            self.sample()
        self._last_count.clear()  # the last word of each engine is always written
        self.sample()

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
        window = self._meter.window(use, now_s=self._clock.now(), wall_us=self._clock.wall_us())
        if window is not None:
            self._journal.append_note(window)
            self.power = _power(window)

    def _is_news(self, count: EngineCount) -> bool:
        """Whether it says something new. The same again is worth a record every few seconds: the books
        believe a reading only if nothing was on its way to the engine at its instant."""
        last = self._last_count.get(count.pool)
        if last is None or self._clock.now() - self._told_s[count.pool] >= _SAME_AGAIN_S:
            return True
        return msgspec.structs.replace(last, at_us=count.at_us) != count


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
    )


def _power(window: MeterWindow) -> Power:
    seconds = (window.end_us - window.start_us) / US_PER_S or 1.0
    watts = 1.0 / UJ_PER_J / seconds
    return Power(
        host_w=window.total_uj * watts,
        idle_w=window.idle_uj * watts,
        other_w=(window.other_uj + window.service_uj + window.foreign_uj) * watts,
        by_pool_w={pool: uj * watts for pool, uj in window.shares_uj.items()},
        source=window.source,
    )
