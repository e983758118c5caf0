"""What the control database gives and takes: frozen records, and the errors of its administration."""

from __future__ import annotations

import msgspec

from wattmill.ledger.tenancy import ControlError, Node, NoSuch, Taken

__all__ = [
    "Ask",
    "Budget",
    "ControlError",
    "Credential",
    "Denied",
    "EpochClosed",
    "Holding",
    "KeyRecord",
    "NoSuch",
    "Node",
    "Taken",
]


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


class Ask(msgspec.Struct, frozen=True):
    """What a worker wants at one node: `want`, at least `floor` (0 if it holds enough), at best `chunk`."""

    node: int
    want_nusd: int
    floor_nusd: int
    chunk_nusd: int


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """The first node of a lease that could not give its floor; nothing was granted at any node."""

    node: int
    kind: str
    name: str  # "org/team/key"
    cap_nusd: int
    used_nusd: int
    leased_nusd: int  # by live workers, the asking one included, beyond what they told as used
    available_nusd: int  # may be below 0
    idle_elsewhere_nusd: int  # other workers hold this unused; they were asked for it if it would help


class Holding(msgspec.Struct, frozen=True):
    """What a worker tells of one node: totals of its epoch."""

    used_nusd: int
    keep_nusd: int  # total that it keeps granted; the rest of the grant returns. Never raises a grant
    idle_nusd: int
