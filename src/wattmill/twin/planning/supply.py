"""What could be bought: accelerators in whole nodes and racks, owned or rented, and tokens of others."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.models.graphs import Declared
from wattmill.twin.planning.given import Given
from wattmill.units import H_PER_YEAR, W_PER_KW, W_PER_MW


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


Ways = Annotated[tuple[Annotated[int, Meta(ge=1, le=576)], ...], Meta(min_length=1)]
"""Numbers of parts into which a replica may be split."""


class AllIn(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="pay", tag="all-in"
):
    """One rate that has everything inside, energy too: it is taken out before the site's tariff is added."""

    usd_per_gpu_h: Annotated[Given, Meta(description="The rate, dollars per accelerator and hour.")]
    energy_inside_usd_per_mwh: Annotated[
        Given,
        Meta(
            description="Price of electricity inside the rate, dollars per MWh, paid on the all-in kW in "
            "every hour. 0 if the rate has no energy inside."
        ),
    ]


class Listed(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="pay", tag="listed"
):
    """The all-in rate that `data/gpu_prices.csv` lists for the part, and the kW that stand beside it."""

    kind: Annotated[
        Literal["tco_hyperscaler", "tco_neocloud"],
        Meta(description="Whose cost of owning, as the list says."),
    ]
    spread: Annotated[
        float, Meta(ge=0, lt=1, description="Half of its 80 % interval, as a part of it (0.15: +-15 %).")
    ] = 0.0
    energy_inside_usd_per_mwh: Annotated[Given, Meta(description="As for `all-in`.")]


class Capital(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="pay", tag="capital"
):
    """Bought with money that has a price: an annuity over its life, less what is left of it, and upkeep."""

    usd_per_gpu: Annotated[
        Given, Meta(description="Price of an accelerator with its share of node and network.")
    ]
    life_years: Annotated[float, Meta(gt=0, description="Years until it is sold.")]
    residual_share: Annotated[
        float, Meta(ge=0, lt=1, description="Part of the price that it then brings.")
    ] = 0.0
    rate_per_year: Annotated[
        float, Meta(ge=0, lt=1, description="Price of the money, a year (0.1: 10 %).")
    ] = 0.1
    upkeep_share_per_year: Annotated[
        float, Meta(ge=0, lt=1, description="Building, staff, spare parts: part of the price, a year.")
    ] = 0.0


class Rent(_Section, frozen=True, kw_only=True):
    """Rented at somebody else's place: nothing at our meter, energy inside."""

    usd_per_gpu_h: Annotated[Given, Meta(description="Dollars per accelerator and hour.")]
    on_demand: Annotated[
        bool, Meta(description="Paid by the hour that is used; false: reserved, paid for every hour.")
    ] = False


Own = AllIn | Listed | Capital


class Candidate(_Section, frozen=True, kw_only=True):
    """An accelerator that may be bought, and how."""

    accelerator: Annotated[str, Meta(min_length=1, description="Its name in the catalogue of accelerators.")]
    engines: Annotated[tuple[str, ...], Meta(min_length=1, description="Engines that may run on it.")] = (
        "vllm",
    )
    tp: Annotated[
        Ways | None,
        Meta(
            description="Over how many accelerators attention and dense layers may be split (tensor "
            "parallel). Absent: every power of two in one fabric that divides the heads."
        ),
    ] = None
    attn_dp: Annotated[
        Ways | None,
        Meta(
            description="So many groups of `tp` hold different sequences and share their experts (attention "
            "data parallel). Absent: with experts, every power of two in one fabric; else 1."
        ),
    ] = None
    ep: Annotated[
        Ways | None,
        Meta(
            description="Over how many accelerators of a stage whole experts are spread. Absent: 1 and all "
            "of them, where the number of experts can be divided so."
        ),
    ] = None
    pp: Annotated[
        Ways | None,
        Meta(
            description="Pipeline stages, which may stand in different nodes. Absent: 1, or where the model "
            "does not fit into one fabric, 2, 4, 8 and 16."
        ),
    ] = None
    stage_gb_per_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Between stages, 10^9 bytes per second an accelerator (50: a 400 Gbit/s port each).",
        ),
    ] = 50.0
    disaggregate: Annotated[
        bool | tuple[Annotated[str, Meta(pattern=r"^[1-9][0-9]?:[1-9][0-9]?$")], ...],
        Meta(
            description="Also look at prompts on replicas of their own, which hand caches over to those that "
            "decode: true for every proportion up to four of either kind, or the proportions to look at, "
            "prefill first.",
            examples=[["1:2", "1:3"]],
        ),
    ] = False
    handover_gb_per_s: Annotated[
        float,
        Meta(
            gt=0,
            description="For those caches, 10^9 bytes per second an accelerator (50: 400 Gbit/s each).",
        ),
    ] = 50.0
    handover_ms: Annotated[float, Meta(ge=0, description="Of each hand-over, whatever its size.")] = 0.0
    graph_sizes: Annotated[
        Declared | None,
        Meta(
            description="Steps that the engines record as graphs, in tokens, rising: one of fewer tokens "
            'than the largest is computed as the next. "shipped": those of vLLM by default (1, 2, 4, 8, 16, '
            "24 … 512). Absent: nothing is padded."
        ),
    ] = None
    all_in_kw_per_gpu: Annotated[
        Given | None,
        Meta(
            description="kW at the meter for which one accelerator with its share of all else is provisioned."
        ),
    ] = None
    it_kw_per_gpu: Annotated[
        Given | None, Meta(description="kW of IT instead: the meter sees this times the site's PUE.")
    ] = None
    nodes_per_rack: Annotated[int, Meta(ge=1, description="Nodes in a rack.")] = 4
    whole_racks: Annotated[bool, Meta(description="Sold by the rack only.")] = False
    most_nodes: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="No more can be had. Absent: no such limit.")
    ] = None
    own: Annotated[Own | None, Meta(description="What owning it costs; it then stands behind our meter.")] = (
        None
    )
    rent: Annotated[Rent | None, Meta(description="What renting it costs, elsewhere.")] = None


class Rental(_Section, frozen=True, kw_only=True):
    """A rent that owning is compared with, and that no plan takes."""

    candidate: Annotated[str, Meta(min_length=1, description="Which of `candidates`.")]
    usd_per_gpu_h: Annotated[Given, Meta(description="Dollars per accelerator and hour, energy inside.")]
    on_demand: Annotated[
        bool, Meta(description="Paid by the hour that is used; false: reserved, paid for every hour.")
    ] = False


class Api(_Section, frozen=True, kw_only=True):
    """A price list of somebody who serves the same model."""

    model: Annotated[str | None, Meta(description="Which of `models`; may be left out if there is one.")] = (
        None
    )
    usd_per_mtok_input: Annotated[float, Meta(ge=0, description="Dollars per million input tokens.")]
    usd_per_mtok_output: Annotated[float, Meta(ge=0, description="Dollars per million output tokens.")]
    source: Annotated[str, Meta(min_length=1, description="Where the price stands, and when it was read.")]


def yearly_capital_usd(cost: Capital, usd: float) -> float:
    """Return what `usd` of capital cost in a year of its life.

    Annuity of (price - residual discounted to today) at `rate_per_year`, plus upkeep; at rate 0 the straight
    line. Hand check: 100 for 4 years, residual 0.2, 10 % a year: (100 - 20 / 1.1^4) x 0.1 / (1 - 1.1^-4) =
    27.24.
    """
    rate, years = cost.rate_per_year, cost.life_years
    today = math.pow(1.0 + rate, -years)
    lost = usd * (1.0 - cost.residual_share * today)
    annuity = lost / years if rate == 0.0 else lost * rate / (1.0 - today)
    return annuity + usd * cost.upkeep_share_per_year


def fixed_usd_per_gpu_h(cost: AllIn | Capital | Rent, *, all_in_kw: float) -> float:
    """Return dollars an hour of one accelerator without energy: what is paid whether it works or not."""
    if isinstance(cost, AllIn):
        inside = energy_inside_usd_per_gpu_h(cost, all_in_kw=all_in_kw)
        if inside > cost.usd_per_gpu_h.value:
            raise ValueError(
                f"usd_per_gpu_h is {cost.usd_per_gpu_h.value:g}, must be at least the energy inside it, "
                f"{inside:.3g} (energy_inside_usd_per_mwh {cost.energy_inside_usd_per_mwh.value:g} on "
                f"{all_in_kw:g} kW): correct one of them, or owning would be paid for"
            )
        return cost.usd_per_gpu_h.value - inside
    if isinstance(cost, Capital):
        return yearly_capital_usd(cost, cost.usd_per_gpu.value) / H_PER_YEAR
    return cost.usd_per_gpu_h.value


def energy_inside_usd_per_gpu_h(cost: AllIn, *, all_in_kw: float) -> float:
    """Return the energy inside an all-in rate: its kW, all the time, at the price that it was made with."""
    return all_in_kw * W_PER_KW / W_PER_MW * cost.energy_inside_usd_per_mwh.value
