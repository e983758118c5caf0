"""A price: what one model at one place costs, by token class, from an instant on."""

from __future__ import annotations

import msgspec

from wattmill.vocab.usage import Provenance


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one price. Versions are never edited; a change is a new version with a new id.

    `rates_nusd_per_mtok` has one integer rate (nano-dollars per million tokens, $1/Mtok = 10**9) for each
    entry of `TOKEN_CLASSES`, in that order. `None` means the class cannot be priced here: a request that
    may produce it is refused, never free.
    """

    id: int  # of this version, unique in a factory; assigned by the control database
    book: str  # the book it stands in, e.g. "edge cost", "standard"
    model: str
    rates_nusd_per_mtok: tuple[int | None, ...]
    request_nusd: int = 0  # per attempt, whatever its tokens
    effective_us: int = 0  # first instant at which it holds, wall clock
    source: str = ""  # where the figures come from, with a date
    provenance: Provenance = "declared"
