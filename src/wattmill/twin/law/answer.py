"""The insides of `predict`: a configuration, its mean work, the law over it, the interval about it."""

from __future__ import annotations

from wattmill.models.deployment import Deployment
from wattmill.models.step_time import speculated
from wattmill.twin.law.calibration import Calibration, stored
from wattmill.twin.law.features import loop_of, terms_of
from wattmill.twin.law.rows import Configuration, Side
from wattmill.twin.law.spec import Disaggregation, Interval, Metric, Prediction, Prior, Speculation


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
    loop = loop_of(c, first_wave=first_wave)
    per_token = loop.per_token
    if speculation is not None:
        per_token = speculated(
            per_token, deployment, drafted=speculation.drafted, acceptance=speculation.acceptance
        )
    first, each = terms_of(c, loop.to_first_token, per_token)
    klass, near = law.classify(c), law.nearest(c)
    basis = ""

    def time(metric: Metric, law_s: float) -> Interval:
        nonlocal basis
        if prior is not None and speculation is None:
            found = prior.mixed(law, c, metric, law_s, first_wave=first_wave, was_run=False)
            if not isinstance(found, str):
                basis = found.basis
                return Interval(value=found.value_s, low=found.low_s, high=found.high_s)
        low, high = law.bounds(metric, klass, c, law_s)
        return Interval(value=law_s, low=low, high=high)

    ttft, tpot = time("ttft_mean", law.seconds(c, first)), time("tpot_mean", law.seconds(c, each))

    def per_s(ttft_s: float, tpot_s: float) -> float:
        return concurrency * osl / (ttft_s + tpot_s * (osl - 1))

    return Prediction(
        ttft_s=ttft,
        tpot_s=tpot,
        # Both late or both early: wider than either alone.
        output_tok_per_s=Interval(
            value=per_s(ttft.value, tpot.value),
            low=per_s(ttft.high, tpot.high),
            high=per_s(ttft.low, tpot.low),
        ),
        klass=klass,
        nearest=near.name if near else None,
        outside=() if klass == "interpolated" else law.outside(c),
        tpot_if_interpolated_s=None if klass == "interpolated" else _if_interpolated(law, c, tpot.value),
        basis=basis,
    )


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
    )


def _side(d: Deployment) -> Side:
    return Side(tp=d.tp, ep=d.ep, attn_dp=d.attn_dp)
