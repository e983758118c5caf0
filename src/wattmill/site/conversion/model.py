"""Losses of a conversion chain at a load: from the chip up, each stage at the load that its units share."""

from __future__ import annotations

from math import sqrt

from msgspec.structs import replace

from wattmill.site.conversion.spec import Chain, Flow, Overload, Redundancy, Stage, StageFlow


def unit_in_w(stage: Stage, out_w: float) -> float:
    """Return what one unit takes to deliver `out_w`."""
    quadratic_w = stage.quadratic * out_w * out_w / stage.rated_w if stage.rated_w else 0.0
    return out_w + stage.fixed_w + stage.proportional * out_w + quadratic_w


def flow(chain: Chain, load_w: float) -> Flow | Overload:
    """Return what `chain` takes from the grid for one load of `load_w`, stage by stage.

    All loads are alike: a unit that feeds several carries the same from each, and a redundant pair halves
    it. `load_w` >= 0. The sum closes exactly: what comes in is the load and every loss.
    """
    if load_w < 0:
        raise ValueError(f"load_w must be >= 0, got {load_w}")
    each_w, loads = load_w, 1
    stages: list[StageFlow] = []
    for stage in chain.stages:
        # A group of this stage carries what `serves` groups below take; its units share it, twins included.
        units = stage.splits * stage.sharing
        group_w = each_w * stage.serves
        loads *= stage.serves
        unit_w = group_w / units
        if stage.rated_w is not None and unit_w > stage.rated_w:
            return Overload(stage=stage.name, unit_w=unit_w, rated_w=stage.rated_w)
        taken_w = unit_in_w(stage, unit_w) * units
        stages.append(
            StageFlow(
                name=stage.name,
                out_w=group_w / loads,
                in_w=taken_w / loads,
                load_share=unit_w / stage.rated_w if stage.rated_w else None,
                in_equipment=stage.in_equipment,
                outdoors=stage.outdoors,
            )
        )
        each_w = taken_w
    return Flow(load_w=load_w, in_w=each_w / loads, stages=tuple(stages))


def shared(chain: Chain, redundancy: Redundancy, *, needed: int = 4) -> Chain:
    """Return `chain` with its redundant stages built as `redundancy` says: how many units share the work.

    N carries all on what is needed, N+1 on one more than the `needed` units, 2N on twice as many. The fixed
    loss is paid by every unit, the load of each falls: that is what redundancy costs.
    """
    if needed < 1:
        raise ValueError(f"needed must be >= 1 unit, got {needed}")
    sharing = {"N": 1.0, "N+1": (needed + 1) / needed, "2N": 2.0}[redundancy]
    stages = tuple(replace(s, sharing=sharing) if s.redundant else s for s in chain.stages)
    return replace(chain, stages=stages)


def bus_current_a(power_w: float, volts: float) -> float:
    """Return the current that carries `power_w` over a direct-current bus, in ampere: I = P / U."""
    if volts <= 0:
        raise ValueError(f"volts must be > 0, got {volts}")
    return power_w / volts


def copper_loss_ratio(volts: float, against_volts: float) -> float:
    """Return how many times the resistive loss is at `volts` of that at `against_volts`, for the same power
    and copper: loss = I^2 R and I = P / U, so the ratio is (against / volts)^2."""
    if volts <= 0 or against_volts <= 0:
        raise ValueError(f"voltages must be > 0, got {volts} and {against_volts}")
    return (against_volts / volts) ** 2


def losses(
    rated_w: float, *, at: float, efficiency: float, also_at: float, also_efficiency: float
) -> tuple[float, float]:
    """Return (fixed_w, quadratic) of a unit whose efficiency is known at two shares of its rating: two
    points, two unknowns.

    With l(x) = x (1/e(x) - 1), the loss in units of the rating: l = fixed / rated + quadratic x^2. Raises
    `ValueError` where no physical law of that form goes through the points.
    """
    first, second = at * (1.0 / efficiency - 1.0), also_at * (1.0 / also_efficiency - 1.0)
    quadratic = (second - first) / (also_at * also_at - at * at)
    fixed = first - quadratic * at * at
    if fixed < 0 or quadratic < 0:
        raise ValueError(
            f"efficiencies {efficiency} at {at} and {also_efficiency} at {also_at} of the rating give losses "
            f"of {fixed:.5f} + {quadratic:.5f} x^2 of it: neither may be negative"
        )
    return fixed * rated_w, quadratic


def best_load_share(stage: Stage) -> float | None:
    """Return the share of its rating at which a unit is most efficient: where fixed and quadratic losses are
    equal. None without a rating or a quadratic loss."""
    if stage.rated_w is None or stage.quadratic == 0:
        return None
    return min(1.0, sqrt(stage.fixed_w / stage.rated_w / stage.quadratic))
