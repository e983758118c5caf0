"""A site as an event sees it: pools of replicas, tiers that flow through them, and what is asked."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from wattmill.power.signal.account import Reached, Sample


class TierFlow(msgspec.Struct, frozen=True, kw_only=True):
    """One tier at the hour of the event."""

    name: str
    rank: int  # the highest goes first
    protected: bool
    per_s: float  # mean arrivals
    input_tok: float
    output_tok: float
    tok_per_s: float  # promise of one stream
    ttft_s: float  # promise
    usd_per_request: float
    patience_s: float  # a request that waits longer is refused
    deferrable: float = 0.0  # share that waits for as long as it must, and is not refused

    @property
    def work(self) -> float:
        """Expected output tokens of a request, its prompt at the gate's share of the effort."""
        return self.output_tok + PROMPT_SHARE * self.input_tok


PROMPT_SHARE = 0.1
"""As `admission.prompt_share` of the live gate by default."""


class At(NamedTuple):
    """One replica at one batch."""

    batch: float
    tpot_s: float
    ttft_s: float
    gpu_w: float  # of one accelerator, at the meter


class SitePool(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas that are alike. They are filled one after another, so that the others idle."""

    name: str
    replicas: int
    gpus: int  # of one replica
    batch: int  # requests at once in one, at most: beyond it the promise breaks
    idle_w: float  # of one accelerator without work, at the meter
    points: tuple[At, ...]  # at rising batches
    tiers: dict[str, float]  # share of each tier's requests that goes here
    compute_share: float = 0.5  # of a step that gets slower with the clock; declared


class NodesOff(msgspec.Struct, frozen=True, kw_only=True):
    """Idle replicas may be switched off while an event holds. Declared: machines differ."""

    draw_share: float = 0.05  # of idle power, for the management controller and leakage
    off_after_s: float = 60.0  # without work
    wake_s: float = 600.0  # from the order to the first token: boot, weights, warm-up
    ready_share: float = 0.02  # of a pool's replicas that stay on beyond those that work


class Site(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    pools: tuple[SitePool, ...]
    tiers: tuple[TierFlow, ...]
    other_w: float  # what draws whatever happens: spares, training
    provisioned_w: float
    nodes_off: NodesOff | None = None  # None: idle replicas stay on


class TierRehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """What a tier saw. Requests; tokens are output tokens."""

    tier: str
    protected: bool
    asked: float  # while the event held
    refused: float
    kept: float | None  # share of those begun in it that got what was promised; None: there were none
    deferred_tok: float  # of those that waited longer than a minute, over the whole run
    longest_wait_s: float
    refused_tok: float
    value_lost_usd: float


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """An event on a simulated site. Watts are modelled, at the utility meter."""

    site: str
    seed: int
    notice_s: float
    duration_s: float
    reached: Reached
    tiers: tuple[TierRehearsed, ...]
    idle_w: float  # the least that idle power was, with what had been switched off
    infeasible_floor_w: float | None  # what was reached where the limit was not
    most_replicas_off: int
    least_engine_share: float
    backlog_gone_after_s: float | None  # after the end; None: not within the run
    ramp_down_w_per_s: float  # steepest fall of the 10-second mean around the start
    ramp_up_w_per_s: float
    tok_not_made: float  # against the time before, while the event held
    samples: tuple[Sample, ...]
