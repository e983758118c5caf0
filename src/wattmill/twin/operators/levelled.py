"""The law brought to the level that a prior has for one deployment: for engines that are simulated.

A prior gives two times at one load. A simulated engine needs a cost of every step, which the law's terms say:
their shape is the law's, and their level is moved so that at that load the time per token comes out as the
prior's. What lies between the client and the engine is moved as the time to the first token is; since prompts
are moved with the steps, that time comes out near the prior's, and not as the prior's.
"""

from __future__ import annotations

from functools import partial
from math import log

import msgspec

from wattmill.models.deployment import Deployment
from wattmill.models.step_time import TERMS
from wattmill.twin.law.calibration import Calibration, stored
from wattmill.twin.law.fit import GLOBAL
from wattmill.twin.prediction import Prior, predict


def levelled(
    deployment: Deployment,
    prior: Prior,
    *,
    isl: int,
    osl: int,
    concurrency: int,
    calibration: Calibration | None = None,
) -> tuple[Calibration, str]:
    """Return coefficients for this deployment, and what they rest on beside the law; "": they are the law's.

    Exact at the load asked for; at others the law's own shape is trusted, and its distance from the prior has
    no bound (docs/lab/operator-tables.md has how wrong that was on models and accelerators left out).
    """
    law = calibration or stored()
    asked = partial(predict, deployment, isl=isl, osl=osl, concurrency=concurrency, calibration=law)
    found = asked(prior=prior)
    if not found.basis:
        return law, ""
    alone = asked()
    step = log(found.tpot_s.value / alone.tpot_s.value)
    way = log(found.ttft_s.value / alone.ttft_s.value)
    moved = tuple(x + (step if at < len(TERMS) else way) for at, x in enumerate(law.deviations[GLOBAL]))
    return msgspec.structs.replace(law, deviations=law.deviations | {GLOBAL: moved}), found.basis
