"""What a deployment will do under a load: three figures, each with its interval, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wattmill.models.deployment import Deployment
from wattmill.twin.law.spec import Class, Disaggregation, Interval, Outside, Prediction, Prior, Speculation

if TYPE_CHECKING:
    from wattmill.twin.law.calibration import Calibration

__all__ = ["Class", "Disaggregation", "Interval", "Outside", "Prediction", "Prior", "Speculation", "predict"]


def predict(
    deployment: Deployment,
    *,
    isl: int,
    osl: int,
    concurrency: int,
    first_wave: bool = False,
    disaggregation: Disaggregation | None = None,
    speculation: Speculation | None = None,
    calibration: Calibration | None = None,
    prior: Prior | None = None,
) -> Prediction:
    """Return what `concurrency` users see who ask again as soon as they are answered.

    The law's coefficients come from public measurements, the intervals from errors on such as were held out
    of the fit: curves for what is interpolated, whole models and accelerators for what is not.

    Args:
        deployment: one replica; its accelerator must be one that the law predicts.
        isl: prompt tokens of a request at most (lengths are uniform from 0.8 of it), >= 1.
        osl: output tokens of a request at most, >= 2 (there is no time between fewer).
        concurrency: requests at work at any time, >= 1.
        first_wave: whether all users come in one instant, as benchmarks' clients do.
        disaggregation: prefill workers, if there are any; `first_wave` is then implied.
        speculation: off by default; measurements do not record it.
        calibration: other coefficients than the stored ones.
        prior: what knows of models and accelerators that were never measured, such as operator tables
            (`twin.operators.mixture.operators_installed`); without one the law stands alone. With
            speculation it stands alone, too.

    Raises:
        ValueError: an argument is out of range, or the accelerator is listed only.
    """
    for name, given, least in (("isl", isl, 1), ("osl", osl, 2), ("concurrency", concurrency, 1)):
        if given < least:
            raise ValueError(f"{name} must be at least {least}, got {given}")
    parts = [deployment.accelerator]
    if disaggregation is not None:
        parts.append(disaggregation.prefill.accelerator)
    for part in parts:
        if not part.predicted:
            raise ValueError(f"{part.name} is listed, not predicted: {part.notes or part.source}")
    # Not at the top: numba takes a second, and whoever only names a `Prediction` need not wait for it.
    from wattmill.twin.law.answer import answered

    return answered(
        deployment,
        isl=isl,
        osl=osl,
        concurrency=concurrency,
        first_wave=first_wave,
        disaggregation=disaggregation,
        speculation=speculation,
        calibration=calibration,
        prior=prior,
    )
