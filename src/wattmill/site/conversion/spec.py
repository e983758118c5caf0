"""What a stage of power conversion is: a loss law for one unit, and how units share what is below them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.vocab.usage import Provenance

Redundancy = Literal["N", "N+1", "2N"]


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of converter. One unit that delivers P watts takes

        P + fixed_w + proportional x P + quadratic x P^2 / rated_w        (all in watts)

    which covers a transformer (no-load and winding losses), a double-conversion UPS, a power supply and a
    cable (quadratic only). Valid from 0 to `rated_w` a unit; beyond it `model.flow` refuses.
    """

    name: str
    fixed_w: Annotated[float, Meta(ge=0)] = 0.0  # drawn at any load, by each unit
    proportional: Annotated[float, Meta(ge=0)] = 0.0  # lost for each watt delivered
    quadratic: Annotated[float, Meta(ge=0)] = 0.0  # share of rated_w that is lost at rated_w
    rated_w: Annotated[float, Meta(gt=0)] | None = None  # of one unit, delivered; None: no limit is known
    serves: Annotated[int, Meta(ge=1)] = 1  # loads of the stage below that one unit feeds
    splits: Annotated[int, Meta(ge=1)] = 1  # units side by side that carry one load together
    sharing: Annotated[float, Meta(ge=1)] = (
        1.0  # units that share one unit's work: 2 for 2N, (n + 1)/n for n + 1
    )
    in_equipment: bool = False  # inside of what PUE counts as computing: power supplies, regulators
    outdoors: bool = False  # its heat needs no cooling
    redundant: bool = False  # a site's redundancy says how its units share their work (`model.shared`)
    source: str
    provenance: Provenance


class Chain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stages from the load upwards: the first one feeds the chips (or the node), the last one hangs on the
    grid."""

    name: str
    stages: tuple[Stage, ...]
    load_w: float | None = None  # what one load draws with everything at work; None: not declared


class StageFlow(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage does for one node (or rack: whatever the load is)."""

    name: str
    out_w: float
    in_w: float
    load_share: float | None  # of one unit's rating; None: the rating is not known
    in_equipment: bool = False
    outdoors: bool = False

    @property
    def loss_w(self) -> float:
        return self.in_w - self.out_w


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A chain at one load: `in_w` from the grid = `load_w` + the losses of all stages."""

    load_w: float
    in_w: float
    stages: tuple[StageFlow, ...]

    @property
    def efficiency(self) -> float:
        """Return what arrives of what is taken, 0..1."""
        return self.load_w / self.in_w if self.in_w else 0.0

    @property
    def equipment_w(self) -> float:
        """Return what computing takes at its own inlet: the load and the losses inside of the equipment."""
        return self.load_w + sum(stage.loss_w for stage in self.stages if stage.in_equipment)


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """The load is more than a stage can carry: an expected answer, not a defect."""

    stage: str
    unit_w: float  # what one unit would have to deliver
    rated_w: float
