"""What the brain looks at: the fleet at one moment, and what is wanted of a route."""

from __future__ import annotations

import msgspec


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """One place that serves models, as seen at `Fleet.at_us`."""

    name: str
    models: frozenset[str]
    capabilities: frozenset[str]
    context_tok: int
    privacy: str  # the most sensitive class that it may see
    region: str = ""  # where it stands; "" is not declared, so nothing bound to a region goes there
    operator: str = ""  # who runs it; "" is not declared, so nothing bound to an operator goes there
    healthy: bool = True
    slots: int = 1  # requests that it works on at once
    queue: int = 0  # further requests that may wait
    charge_in_nusd_per_mtok: dict[str, int]  # by model
    charge_out_nusd_per_mtok: dict[str, int]
    prefill_tok_per_s: float  # of one request alone
    decode_tok_per_s: float
    overhead_s: float = 0.0  # network and set-up before prefill begins
    energy_j_per_tok: float | None = None


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All pools at one moment. `id` is unique in its epoch; a decision names it and can be replayed."""

    id: int
    at_us: int
    pools: tuple[Pool, ...]  # in the order of the declaration: ties go to the first


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """What a second is worth: the score is expected dollars plus this times the expected seconds."""

    usd_per_s: float = 0.0001
    expected_output_tok: int = 128  # where the client does not say how much it wants at most
    bound_tok_per_tok: float = 4.0  # the input bound counts bytes; text has about 4 of them in a token
