"""A tier as the gateway knows it: what it promises, and who stands above whom."""

from __future__ import annotations

import msgspec


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    number: int  # its place in the order of the ranks, the lowest first
    rank: int
    ttft_s: float | None = None  # None: nothing is promised
    tok_per_s: float | None = None
    context_tok: int | None = None
    privacy: str | None = None  # its data goes only where this class may go
