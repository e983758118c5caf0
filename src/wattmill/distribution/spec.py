"""What the gateway is told: the places it may send to and the limits it keeps."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from wattmill.vocab.budget import Ceiling
from wattmill.vocab.price import Price

KERNEL_BUFFER_BYTES = 131_072
"""What the kernel is asked to hold of an answer on each side of the gateway (Linux takes twice that)."""

MAX_WHOLE_BYTES = 64 * 1024 * 1024
"""The longest answer that is put together, or looked at as a whole."""


class BackendModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model as one pool serves it."""

    name: str  # as clients ask for it
    upstream: str  # as the engine calls it
    cost: Price  # what it costs the factory
    charge: Price  # what the tenant pays
    context_tok: int | None = None  # no answer is longer, so no more than this is reserved for one
    by_tier: dict[str, BackendModel] = {}  # the same, charged as each tier pays; {}: there are no tiers
    one_price: bool = False  # made of both prices: each use is the same money by either

    def __post_init__(self) -> None:
        same = _money(self.cost) == _money(self.charge)
        msgspec.structs.force_setattr(self, "one_price", same)


def _money(price: Price) -> tuple[object, ...]:
    return price.rates_nusd_per_mtok, price.request_nusd


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """One pool as the gateway reaches it. `headers` may hold the provider's key: never log one of these."""

    pool: str
    adapter: str  # name of an engine adapter, see models.engines.adapter
    base_url: str  # up to and including "/v1" (or the provider's own prefix)
    models: dict[str, BackendModel]
    headers: tuple[tuple[str, str], ...] = ()
    slots: int = 8  # requests that the engine works on at once
    batch_tok: int = 2_048  # prompt tokens that it computes before it looks whether its client is there
    ceiling: Ceiling | None = None  # joules and grams of a token at most, where somebody declared them
    max_connections: int = 256
    connect_timeout_s: float = 2.0
    first_byte_timeout_s: float = 120.0
    idle_timeout_s: float = 60.0  # between two chunks of one answer
    total_timeout_s: float = 600.0
    ca_file: str | None = None  # None: the system's trust store
    tls_verify: bool = True
    proxy: str | None = None  # "http://host:port", used with CONNECT for https

    def __repr__(self) -> str:
        return f"Backend(pool={self.pool!r}, adapter={self.adapter!r}, base_url={self.base_url!r})"


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client may take of the gateway. Each has an answer of its own when it is passed."""

    header_bytes: Annotated[int, Meta(ge=256, description="All headers of one request.")] = 32_768
    headers: Annotated[int, Meta(ge=1, description="Number of headers of one request.")] = 100
    body_bytes: Annotated[int, Meta(ge=1, description="Body of one request.")] = 16 * 1024 * 1024
    unfinished_bytes: Annotated[
        int,
        Meta(
            ge=1,
            description="All bodies together that have begun to arrive and are not complete, per worker; one "
            "body alone is always taken.",
        ),
    ] = 256 * 1024 * 1024
    unfinished_share: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="The part of `unfinished_bytes` that one API key may have; 1 lets it have all.",
        ),
    ] = 0.25
    connections: Annotated[int, Meta(ge=1, description="Open connections, per worker.")] = 4_096
    in_flight: Annotated[
        int, Meta(ge=1, description="Requests that are admitted and not ended, per worker.")
    ] = 2_048
    header_s: Annotated[float, Meta(gt=0, description="Time to send the headers.")] = 10.0
    body_s: Annotated[float, Meta(gt=0, description="Time to send the body.")] = 60.0
    idle_s: Annotated[float, Meta(gt=0, description="How long an idle connection is kept.")] = 75.0
    total_s: Annotated[float, Meta(gt=0, description="From a request's first byte to its answer's last.")] = (
        900.0
    )
    write_buffer_bytes: Annotated[
        int,
        Meta(ge=1_024, description="Of an answer, held for a slow reader before its engine is paused."),
    ] = 65_536
    pipelined_bytes: Annotated[
        int, Meta(ge=1_024, description="Of later requests, held while one is served.")
    ] = 65_536
    answer_buffer_bytes: Annotated[
        int,
        Meta(ge=0, description="A non-streamed answer up to this size tells its charge in headers."),
    ] = 1024 * 1024
