"""What is kept, for whom, and how much of it there may be."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Kind = Literal["idempotency", "cache", "response", "file", "batch", "batch_line"]

LASTING: frozenset[str] = frozenset({"file", "batch", "batch_line", "response"})
"""Kinds that a client was promised: they go when they expire or are deleted, never to make room. A new one
that does not fit is refused (`NoRoom`). The other kinds make room, the oldest first."""

ROW_BYTES = 256
"""Counted for each item beside its bytes, so that empty ones are bounded too."""


class KeptLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the kept store may hold: cached answers, stored responses, files, batches and claims."""

    item_mib: Annotated[int, Meta(ge=1, le=1_000, description="Largest single item, in MiB.")] = 64
    scope_mib: Annotated[
        int, Meta(ge=1, description="All items of one key or team, in MiB; the oldest cached ones make room.")
    ] = 256
    total_mib: Annotated[int, Meta(ge=1, description="All items of the factory, in MiB.")] = 2_048


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One kept thing. `node` is the key or team that it belongs to; nobody else ever finds it."""

    kind: Kind
    node: int
    data_class: str  # of the data in it; for what may be done with it
    id: str
    created_us: int
    expires_us: int
    body: bytes = b""
    meta: bytes = b""  # small, told by `list` as well
    owner: str = ""  # epoch that works on it now; "": nobody
    version: int = 1  # grows with each change


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What a list tells of one item."""

    kind: Kind
    node: int
    data_class: str
    id: str
    created_us: int
    expires_us: int
    body_bytes: int
    meta: bytes
    owner: str
    version: int


class KeptUnavailable(Exception):
    """The store cannot be read or written now; the message says why."""


class NoRoom(Exception):
    """An item of a lasting kind does not fit; the message names the limit and what it holds."""


class WrongKeptFormat(RuntimeError):
    """The file is no kept store of this version; the message says what it is."""
