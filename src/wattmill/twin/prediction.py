"""What a deployment will do under a load: three figures, each with its interval, and how sure that is."""

from __future__ import annotations

from typing import Literal

import msgspec

from wattmill.models.deployment import Deployment
from wattmill.models.step_time import DATASHEET, step_s

Class = Literal["interpolated", "extrapolated", "inputs missing"]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A figure and the bounds between which four of five measurements are expected."""

    value: float
    low: float
    high: float


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Means over the requests of a closed loop at fixed concurrency."""

    ttft_s: Interval
    tpot_s: Interval
    output_tok_per_s: Interval  # of the whole deployment
    klass: Class
    nearest: str | None  # the calibration group whose measurements carry the prediction; None: there is none


_UNFITTED = 2.0  # without a fit, datasheet efficiencies are taken for right within this factor


def predict(deployment: Deployment, *, isl: int, osl: int, concurrency: int) -> Prediction:
    """Return what `concurrency` users see who ask again as soon as they are answered.

    Args:
        deployment: one replica; its accelerator must be one that the law predicts.
        isl: prompt tokens of a request, >= 1.
        osl: output tokens of a request, >= 2 (there is no time between fewer).
        concurrency: requests at work at any time, >= 1.

    Raises:
        ValueError: an argument is out of range, or the accelerator is listed only.
    """
    for name, given, least in (("isl", isl, 1), ("osl", osl, 2), ("concurrency", concurrency, 1)):
        if given < least:
            raise ValueError(f"{name} must be at least {least}, got {given}")
    if not deployment.accelerator.predicted:
        raise ValueError(
            f"{deployment.accelerator.name} is listed, not predicted: {deployment.accelerator.notes}"
        )
    decode = step_s(
        deployment,
        DATASHEET,
        decode_n=concurrency,
        context_tok=concurrency * (isl + osl / 2),
    )
    prefill = step_s(
        deployment,
        DATASHEET,
        decode_n=0,
        context_tok=0,
        prefill_tok=isl,
        prefill_attention_tok2=isl * isl / 2,
    )
    tpot = decode + prefill * concurrency / osl
    ttft = prefill + tpot
    per_s = concurrency * osl / (ttft + tpot * (osl - 1))
    return Prediction(
        ttft_s=_within(ttft),
        tpot_s=_within(tpot),
        output_tok_per_s=_within(per_s),
        klass="extrapolated",
        nearest=None,
    )


def _within(value: float) -> Interval:
    return Interval(value=value, low=value / _UNFITTED, high=value * _UNFITTED)
