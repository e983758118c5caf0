"""A pool that is declared as a deployment: its step-time law, memory and watts from the catalogues."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import msgspec

from wattmill.app.declared.deployment import deployment_of
from wattmill.app.declared.plan import Place
from wattmill.app.declared.twin_settings import DeploymentTimes
from wattmill.compute.model import curve_of, power_w
from wattmill.models.deployment import Deployment
from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.twin.fleet.spec import EngineLaw, Origin
from wattmill.twin.law.calibration import Calibration, stored
from wattmill.twin.spec import BLOCK_TOK
from wattmill.units import MW_PER_W, PS_PER_S

_ANSWER_TOK = 256  # the room that a batch's limits are looked up for, and the level of operator tables


def deployed_law(place: Place, declared: DeploymentTimes, slots: int) -> tuple[EngineLaw, Origin]:
    """Return the law of one replica, and how far off it was on measurements that the fit had not seen.

    Raises:
        LookupError: the catalogues do not know the accelerator or the model.
        ValueError: the accelerator is listed only, or the weights or one request do not fit into memory.
    """
    name = f"pools.{place.pool}.twin.deployment"
    deployment = _deployment(place, declared, slots)
    device = deployment.accelerator
    room_tok = deployment.kv_tokens()
    if room_tok < place.context_tok:
        raise ValueError(
            f"{name}: beside the weights there is room for {room_tok} tokens of cache, and one request may "
            f"have {place.context_tok}; take more devices (tp), fewer bits, or a shorter context_tok"
        )
    lowering = _lowering()
    calibration, basis = _calibration(name, deployment, declared, slots)
    cost: StepCost = lowering.lower(
        deployment, isl=declared.input_tok, concurrency=slots, calibration=calibration
    )
    usual: EngineLimits = lowering.limits(
        deployment, isl=declared.input_tok, osl=_ANSWER_TOK, concurrency=slots
    )
    bounds = msgspec.structs.replace(
        usual, kv_blocks=room_tok // usual.block_tok, prefix_cache=True, prefix_tok=BLOCK_TOK
    )
    idle_mw, power_mw = _watts_mw(deployment, declared, slots)
    cost = msgspec.structs.replace(
        cost,
        overhead_ps=cost.overhead_ps + round(place.speed.overhead_s * PS_PER_S),
        idle_mw=idle_mw,
        power_mw=power_mw,
    )
    error = held_out_error(calibration, deployment, at_level=bool(basis))
    source = (
        f"step-time law fitted on {calibration.rows} rows ({calibration.fitted_on}): {declared.model} on "
        f"{deployment.gpus} x {device.name}, {declared.engine}"
    ) + (f"; level of {basis}" if basis else "")
    return EngineLaw(cost=cost, limits=bounds), Origin(provenance="modelled", source=source, error=error)


def _calibration(
    name: str, deployment: Deployment, declared: DeploymentTimes, slots: int
) -> tuple[Calibration, str]:
    """Return the law, at the level of operator tables where they are asked for and nothing was measured."""
    if not declared.operators:
        return stored(), ""
    try:
        prior = import_module("wattmill.twin.operators.mixture").operators_installed()
    except (ModuleNotFoundError, ValueError) as missing:
        raise ValueError(
            f"{name}.operators: {missing}; pip install 'wattmill[twin-operators]', or leave it out"
        ) from missing
    level = import_module("wattmill.twin.operators.levelled").levelled
    found: tuple[Calibration, str] = level(
        deployment, prior, isl=declared.input_tok, osl=_ANSWER_TOK, concurrency=slots
    )
    return found


def _deployment(place: Place, declared: DeploymentTimes, slots: int) -> Deployment:
    deployment = deployment_of(declared, max_num_seqs=slots)
    device = deployment.accelerator
    if not device.predicted:
        raise ValueError(
            f"pools.{place.pool}.twin.deployment: {device.name} is listed, not predicted: "
            f"{device.notes or device.source}"
        )
    return deployment


def kv_bytes_per_tok(declared: DeploymentTimes) -> float:
    """Return the bytes of cache that a hand-over of one prompt token sends."""
    return deployment_of(declared).distinct_kv_bytes_per_tok


def _lowering() -> Any:
    """Return the module that lowers a deployment's law to whole picoseconds; it brings numba along."""
    try:
        return import_module("wattmill.twin.lowering")
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"a deployment's law cannot be lowered here, {missing.name} is not installed: pip install "
            "'wattmill[twin]', or declare `step`"
        ) from missing


def held_out_error(
    calibration: Calibration, deployment: Deployment, *, at_level: bool = False
) -> float | None:
    """Return the median error per token where the same was left out that is new in a deployment: its model,
    its accelerator (of both the larger), or whole curves of both. None: not in the file.

    `at_level`: the law stands at the level of operator tables, which it meets at one load; the error is that
    of whole curves moved so, at all their loads.
    """
    new = calibration.unmeasured(deployment)
    if at_level:
        mixture = import_module("wattmill.twin.operators.mixture")
        found: float | None = mixture.stored_factors().error_pct("tpot_mean", new, method=mixture.LEVELLED)
        return None if found is None else found / 100.0
    errors = [
        one.median_pct
        for one in calibration.held_out
        if one.method == "law" and one.metric == "tpot_mean" and one.folds in (new or ("curves",))
    ]
    return max(errors) / 100.0 if errors else None


def _watts_mw(deployment: Deployment, declared: DeploymentTimes, slots: int) -> tuple[int, tuple[int, ...]]:
    """Return the idle draw of one replica and its table by sequences in a step; no table where the power
    limit of the device is not published."""
    if deployment.accelerator.tdp_w is None:
        return 0, ()
    curve = curve_of(deployment.accelerator)
    idle_w = curve.idle_w * deployment.gpus if declared.idle_w is None else declared.idle_w
    table = [max(idle_w, power_w(curve, n) * deployment.gpus) for n in range(slots + 1)]
    return round(idle_w * MW_PER_W), tuple(round(watts * MW_PER_W) for watts in table)
