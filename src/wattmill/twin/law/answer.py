"""The insides of `predict`: a configuration, its mean work, the law over it, the interval about it."""

from __future__ import annotations

from msgspec.structs import replace

from wattmill.models.deployment import Deployment
from wattmill.models.step_time import speculated
from wattmill.twin.law.calibration import Calibration, stored
from wattmill.twin.law.disaggregated import handed_over_s
from wattmill.twin.law.features import loop_of, terms_of
from wattmill.twin.law.rows import Configuration, Side
from wattmill.twin.law.spec import (
    METRICS,
    Disaggregation,
    Interval,
    Mixed,
    Outside,
    Prediction,
    Prior,
    Speculation,
    with_prior,
)


def answered(
    deployment: Deployment,
    *,
    isl: int,
    osl: int,
    concurrency: int,
    first_wave: bool,
    disaggregation: Disaggregation | None,
    speculation: Speculation | None,
    calibration: Calibration | None,
    prior: Prior | None,
) -> Prediction:
    law = calibration or stored()
    c = asked(deployment, isl=isl, osl=osl, concurrency=concurrency, disaggregation=disaggregation)
    loop = loop_of(c, first_wave=first_wave, drafted=speculation.drafted if speculation else 0)
    per_token = loop.per_token
    if speculation is not None:
        per_token = speculated(
            per_token, deployment, drafted=speculation.drafted, acceptance=speculation.acceptance
        )
    first, each = terms_of(c, loop.to_first_token, per_token)
    klass, near = law.classify(c), law.nearest(c)
    outside = () if klass == "interpolated" else law.outside(c)
    if speculation is not None:
        outside = (*outside, Outside(what=f"{speculation.drafted} drafted tokens: no measured row has any"))
        klass = "extrapolated" if klass == "interpolated" else klass
    prior = prior if speculation is None else None
    ttft, tpot = (
        with_prior(
            prior, law, c, metric, law.seconds(c, terms), klass=klass, first_wave=first_wave, was_run=False
        )
        for metric, terms in zip(METRICS, (first, each), strict=True)
    )

    waits_s = 0.0
    if disaggregation is not None:
        cycle_s = ttft.value_s + tpot.value_s * (osl - 1)
        waits_s = handed_over_s(deployment, disaggregation, isl=isl, users=concurrency, cycle_s=cycle_s)
    tpot = _later(tpot, waits_s / (osl - 1))

    def per_s(ttft_s: float, tpot_s: float) -> float:
        return concurrency * osl / (ttft_s + tpot_s * (osl - 1))

    return Prediction(
        ttft_s=_interval(ttft),
        tpot_s=_interval(tpot),
        # Both late or both early: wider than either alone.
        output_tok_per_s=Interval(
            value=per_s(ttft.value_s, tpot.value_s),
            low=per_s(ttft.high_s, tpot.high_s),
            high=per_s(ttft.low_s, tpot.low_s),
        ),
        klass=klass,
        nearest=near.name if near else None,
        outside=outside,
        tpot_if_interpolated_s=None if klass == "interpolated" else _if_interpolated(law, c, tpot.value_s),
        basis=tpot.basis,
    )


def _later(time: Mixed, by_s: float) -> Mixed:
    return replace(time, value_s=time.value_s + by_s, low_s=time.low_s + by_s, high_s=time.high_s + by_s)


def _interval(time: Mixed) -> Interval:
    return Interval(value=time.value_s, low=time.low_s, high=time.high_s)


def _if_interpolated(law: Calibration, c: Configuration, tpot_s: float) -> Interval:
    low, high = law.bounds("tpot_mean", "interpolated", c, tpot_s)
    return Interval(value=tpot_s, low=low, high=high)


def asked(
    deployment: Deployment,
    *,
    isl: int,
    osl: int,
    concurrency: int,
    disaggregation: Disaggregation | None = None,
) -> Configuration:
    """Return the configuration that a measured row of the same run would describe."""
    apart = disaggregation
    return Configuration(
        architecture=deployment.architecture,
        accelerator=deployment.accelerator,
        engine=deployment.engine,
        version="",
        precision="",
        weight_bits=deployment.weight_bits,
        kv_bits=deployment.kv_bits,
        weight_only=deployment.weight_only,
        disaggregated=apart is not None,
        prefill=_side(apart.prefill if apart else deployment),
        decode=_side(deployment),
        prefill_workers=apart.prefill_workers if apart else 1,
        decode_workers=apart.decode_workers if apart else 1,
        pp=deployment.pp,
        isl=isl,
        osl=osl,
        concurrency=concurrency,
        known_client=True,
        missing=(),
        graph_sizes=deployment.graph_sizes,
    )


def _side(d: Deployment) -> Side:
    return Side(tp=d.tp, ep=d.ep, attn_dp=d.attn_dp)
