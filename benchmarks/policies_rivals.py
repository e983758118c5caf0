"""LiteLLM's routing strategies as baselines, written from their documentation (docs.litellm.ai, "Router -
Load Balancing", as of November 2026), not from their code.

What all of them share there: a request goes to one deployment of its model group; deployments at their
`max_parallel_requests` are left out (`enable_pre_call_check`); there is no class of data, so each privacy
class is its own model group that lists the places which may see it. No weights, rpm or tpm are configured.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

from wattmill.twin.bound.terms import may_serve
from wattmill.twin.spec import Place, Served, Work
from wattmill.units import PS_PER_S, PS_PER_US, US_PER_S
from wattmill.vocab.caller import Caller


class _Group:
    """Deployments that may serve, and are not at their `max_parallel_requests` (slots and queue here)."""

    def __init__(self, places: Sequence[Place], *, model: str, caller: Caller, seed: int) -> None:
        self._places = places
        self._model = model
        self._caller = caller
        self._by_class: dict[str, list[int]] = {}
        self._rng = random.Random(seed)

    def choose(self, index: int, work: Work, now_us: int, in_flight: Sequence[int]) -> int | str:
        group = self._by_class.get(work.privacy)
        if group is None:
            group = [
                at
                for at, place in enumerate(self._places)
                if may_serve(place, work, self._model, self._caller)
            ]
            self._by_class[work.privacy] = group
        pools = [self._places[at].pool for at in group]
        free = [
            at
            for at, pool in zip(group, pools, strict=True)
            if in_flight[at] < pool.slots + pool.queue and work.input_tok < pool.context_tok
        ]
        return self.pick(free, now_us, in_flight) if free else "overloaded"

    def pick(self, free: list[int], now_us: int, in_flight: Sequence[int]) -> int:
        raise NotImplementedError

    def answered(self, index: int, place: int) -> None:
        pass

    def ended(self, served: Served, work: Work) -> None:
        pass

    def refresh(self, now_us: int) -> None:
        pass


class SimpleShuffle(_Group):
    """`simple-shuffle`, the default: "a weighted random deployment"; without weights, rpm and tpm uniform."""

    def pick(self, free: list[int], now_us: int, in_flight: Sequence[int]) -> int:
        return self._rng.choice(free)


class LeastBusy(_Group):
    """`least-busy`: "picks a deployment with the least number of ongoing calls, it's handling". Ties, of
    which the page says nothing, go to the first."""

    def pick(self, free: list[int], now_us: int, in_flight: Sequence[int]) -> int:
        return min(free, key=lambda at: in_flight[at])


class LatencyBased(_Group):
    """`latency-based-routing`: "picks the deployment with the lowest response time. It caches, and updates
    the response times for deployments based on when a request was sent and received". `ttl` is "how far back
    to consider when averaging latency": an hour here. `lowest_latency_buffer` is 0 unless set, so the lowest
    mean alone is a candidate. A deployment of which nothing is known yet counts as 0 and is tried.
    """

    def __init__(self, places: Sequence[Place], *, model: str, caller: Caller, seed: int) -> None:
        super().__init__(places, model=model, caller=caller, seed=seed)
        self._known: list[deque[tuple[int, float]]] = [deque(maxlen=10) for _ in places]
        self._ttl_us = 3_600 * US_PER_S

    def ended(self, served: Served, work: Work) -> None:
        seconds = (served.end_ps - served.at_ps) / PS_PER_S
        self._known[served.place].append((served.end_ps // PS_PER_US, seconds))

    def pick(self, free: list[int], now_us: int, in_flight: Sequence[int]) -> int:
        return min(free, key=lambda at: self._mean_s(at, now_us))

    def _mean_s(self, at: int, now_us: int) -> float:
        known = self._known[at]
        while known and known[0][0] < now_us - self._ttl_us:
            known.popleft()
        return sum(seconds for _, seconds in known) / len(known) if known else 0.0


class CostBased(_Group):
    """`cost-based-routing`: "get all healthy deployments; select all deployments that are under their
    provided rpm/tpm limits; ... select deployment with lowest cost". The cost of a deployment is its price
    of an input token plus that of an output token (`input_cost_per_token`, `output_cost_per_token`)."""

    def pick(self, free: list[int], now_us: int, in_flight: Sequence[int]) -> int:
        pools = {at: self._places[at].pool for at in free}
        model = self._model
        return min(
            free,
            key=lambda at: (
                pools[at].charge_in_nusd_per_mtok[model] + pools[at].charge_out_nusd_per_mtok[model]
            ),
        )


RIVALS = {
    "litellm simple-shuffle": SimpleShuffle,
    "litellm least-busy": LeastBusy,
    "litellm latency-based": LatencyBased,
    "litellm cost-based": CostBased,
}
