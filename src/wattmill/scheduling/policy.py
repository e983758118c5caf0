"""The policy that holds unless another is declared."""

from __future__ import annotations

from wattmill.scheduling.filters import visible_models
from wattmill.scheduling.policies import POLICIES

cheapest_adequate = POLICIES["cheapest-adequate"]
"""The score is expected dollars + `weights.usd_per_s` x expected seconds and what else the weights value;
ties go to the place declared first. A place that fails a hard rule is never a candidate, whatever its score:
the gateway's failover walks the candidates only."""

__all__ = ["cheapest_adequate", "visible_models"]
