"""What the figures are made from: plain values read once from the books, the control database, the
supervisor's state and the workers' sockets. Reading is here, arithmetic is in `figures` and `tower`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from statistics import fmean

import msgspec

from wattmill.app.declared.declaration import restored
from wattmill.app.declared.tier_settings import TierPlan, tier_plans
from wattmill.app.home import Home
from wattmill.app.running import home_lock
from wattmill.app.running.state import FactoryState, read_state
from wattmill.app.running.worker_control import Answer, ask
from wattmill.app.runs.minding import RunLine, all_runs
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import Budget, CapsUnavailable, Node
from wattmill.ledger.stores.sqlite_tiers import TierSums
from wattmill.power.live.proc import process_cpu_s, process_rss_bytes
from wattmill.vocab.budget import Unit

WORKER_TIMEOUT_S = 0.3
RUNS_MAX = 12


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts of one key at one place, summed over a window. Money in nano-dollars."""

    pool: str
    key: int  # node id
    attempts: int
    requests: int  # first attempts: the rest was sent on after a failure
    aborted: int
    errors: int  # failed, or cut at the clamp
    prompt_tok: int
    output_tok: int
    charge_nusd: int
    cost_nusd: int
    status: str = ""  # of vocab.fact.Status if the window is split by it, else ""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts that ended in the last `seconds`, split by status."""

    seconds: float
    cells: list[Cell]


class MeterSum(msgspec.Struct, frozen=True, kw_only=True):
    """Booked meter windows: total = requests + idle + unattributed, in microjoules."""

    seconds: float
    total_uj: int
    idle_uj: int
    unattributed_uj: int
    provenance: str
    source: str

    @property
    def requests_uj(self) -> int:
        return self.total_uj - self.idle_uj - self.unattributed_uj


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Time to first token at one place: nearest-rank quantiles of the last `count` first contents."""

    count: int
    p50_us: int
    p95_us: int


class RecentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt as the books or the journal have it. None: not known (yet)."""

    id: str  # request id
    attempt: int
    at_us: int
    key: int
    pool: str
    model: str
    status: str  # of vocab.fact.Status, or "in flight", "in doubt", "refused"
    stream: bool | None = None
    prompt_tok: int | None = None
    output_tok: int | None = None
    usage_source: str | None = None
    charge_nusd: int | None = None
    cost_nusd: int | None = None
    energy_uj: int | None = None
    ttft_us: int | None = None
    duration_us: int | None = None
    http_status: int | None = None
    error: str | None = None
    reason: str | None = None  # why this place, one sentence


class BookReading(msgspec.Struct, frozen=True, kw_only=True):
    """The books as of one moment. Windows hold attempts that *ended* in them."""

    difference: dict[str, int]  # by commodity: the sum over all accounts, 0 in balanced books
    in_doubt: int
    unmetered: int
    overrun_nusd: int
    lag_s: float | None  # age of the oldest unbooked record; 0 if all is booked
    last_10s: Window
    last_60s: Window
    hour: list[Cell]
    today: list[Cell]  # since midnight UTC
    meter_60s: MeterSum | None
    meter_hour: MeterSum | None
    energy_today_uj: dict[str, int]  # put onto requests, by place
    ttft: dict[str, Times]
    refusals_today: dict[str, int]
    recent: list[RecentRow]
    tiers: list[TierSums] = []  # of the last hour
    overrun_units: dict[Unit, int] = {}  # beyond what was reserved of limits


class WorkerReading(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway worker says of itself; `status` None if it did not answer."""

    number: int
    status: Answer | None
    metrics: Answer | None = None


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """Watts by part: of the last window, or the mean of the readings of the last minute."""

    host_w: float
    idle_w: float
    rest_w: dict[str, float]  # of no place: service, foreign, overhead, unattributed
    by_pool_w: dict[str, float]


class ProcessUse(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel says of one process."""

    cpu_s: float
    rss_bytes: int | None


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment. Each part may be missing: a factory that is down still has books."""

    now_us: int
    running: bool
    state: FactoryState | None
    workers: list[WorkerReading]
    nodes: dict[int, Node]
    budgets: list[Budget]
    books: BookReading | None
    processes: dict[int, ProcessUse] = {}  # by pid
    power_mean: Power | None = None  # of the last minute, where somebody kept the readings
    fault: str | None = None  # why a part is missing
    tiers: dict[str, TierPlan] = {}  # as declared, the lowest first
    runs: list[RunLine] = []  # open or paused, the newest first, `RUNS_MAX` at most
    twin_error: tuple[float, str] | None = None  # worst of the calibrations, and whether "check" or "fit"
    free_bytes: int | None = None  # on the disk of the data folder


def read_workers(home: Home, state: FactoryState | None, *, metrics: bool = False) -> list[WorkerReading]:
    """Ask every worker that has a socket; one that does not answer within 0.3 s is listed with None."""
    numbers = range(state.workers) if state is not None else ()
    return [
        WorkerReading(
            number=n,
            status=ask(home.worker_socket(n), "status", timeout_s=WORKER_TIMEOUT_S),
            metrics=ask(home.worker_socket(n), "metrics", timeout_s=WORKER_TIMEOUT_S) if metrics else None,
        )
        for n in numbers
    ]


def read_control(home: Home, control: Control | None) -> tuple[dict[int, Node], list[Budget]]:
    """Return the tree of spenders and their money; empty if there is no control database yet."""
    if control is None:
        if not home.control_db.exists():
            return {}, []
        with Control(home.control_db) as own:
            return read_control(home, own)
    nodes = control.nodes(runs=False)
    try:
        return nodes, control.summaries(runs=False)
    except CapsUnavailable:  # a shared store that is away: its figures are unknown, the rest is not
        return nodes, []


def read_runs(home: Home, control: Control | None) -> list[RunLine]:
    """Return the runs that are open or paused, the newest first."""
    if control is not None:
        return all_runs(control, limit=RUNS_MAX)
    if not home.control_db.exists():
        return []
    with Control(home.control_db) as own:
        return all_runs(own, limit=RUNS_MAX)


def read_tiers(home: Home, control: Control | None) -> dict[str, TierPlan]:
    """Return the tiers of the declaration that holds."""
    if control is not None:
        config = control.config()
        return tier_plans(restored(config[1]).tiers) if config is not None else {}
    if not home.control_db.exists():
        return {}
    with Control(home.control_db) as own:
        return read_tiers(home, own)


def read_free_bytes(home: Home) -> int | None:
    """Return what is free on the disk of the data folder for this user."""
    try:
        return shutil.disk_usage(home.root).free
    except OSError:
        return None


def is_running(home: Home) -> bool:
    return home_lock.running(home) is not None


def read_processes(state: FactoryState | None) -> dict[int, ProcessUse]:
    """Return CPU time and memory of the factory's processes that are there."""
    found = {}
    for process in state.processes if state is not None else ():
        cpu_s = process_cpu_s(process.pid) if process.pid else None
        if process.pid and cpu_s is not None:
            found[process.pid] = ProcessUse(cpu_s=cpu_s, rss_bytes=process_rss_bytes(process.pid))
    return found


def power_now(state: FactoryState | None) -> Power | None:
    """Return the supervisor's last window, None if nothing was read."""
    if state is None or state.host_w is None or state.idle_w is None or state.rest_w is None:
        return None
    by_pool = {p.pool: p.power_w for p in state.places if p.power_w is not None}
    return Power(host_w=state.host_w, idle_w=state.idle_w, rest_w=state.rest_w, by_pool_w=by_pool)


def mean_power(readings: Sequence[Power]) -> Power | None:
    """Return the mean of readings; a place counts in those readings that have it."""
    if not readings:
        return None
    pools = {
        pool: [p.by_pool_w[pool] for p in readings if pool in p.by_pool_w] for pool in readings[-1].by_pool_w
    }
    return Power(
        host_w=fmean(p.host_w for p in readings),
        idle_w=fmean(p.idle_w for p in readings),
        rest_w={name: fmean(p.rest_w.get(name, 0.0) for p in readings) for name in readings[-1].rest_w},
        by_pool_w={pool: fmean(watts) for pool, watts in pools.items()},
    )


def read_supervisor(home: Home) -> tuple[bool, FactoryState | None]:
    """Return whether a factory runs here, and the last state its supervisor wrote."""
    return is_running(home), read_state(home)
