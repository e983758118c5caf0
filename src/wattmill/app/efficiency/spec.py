"""What efficiency is made of: attempts, places and joules as recorded; stages and losses as they are told."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from wattmill.app.efficiency.spans import Span
from wattmill.vocab.usage import Provenance

PREFILL_WORK, DECODE_WORK = 0.25, 1.0
"""Work of a computed prompt token and of an output token, in output tokens. Declared, the same ratio as the
books split joules with: R* of a place compares hours of unlike work with it."""

BIN_S = 10.0
"""The best batch rate is that of the best stretch of this length."""

BEST_BACK_S = 86_400.0
"""The best rate is looked for in the period and so long before it."""

GAP_S = 300.0
"""A place that nobody asks for longer than this could have been switched off; declared, where its own times
to start are not."""

Ended = Literal["finished", "aborted", "failed", "cut", "in_doubt", "running"]


class Attempt(NamedTuple):
    """One attempt. Instants are microseconds since 1970 UTC."""

    id: str  # of its request
    number: int  # 0: the first attempt of its request
    pool: str
    tier: str
    waits_us: int  # since when it waited at the gate; `left_us` if it did not
    left_us: int  # for its place
    queues_us: int  # reached the engine; `left_us` where the engine does not tell
    works_us: int  # the engine began on it; likewise
    first_us: int | None  # first content; None: there was none
    end_us: int
    prefill_tok: int  # prompt tokens that were computed
    output_tok: int
    status: Ended
    kept: bool | None  # its tier's promise; None: nothing was promised, or nothing could be judged
    energy_uj: int | None  # booked so far
    cost_nusd: int = 0
    charge_nusd: int = 0
    model: str = ""
    engine_told: bool = False  # the engine's own times are known
    accepted: bool | None = None  # nobody tells yet: None


class PlaceSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One place: when it was up, what it is, and what its hours cost."""

    name: str
    up: tuple[Span, ...] | None  # in which a worker saw it healthy; None: no view was kept
    owned: bool = True  # paid by the hour; a bought place is paid by the token
    hourly_nusd: int | None = None
    declared_per_s: float | None = None  # output tokens that it makes when busy; R* where it never worked
    accelerators: int | None = None  # None: not declared, an hour is one of the place
    peak_flop_per_s: float | None = None  # of all its accelerators
    peak_bytes_per_s: float | None = None
    flop_per_tok: float | None = None  # 2 x active parameters
    weight_bytes: float | None = None  # read by each step
    kv_bytes_per_tok: float | None = None  # of context
    gap_s: float = GAP_S
    padding_work: float | None = None  # padded tokens that it computed, as work; None: nobody tells


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """What the site takes for a joule at the meter of the books, and how that is known."""

    name: Literal["conversion", "cooling"]
    per_j: float | None  # lost on the way, per joule that arrives; None: unknown
    provenance: Provenance = "unknown"
    source: str = ""


class Joules(msgspec.Struct, frozen=True, kw_only=True):
    """Booked joules over the period, by the accounts that they went to; the rest of the total is requests'.
    No joule is in the windows of two meters."""

    meter: str  # or several
    total_uj: int
    idle_uj: int
    unattributed_uj: int
    windows: int
    provenance: Provenance  # the least sure of the meters'
    source: str
    service_uj: int = 0  # the factory's own processes while nobody was served
    foreign_uj: int = 0  # programs that are not the factory's
    overhead_uj: int = 0  # what feeds and cools, where a meter above the host sees it


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A period as it was recorded. `refused`: requests that were told that there is no place."""

    start_us: int
    end_us: int
    attempts: tuple[Attempt, ...]
    places: tuple[PlaceSeen, ...]
    joules: Joules | None
    overheads: tuple[Overhead, ...] = ()
    tariff_nusd_per_kwh: int | None = None
    refused: int = 0
    earlier: tuple[Attempt, ...] = ()  # that ended before the period: only the best rate looks at them


Lost = Literal[
    "down", "idle", "over-provisioned", "queue", "network", "padding", "shallow batch", "late", "failed",
    "aborted", "retried", "rejected", "conversion", "cooling", "idle power", "unattributed", "service",
    "foreign", "wasted joules",
]  # fmt: skip

CAPACITY: tuple[tuple[str, tuple[Lost, ...]], ...] = (
    ("availability", ("down",)),
    ("occupancy", ("idle", "over-provisioned", "queue", "network")),
    ("batching", ("padding", "shallow batch")),
    ("SLO goodput", ("late",)),
    ("non-waste", ("failed", "aborted", "retried")),
    ("accepted", ("rejected",)),
)
"""The stages of what is paid, in order, each with the losses that are its own and no other's."""

WATTS: tuple[tuple[str, tuple[Lost, ...]], ...] = (
    ("conversion", ("conversion",)),
    ("cooling", ("cooling",)),
    ("idle", ("idle power",)),
    ("attributed", ("unattributed", "service", "foreign")),
    ("useful", ("wasted joules",)),
)


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """One named loss. `share` is of what enters its stage, `points` of the whole (both 0..1)."""

    name: Lost
    amount: float | None  # in the chain's unit; None: unknown, and nothing is taken off for it
    share: float | None
    points: float | None
    gain: float | None  # by how much the useful end would grow without it, all else being equal
    provenance: Provenance
    note: str = ""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """What enters and what leaves. `factor` None: unknown, so the stage is left out of the product."""

    name: str
    enters: float
    leaves: float
    factor: float | None
    losses: tuple[Loss, ...]
    provenance: Provenance
    note: str = ""


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """From what is paid to what is useful; `factor` is the product of the known stages."""

    name: str
    unit: str  # of the amounts
    whole: float
    useful: float
    factor: float | None  # None: there was nothing to begin with
    stages: tuple[Stage, ...]

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.stages if s.factor is None and s.enters > 0.0)


class Rated(msgspec.Struct, frozen=True, kw_only=True):
    """One place's capacity: seconds paid, and the best rate that it was seen at."""

    place: str
    paid_s: float
    best_per_s: float | None  # R*, work per second; None: it never worked, and nothing is declared
    best_at_us: int | None  # None: R* is declared
    chain: Chain


class Efficiency(msgspec.Struct, frozen=True, kw_only=True):
    """The page: sums first, then both chains, then each place."""

    start_us: int
    end_us: int
    requests: int
    attempts: int
    useful_tok: int  # output tokens of finished answers that kept what was promised, at owned places
    output_tok: int  # all that was produced there
    computed_tok: int  # prompt tokens computed and output tokens
    energy_j: float | None
    flop: float | None  # modelled: 2 x active parameters x computed tokens
    accelerator_h: float | None
    accelerators_declared: bool
    paid_usd: float | None  # hours and energy of the owned places
    mfu: float | None  # of the time in which steps ran
    mbu: float | None
    capacity: Chain
    watts: Chain | None
    places: tuple[Rated, ...]
    refused: int
    judged_share: float  # of the work, that had a promise to be held to
