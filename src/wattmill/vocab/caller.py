"""Who is asking: the key, the nodes of the budget tree above it, and what it may do."""

from __future__ import annotations

import msgspec

from wattmill.vocab.refusal import Refusal

PRIVACY_CLASSES = ("public", "internal", "private")
"""From least to most sensitive. A place declares the most sensitive class that it may see."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """An identified key. `None` in a scope means no restriction."""

    key: int  # node id of the key in the budget tree
    name: str
    path: tuple[int, ...]  # node ids from organisation to key, at any depth
    models: frozenset[str] | None = None
    pools: frozenset[str] | None = None
    endpoints: frozenset[str] | None = None
    privacy: str = "internal"  # of its data, unless a request says more
    residency: frozenset[str] | None = None  # regions that its data may go to
    operators: frozenset[str] | None = None  # who may run a place that sees its data
    expires_us: int | None = None
    policy: str | None = None  # routing policy of this key or its team; None: the factory's
    tier: str = ""  # the best that it may ask for, and what it gets unless it asks for less; "" is no tier
    requires_run: bool = False  # nothing is served outside of a run


def out_of_scope(caller: Caller, *, endpoint: str) -> Refusal | None:
    """Return a refusal if the key may not use `endpoint`."""
    if caller.endpoints is not None and endpoint not in caller.endpoints:
        allowed = ", ".join(sorted(caller.endpoints)) or "none"
        return Refusal(
            code="out_of_scope",
            message=f"key {caller.name!r} may not use endpoint {endpoint!r}; it may use: {allowed}",
        )
    return None
