"""What a link is made of, what a fabric is, and what work asks of it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.vocab.usage import Provenance

Collective = Literal["all-reduce", "all-to-all"]


class Medium(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cable with its ends. `pj_per_bit` is of one port; a link has two."""

    name: str
    kind: Literal["copper", "optics"]
    reach_m: Annotated[float, Meta(gt=0)]
    pj_per_bit: Annotated[float, Meta(ge=0)]
    usd_per_gbps: Annotated[float, Meta(ge=0)]  # of one port
    mtbf_h: Annotated[float, Meta(gt=0)]  # of what fails at once
    ports_per_failure: Annotated[int, Meta(ge=1)]  # the failure domain
    repair_h: Annotated[float, Meta(ge=0)]
    delay_ns: Annotated[float, Meta(ge=0)]  # beyond the speed of light, both ends
    source: str
    provenance: Provenance


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Links of one kind: from accelerators to leaves, from leaves to spines."""

    name: str
    length_m: Annotated[float, Meta(gt=0)]
    # Links for each accelerator at its whole rate: 1 without oversubscription, 0.5 for two to one.
    links: Annotated[float, Meta(ge=0)] = 1.0


class Fabric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scale-out network."""

    gbps: Annotated[float, Meta(gt=0)]  # of one accelerator, each way
    lane_gbps: Annotated[float, Meta(gt=0)] = 224.0
    tiers: Annotated[tuple[Tier, ...], Meta(min_length=1)]
    switch_pj_per_bit: Annotated[float, Meta(ge=0)] = (
        5.0  # of a switch chip with its serialisers, a bit through
    )
    switch_delay_ns: Annotated[float, Meta(ge=0)] = 500.0


class Exchange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What accelerators tell each other in one step."""

    collective: Collective
    bytes_each: Annotated[float, Meta(ge=0)]  # of one accelerator in one step
    group: Annotated[int, Meta(ge=2)]
    times: Annotated[int, Meta(ge=1)] = 1  # a step: once for each layer
    hidden: Annotated[float, Meta(ge=0, le=1)] = 0.0  # share that computing covers


class Accelerator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One accelerator with its share of its node, without the scale-out network."""

    name: str
    w: Annotated[float, Meta(gt=0)]  # at the equipment's inlet
    compute_s: Annotated[float, Meta(gt=0)]  # of one step, without what this network exchanges
    tok_per_step: Annotated[float, Meta(gt=0)]
    usd: Annotated[float, Meta(ge=0)] = 0.0


class HandOver(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt's keys and values on their way from where it was read to where its answer is made."""

    prompt_tok: Annotated[int, Meta(ge=1)]
    bytes_per_tok: Annotated[float, Meta(gt=0)]
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0  # of the accelerator's rate that it gets
    ways: Annotated[int, Meta(ge=1)] = 1  # accelerators on each side that send at once


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site of `mw`, and which optics to put into it."""

    name: str
    mw: Annotated[float, Meta(gt=0)]  # at the utility's meter
    site: str  # file of a site: its chain and its plant carry what is asked here
    fabric: Fabric
    accelerator: Accelerator
    exchange: Exchange
    hand_over: HandOver | None = None
    optics: tuple[str, ...] = ("pluggable", "co-packaged")


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """The question answered with one kind of optics. Watts at the meter close: `gap` is what does not."""

    optics: str
    gbps: float  # of an accelerator
    media: tuple[str, ...]  # of each tier
    accelerators: int
    meter_w: float
    compute_w: float
    ports_w: float  # transceivers
    switches_w: float
    overhead_w: float  # conversion, cooling and the rest, from the site
    network_w_each: float  # ports and switches of one accelerator
    exchange_s: float  # of one step, as far as it is not hidden
    step_s: float
    tok_per_s: float
    j_per_tok: float  # at the meter
    ports_usd: float
    failures_per_year: float
    lost_accelerator_h_per_year: float  # down with a failed link, until repair
    hand_over_s: float | None

    @property
    def gap(self) -> float:
        parts = self.compute_w + self.ports_w + self.switches_w + self.overhead_w
        return abs(parts - self.meter_w) / self.meter_w
