"""What the gateway is told: the places it may send to and the limits it keeps."""

from __future__ import annotations

import msgspec

from wattmill.vocab.price import Price


class BackendModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model as one pool serves it."""

    name: str  # as clients ask for it
    upstream: str  # as the engine calls it
    cost: Price  # what it costs the factory
    charge: Price  # what the tenant pays


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """One pool as the gateway reaches it. `headers` may hold the provider's key: never log one of these."""

    pool: str
    adapter: str  # name of an engine adapter, see models.engines.adapter
    base_url: str  # up to and including "/v1" (or the provider's own prefix)
    models: dict[str, BackendModel]
    headers: tuple[tuple[str, str], ...] = ()
    slots: int = 8  # requests that the engine works on at once
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


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may take of the gateway. Each has an answer of its own when it is passed."""

    header_bytes: int = 32_768
    headers: int = 100
    body_bytes: int = 16 * 1024 * 1024
    connections: int = 4_096
    in_flight: int = 2_048  # requests admitted and not ended, per worker
    header_s: float = 10.0  # to send the headers
    body_s: float = 60.0  # to send the body
    idle_s: float = 75.0  # keep-alive
    total_s: float = 900.0  # from the request's first byte to the answer's last
    write_buffer_bytes: int = 65_536  # of an answer held for a slow reader before its engine is paused
    pipelined_bytes: int = 65_536  # of later requests held while one is served
    answer_buffer_bytes: int = 1024 * 1024  # a non-streamed answer up to this size tells its charge in headers
