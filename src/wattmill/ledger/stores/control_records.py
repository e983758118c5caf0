"""What the control database gives and takes: frozen records, and the errors of its administration."""

from __future__ import annotations

from typing import Literal

import msgspec

from wattmill.ledger.tenancy import ControlError, Node, NoSuch, Taken
from wattmill.vocab.budget import Limit, Period, Unit

__all__ = [
    "Ask",
    "Budget",
    "CapsUnavailable",
    "ControlError",
    "Credential",
    "Denied",
    "EpochClosed",
    "Holding",
    "KeyRecord",
    "LeaseHolder",
    "LimitState",
    "NoSuch",
    "Node",
    "Opening",
    "Run",
    "RunState",
    "Taken",
    "Turned",
]

RunState = Literal["open", "paused", "stopped", "closed"]
"""open: serves. paused: waits for a person. stopped: ended by a rule or a person. closed: by its owner."""


class CapsUnavailable(RuntimeError):
    """The place where leases are kept gave no answer; nothing may leave unreserved."""


class EpochClosed(RuntimeError):
    """The epoch was declared dead and its leases folded; a worker that sees this must not serve on."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One API key without its secret. Scopes: `None` means no restriction."""

    id: int  # its node
    name: str
    path: tuple[int, ...]  # node ids, organisation first, this key last
    full_name: str  # "org/team/key"
    prefix: str  # of the current secret, to recognise it by
    privacy: str
    created_us: int
    models: tuple[str, ...] | None = None
    pools: tuple[str, ...] | None = None
    endpoints: tuple[str, ...] | None = None
    expires_us: int | None = None
    revoked_us: int | None = None
    cap_nusd: int | None = None
    requires_run: bool = False
    tier: str | None = None  # None: that of its team


class Credential(msgspec.Struct, frozen=True):
    """What a gateway needs to know a key by: the hash of a secret, never the secret."""

    sha256: bytes
    node: int
    until_us: int | None  # a replaced secret is good until then; None: the current one


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """One node's money. `used` is settled; what live workers hold beyond it is `reserved` or `idle`.

    `used`, `reserved` and `idle` of live workers are what they last told (about 0.25 s old); the cap itself
    is kept on what was granted to them, which is exact.
    """

    node: int
    kind: str
    name: str  # "org/team/key"
    cap_nusd: int | None
    used_nusd: int
    reserved_nusd: int  # by requests in flight
    idle_nusd: int  # set aside for workers, not reserved; they give it back when another needs it
    left_nusd: int | None  # cap - used - reserved; below 0 after the cap was lowered; None: no cap
    limits: tuple[LimitState, ...] = ()


class Ask(msgspec.Struct, frozen=True):
    """What a worker wants of one gauge: `want`, at least `floor` (0 if it holds enough), at best `chunk`.

    `ticket` is that of the denial which this ask follows, 0 at first.
    """

    gauge: int
    want: int
    floor: int
    chunk: int
    ticket: int = 0


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """The first gauge of a lease that could not give its floor; nothing was granted of any.

    It is the last word only if `final`: what other workers held when this was asked first has been told anew
    since. Before that they may hold idle what is missing, and were asked for it.
    """

    gauge: int
    kind: str  # of the node
    name: str  # "org/team/key"
    unit: Unit
    period: Period
    cap: int
    used: int
    leased: int  # by live workers, the asking one included, beyond what they told as used
    available: int  # may be below 0
    ticket: int
    final: bool
    resets_us: int | None = None  # when the period ends; None: never


class Turned(msgspec.Struct, frozen=True):
    """Limits whose period has turned already by somebody else's clock: the number of the present one."""

    index: dict[int, int]  # by limit


class Opening(msgspec.Struct, frozen=True):
    """What a worker needs of some nodes before it leases there."""

    limits: dict[int, tuple[Limit, ...]]  # by node, metered units only; a cap of dollars is not among them
    held: dict[int, tuple[int, int]]  # by gauge: granted and used, as last told in this epoch


class Holding(msgspec.Struct, frozen=True):
    """What a worker tells of one gauge: totals of its epoch."""

    used: int
    keep: int  # total that it keeps granted; the rest of the grant returns. Never raises a grant
    idle: int
    answers: int = 0  # the ticket that came with its recall, if this is the answer to one


class LeaseHolder(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that holds leases: alive, or dead and not yet recovered, or lost."""

    epoch: str
    place: str  # its machine, worker number and process
    seen_us: int | None  # when it last said that it lives
    term_us: int | None  # for how long it reserves without saying so again
    gauges: int
    granted_nusd: int  # of capped dollars
    used_nusd: int
    idle_nusd: int


class LimitState(msgspec.Struct, frozen=True, kw_only=True):
    """One limit now. Use of live workers is what they last told."""

    id: int
    node: int
    unit: Unit
    period: Period
    zone: str
    amount: int
    used: int
    reserved: int
    idle: int
    left: int
    resets_us: int | None  # when its present period ends; None: never


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """An agent, a run or a step: a node below a key. Its id is a secret: the database has its hash."""

    node: int
    kind: str  # "agent", "run" or "step"
    name: str  # unique under its parent
    path: tuple[int, ...]  # node ids, organisation first, this one last
    key: int  # the key that opened it, and the only one that may use it
    state: RunState
    reason: str | None  # why it is paused or stopped
    depth: int  # 1: directly below its key
    cap_nusd: int | None
    opened_us: int
    changed_us: int
    expires_us: int | None
    label: str | None
