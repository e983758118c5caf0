"""The nouns of the board: what `/api/figures` answers and `wattmill status --json` prints."""

from __future__ import annotations

from typing import Literal

import msgspec

from wattmill.app.seeing.figure import Figure
from wattmill.app.seeing.tier_figures import TierView
from wattmill.ledger.stores.control_records import LimitState

Mood = Literal["good", "watch", "act", "unknown"]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence. "act": someone must act now. `help` is the command that says more."""

    mood: Mood
    sentence: str
    help: str | None = None


class LineItem(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of the number line. Its trend is kept under its id."""

    id: str
    label: str
    figure: Figure


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A share of one floor. `share` is 0..1 of the floor's own total; `tone` names a colour of the board."""

    id: str  # "compute/edge", "distribution/4": unique in the tower
    label: str
    tone: str
    share: float
    figure: Figure


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of the tower. Without parts it is drawn as an outline, and `missing` says what is missing."""

    id: str
    number: int | None  # 1 power ... 7 agents; None: the roof
    name: str
    says: str  # what its width is
    total: Figure
    parts: tuple[Part, ...] = ()
    missing: str | None = None
    room: str | None = None


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A ribbon from one part to one of a floor above. Shares are of the two floors' totals."""

    source: str
    target: str
    source_share: float
    target_share: float
    tone: str
    modelled: bool = False


class Place(msgspec.Struct, frozen=True, kw_only=True):
    pool: str
    tone: str
    place: str
    engine: str
    stand_in: bool
    healthy: bool | None
    busy: Figure
    slots: Figure
    power: Figure
    tokens_out: Figure
    tokens_in: Figure
    ttft_p50: Figure
    ttft_p95: Figure
    requests: Figure
    charge: Figure
    cost: Figure
    energy_per_token: Figure
    breaker: str | None = None  # "open", "half_open" or "resting" where a worker says so; None: closed


class Spender(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    parent: int | None
    depth: int
    kind: str
    name: str
    tone: str
    today: Figure
    tokens_today: Figure
    used: Figure
    cap: Figure
    cap_used: Figure
    limits: tuple[LimitState, ...] = ()


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """A limit beside the cap: of another unit, or over a period. Amounts in words, with their unit."""

    node: int
    name: str  # of the spender
    at_most: str  # "60 requests per minute"
    used: str
    reserved: str
    left: str
    share: Figure  # used, of the whole
    resets_us: int | None  # None: never


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is open or paused, or ended a moment ago."""

    node: int
    name: str  # "org/team/key/run"
    label: str | None
    state: str  # "open", "spent", "paused"
    reason: str | None
    opened_us: int
    spent: Figure
    cap: Figure
    cap_used: Figure


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How often something of a closed list happened today."""

    id: str
    label: str
    figure: Figure


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt in a list."""

    id: str
    attempt: int
    at_us: int
    status: str
    pool: str
    tone: str
    model: str
    key: str
    tokens_in: Figure
    tokens_out: Figure
    charge: Figure
    energy: Figure
    ttft: Figure
    duration: Figure
    reason: str | None
    error: str | None


class Process(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    state: str
    pid: int | None
    since_us: int
    restarts: int
    last_exit: str | None
    in_flight: Figure
    cpu: Figure
    rss: Figure


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the board and `wattmill status` show, of one moment."""

    at_us: int
    name: str
    version: str
    running: bool
    started_us: int | None
    gateway_url: str | None
    admin_url: str | None
    health: Health
    line: tuple[LineItem, ...]
    floors: tuple[Floor, ...]
    flows: tuple[Flow, ...]
    power: dict[str, Figure]
    power_source: str
    money: dict[str, Figure]
    books: dict[str, Figure]
    places: tuple[Place, ...]
    spenders: tuple[Spender, ...]
    statuses: tuple[Count, ...]
    refusals: tuple[Count, ...]
    recent: tuple[Row, ...]
    processes: tuple[Process, ...]
    stand_ins: tuple[str, ...]
    limits: tuple[LimitView, ...] = ()  # of the spenders, in their order
    runs: tuple[RunView, ...] = ()  # the newest first
    tiers: tuple[TierView, ...] = ()
    twin: Figure | None = None  # median error of the worst calibration
