"""What the gateway does when a place fails or is slow: declared under `[resilience]`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.distribution.breaker import BreakerRules
from wattmill.distribution.retry_budget import RetryRules
from wattmill.units import MS_PER_S

Payer = Literal["operator", "tenant"]


class Resilience(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens when a place fails, is slow, or breaks off in the middle."""

    attempts: Annotated[
        int, Meta(ge=1, le=64, description="Attempts at most for one request, hedges included.")
    ] = 6
    hedge_after: Annotated[
        str,
        Meta(
            pattern=r"^(off|p[1-9][0-9]{1}(\.[0-9])?|[0-9]+(\.[0-9]+)? (ms|s))$",
            description="When a second place is asked as well, if the first has given no content: `off`, a "
            "percentile of that place's own time to first content such as `p95`, or a time such as `800 ms`.",
            examples=["p95"],
        ),
    ] = "off"
    hedge_least_ms: Annotated[
        int, Meta(ge=1, description="No hedge sooner than this, whatever the percentile says.")
    ] = 20
    losers_pay: Annotated[
        Payer, Meta(description="Who pays what the slower side of a hedge has used until it was cancelled.")
    ] = "operator"
    failovers_pay: Annotated[
        Payer, Meta(description="Who pays what an attempt has used that failed before its first content.")
    ] = "operator"
    continuation: Annotated[
        bool,
        Meta(
            description="A stream that breaks after its first content goes on at another place, with what "
            "was said as the beginning of its answer. That is reserved and billed again as input."
        ),
    ] = False
    breaker: Annotated[BreakerRules, Meta(description="When a place is left alone.")] = BreakerRules()
    retries: Annotated[RetryRules, Meta(description="How much is tried again.")] = RetryRules()

    @property
    def hedge_quantile(self) -> float | None:
        """Return the percentile as a share, None where none is declared."""
        return float(self.hedge_after[1:]) / 100 if self.hedge_after[0] == "p" else None

    @property
    def hedge_s(self) -> float | None:
        """Return the fixed time, None where none is declared."""
        if self.hedge_after[0] in "op":
            return None
        number, _, unit = self.hedge_after.partition(" ")
        return float(number) / (MS_PER_S if unit == "ms" else 1)
