"""What a worker counts: one table of metrics with closed label sets, and counters that add up over workers.

`METRICS` is the source of the reference page and of the Prometheus text; a label's value always comes from a
closed set (endpoints, pools, refusal codes, token classes), never from a client.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from operator import add
from typing import Any, Literal

import msgspec

from wattmill.vocab.usage import TOKEN_CLASSES, Usage

TTFT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
DURATION_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metric(msgspec.Struct, frozen=True):
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: tuple[Metric, ...] = (
    Metric(
        "wattmill_requests_total",
        "counter",
        "Requests answered, by the class of their HTTP status; 'gone' where the client left first.",
        ("endpoint", "pool", "status"),
    ),
    Metric("wattmill_refusals_total", "counter", "Requests refused, by refusal code.", ("code",)),
    Metric(
        "wattmill_runaway_total", "counter", "Calls like a runaway's, and what was done.", ("kind", "action")
    ),
    Metric("wattmill_attempts_total", "counter", "Attempts by how they ended.", ("pool", "status")),
    Metric("wattmill_tokens_total", "counter", "Tokens by pool and token class.", ("pool", "class")),
    Metric("wattmill_charge_nusd_total", "counter", "Charged to tenants, nano-dollars.", ("pool",)),
    Metric("wattmill_cost_nusd_total", "counter", "Cost to the factory, nano-dollars.", ("pool",)),
    Metric("wattmill_overrun_nusd_total", "counter", "Beyond the reservation, nano-dollars.", ("pool",)),
    Metric("wattmill_unmetered_total", "counter", "Attempts whose tokens could not be counted.", ("pool",)),
    Metric(
        "wattmill_ttft_seconds",
        "histogram",
        "From a request's arrival to its first content.",
        ("pool",),
        TTFT_BUCKETS_S,
    ),
    Metric(
        "wattmill_duration_seconds",
        "histogram",
        "From a request's arrival to its end.",
        ("pool",),
        DURATION_BUCKETS_S,
    ),
    Metric("wattmill_in_flight", "gauge", "Requests admitted and not ended."),
    Metric("wattmill_connections", "gauge", "Open client connections."),
    Metric("wattmill_pool_busy", "gauge", "Slots taken at a pool.", ("pool",)),
    Metric("wattmill_pool_lingering", "gauge", "Slots of aborted requests not yet free.", ("pool",)),
    Metric("wattmill_pool_up", "gauge", "Workers that see the pool as healthy.", ("pool",)),
    Metric(
        "wattmill_queued_total",
        "counter",
        "Requests that waited at the gateway for a place, by tier: 'served', 'refused' (it took too long, "
        "or another had the better right) or 'gone'.",
        ("tier", "outcome"),
    ),
    Metric(
        "wattmill_queued_seconds_total", "counter", "Time that requests waited at the gateway.", ("tier",)
    ),
    Metric("wattmill_aborts_total", "counter", "Requests whose client left before the end.", ("pool",)),
    Metric("wattmill_failovers_total", "counter", "Requests sent on to another pool.", ("pool",)),
    Metric(
        "wattmill_escalations_total",
        "counter",
        "Answers of a small model that went on to a larger one (policy `cascade`).",
        ("pool",),
    ),
    Metric(
        "wattmill_retries_refused_total",
        "counter",
        "Further attempts that the budget for trying again did not allow.",
        ("pool",),
    ),
    Metric(
        "wattmill_hedges_total",
        "counter",
        "Second attempts beside a late one, by the second one's pool: 'started' or 'refused' (no room in the "
        "budget), then 'won', 'lost' or 'failed'.",
        ("pool", "outcome"),
    ),
    Metric(
        "wattmill_continuations_total",
        "counter",
        "Streams that broke off at this pool and went on elsewhere.",
        ("pool",),
    ),
    Metric(
        "wattmill_privacy_found_total",
        "counter",
        "What declared patterns found in requests that were not refused for it: matches, by what was done.",
        ("pattern", "action"),
    ),
    Metric(
        "wattmill_batch_lines_total",
        "counter",
        "Lines of batches: 'good', 'bad', or 'again' (asked, and told to wait).",
        ("outcome",),
    ),
    Metric("wattmill_replays_total", "counter", "Answers told again for an idempotency key."),
    Metric("wattmill_cache_hits_total", "counter", "Requests answered from the cache."),
    Metric("wattmill_cache_misses_total", "counter", "Requests that the cache could have answered."),
    Metric("wattmill_cache_saved_nusd_total", "counter", "What cached answers saved tenants, nano-dollars."),
    Metric("wattmill_breaker_opened_total", "counter", "Times that a pool's breaker opened.", ("pool",)),
    Metric(
        "wattmill_abort_linger_seconds_total",
        "counter",
        "Time that engines worked on after an abort.",
        ("pool",),
    ),
    Metric("wattmill_journal_failures_total", "counter", "Records that the journal would not take."),
    Metric("wattmill_defects_total", "counter", "Unexpected exceptions; each is in the log."),
)

BY_NAME = {metric.name: metric for metric in METRICS}

_Labels = tuple[str, ...]
_INPUT, _CACHED, _OUTPUT = map(TOKEN_CLASSES.index, ("input", "cached_input", "output"))


class PoolCounts:
    """What one pool did, counted where it is cheap: once per finished attempt. `Metrics` tells it."""

    __slots__ = ("charge_nusd", "cost_nusd", "duration_s", "finished", "tokens", "ttft_s")

    def __init__(self) -> None:
        self.finished = 0
        self.charge_nusd = 0
        self.cost_nusd = 0
        self.tokens = [0] * len(TOKEN_CLASSES)
        self.ttft_s = [0.0] * (len(TTFT_BUCKETS_S) + 2)  # counts per bucket, then +Inf, then the sum
        self.duration_s = [0.0] * (len(DURATION_BUCKETS_S) + 2)

    def used(self, usage: Usage | None, cost_nusd: int, charge_nusd: int) -> None:
        self.cost_nusd += cost_nusd
        self.charge_nusd += charge_nusd
        if usage is None:
            return
        if usage.reasoning_tok or usage.cache_write_tok or usage.audio_in_tok or usage.audio_out_tok:
            self.tokens = list(map(add, self.tokens, usage.by_class()))
            return
        tokens, cached_tok = self.tokens, usage.cached_tok
        tokens[_INPUT] += usage.prompt_tok - cached_tok
        tokens[_OUTPUT] += usage.output_tok
        if cached_tok:
            tokens[_CACHED] += cached_tok

    def took(self, ttft_s: float | None, duration_s: float) -> None:
        """Count one finished attempt by its times."""
        self.finished += 1
        series = self.duration_s
        series[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
        series[-1] += duration_s
        if ttft_s is not None:
            series = self.ttft_s
            series[bisect_left(TTFT_BUCKETS_S, ttft_s)] += 1
            series[-1] += ttft_s


class Metrics:
    """Counters of one worker. The methods are named for what happened."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolCounts] = {}
        self.values: dict[str, dict[_Labels, float]] = {
            m.name: ({} if m.labels else {(): 0}) for m in METRICS if m.kind != "histogram"
        }
        self._requests = self.values["wattmill_requests_total"]

    def pool(self, name: str) -> PoolCounts:
        """Return the counts of one pool: the same object each time."""
        counts = self.pools.get(name)
        if counts is None:
            counts = self.pools[name] = PoolCounts()
        return counts

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        family = self.values[name]
        family[labels] = family.get(labels, 0) + by

    def answered(self, endpoint: str, pool: str, status: str) -> None:
        key = (endpoint, pool, status)
        self._requests[key] = self._requests.get(key, 0) + 1

    def snapshot(self, gauges: dict[str, list[tuple[_Labels, float]]] | None = None) -> dict[str, Any]:
        """Return {name: [[labels, value or buckets], …]}, JSON-able; snapshots of workers add up."""
        taken: dict[str, Any] = {
            name: [[list(labels), value] for labels, value in family.items()]
            for name, family in self.values.items()
        }
        for pool, counts in self.pools.items():
            taken["wattmill_charge_nusd_total"].append([[pool], counts.charge_nusd])
            taken["wattmill_cost_nusd_total"].append([[pool], counts.cost_nusd])
            if counts.finished:
                taken["wattmill_attempts_total"].append([[pool, "finished"], counts.finished])
            taken["wattmill_tokens_total"] += [
                [[pool, name], tokens]
                for name, tokens in zip(TOKEN_CLASSES, counts.tokens, strict=True)
                if tokens
            ]
        taken["wattmill_ttft_seconds"] = [[[p], list(c.ttft_s)] for p, c in self.pools.items()]
        taken["wattmill_duration_seconds"] = [[[p], list(c.duration_s)] for p, c in self.pools.items()]
        for name, rows in (gauges or {}).items():
            taken[name] = [[list(labels), value] for labels, value in rows]
        return taken


def merge(snapshots: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add snapshots of several workers: sums per metric and labels; histograms per bucket.

    Metrics this version does not know are left out, so that workers of two versions can be summed.
    """
    sums: dict[str, dict[_Labels, Any]] = {metric.name: {} for metric in METRICS}
    for snapshot in snapshots:
        for name, rows in snapshot.items():
            family = sums.get(name)
            if family is None:
                continue
            for labels, value in rows:
                key = tuple(labels)
                old = family.get(key)
                if old is None:
                    family[key] = list(value) if isinstance(value, list) else value
                elif isinstance(value, list):
                    family[key] = [a + b for a, b in zip(old, value, strict=True)]
                else:
                    family[key] = old + value
    return {name: [[list(k), v] for k, v in sorted(rows.items())] for name, rows in sums.items()}
