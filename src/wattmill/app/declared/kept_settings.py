"""How answers are kept for repetition: the exact cache and idempotency keys."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Share = Annotated[str, Meta(pattern=r"^(0(\.[0-9]{1,9})?|1(\.0{1,9})?)$")]
"""From 0 to 1, as text, so that what is booked by it stays exact."""


class Cache(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The exact response cache: the same request of the same team or key, of the same data class, gets the
    same answer again without an engine. Off unless models are listed."""

    models: Annotated[
        tuple[str, ...],
        Meta(description='Models whose answers are cached; `["*"]` is all of them. None: no cache.'),
    ] = ()
    teams: Annotated[
        tuple[str, ...] | None,
        Meta(description="`ORG/TEAM` that use it. Absent: all teams.", examples=[["demo/search"]]),
    ] = None
    scope: Annotated[
        Literal["team", "key"], Meta(description="Who shares cached answers: the keys of a team, or nobody.")
    ] = "key"
    when: Annotated[
        Literal["deterministic", "always"],
        Meta(
            description="`deterministic`: only requests that declare temperature 0 or a seed (embeddings "
            "always). `always`: every request; who wants another answer sends `cache-control: no-cache`."
        ),
    ] = "deterministic"
    ttl_s: Annotated[int, Meta(ge=1, le=31_536_000, description="How long an answer is cached.")] = 3_600
    charge_share: Annotated[
        Share,
        Meta(description="What a tenant pays for a cached answer, as a share of its price at a place."),
    ] = "0"
    memory_mib: Annotated[
        int, Meta(ge=0, le=65_536, description="Cached answers in the memory of each worker, in MiB.")
    ] = 64


class Idempotency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests with the header `idempotency-key` are made once."""

    keep_s: Annotated[
        int, Meta(ge=1, le=31_536_000, description="How long an answer is kept for its repetition.")
    ] = 86_400
