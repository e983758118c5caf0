"""What the brain looks at: the fleet at one moment, and what is wanted of a route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import NO_HINTS, Hints, Route


class Rates(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of one model: nano-dollars per million tokens."""

    input: int
    output: int
    cached: int


class Pool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    energy_j_per_tok: float | None = None  # of an output token; None: nobody knows
    charge_cached_nusd_per_mtok: dict[str, int] = {}  # a model that is absent: no cheaper than input
    tier_rates: dict[str, dict[str, Rates]] = {}  # by tier and model: what it pays instead of `charge_*`
    cost_rates: dict[str, Rates] = {}  # by model: what a token costs the factory
    energy_j_per_in_tok: float | None = None  # of a computed prompt token
    carbon_g_per_kwh: float | None = None  # of the power at its place, in this hour; None: not declared
    energy_usd_per_kwh: float | None = None  # likewise its price
    quality: dict[str, float] = {}  # by model, 0 to 1, declared with its source; absent: not declared
    breaker_open: bool = False  # it failed too often just now: only probes are sent
    slowdown: float = 0.0  # each further request at work makes a token take this share longer
    ttft_factor: float = 1.0  # observed over expected time to first token, lately
    hit_share: float = 0.0  # of what a prompt shares with earlier ones, so much is still in the place's cache
    ahead_share: float = 0.0  # of the time of prompts sent before it a prompt waits so much: 0 nothing, 1 all
    decode_share: float = 0.5  # of the slowdown, what comes of others' tokens and not of their prompts
    slot_usd_per_s: float = 0.0  # what a second of one of its slots is worth to others (`scarcity`)
    turned_usd_per_s: float = (
        0.0  # what a refusal costs, for each second of what a mean request takes up there
    )


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
    leg: str = "charge"  # the money that the score counts: "charge" is the tenant's, "cost" the factory's
    explore: float = 0.0  # share of decisions that try another allowed place than the best
    usd_per_kg_co2: float = 0.0  # what not emitting a kilogram is worth
    energy: float = 0.0  # what a dollar of this hour's electricity counts beside the money above
    usd_per_quality: float = 0.0  # what quality 1 is worth against quality 0, for one request
    usd_per_tok_per_s: float = 0.0  # what one token per second more for the reader is worth
    others: float = 0.0  # what a second counts that others wait because of this request; 1: as its own
    scarcity: float = 1.0  # what the learned worth of slots to others counts, times `others`
    refusal_usd: float | None = None  # what a refusal costs; None: nothing is refused while there is room


class Policy(Protocol):
    """A pure function from what is asked and what is seen to where it goes: the gateway, the replay and the
    twin call the same one. It reads no clock and throws no dice: `now_s` and `draw` are what it is told."""

    def __call__(
        self,
        request: Request,
        caller: Caller,
        fleet: Fleet,
        *,
        busy: Sequence[int],
        weights: Weights,
        now_s: float = 0.0,
        draw: float = 0.0,
        hints: Hints = NO_HINTS,
    ) -> Route | Refusal:
        """Return the places that may serve `request`, best first, or why none may.

        Args:
            busy: requests in flight at each of `fleet.pools`, in the same order.
            now_s: wall clock, seconds since 1970 UTC.
            draw: uniform in [0, 1): one number for all that is random in this decision.
        """
