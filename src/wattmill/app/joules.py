"""What an answer probably cost in joules: told at once, settled in the books when its window closes."""

from __future__ import annotations

from collections.abc import Mapping

from wattmill.app.declared.plan import places
from wattmill.app.declared.pool_settings import OwnedCost
from wattmill.app.declared.settings import Settings
from wattmill.vocab.usage import Usage


class JoulesPerToken:
    """A model of energy by pool: the declared power of an owned place over its declared speeds.

    Joules = power_w x (computed prompt tokens / prefill_tok_per_s + output tokens / decode_tok_per_s). A
    place of somebody else, and its stand-in, has no such figure: None, never 0.
    """

    def __init__(self, settings: Settings, env: Mapping[str, str]) -> None:
        self._by_pool: dict[str, tuple[float, float]] = {}
        for name, place in places(settings, env).items():
            cost = place.declared.cost
            if isinstance(cost, OwnedCost) and not place.stand_in:
                self._by_pool[name] = (
                    cost.power_w / cost.prefill_tok_per_s,
                    cost.power_w / cost.decode_tok_per_s,
                )

    def __call__(self, pool: str, usage: Usage) -> float | None:
        rates = self._by_pool.get(pool)
        if rates is None:
            return None
        computed_tok = usage.prompt_tok - usage.cached_tok
        return computed_tok * rates[0] + usage.output_tok * rates[1]
