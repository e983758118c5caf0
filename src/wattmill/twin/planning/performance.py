"""What one replica does at each batch: a curve of predictions, read at a promise.

The planner asks the step-time law through `Performance`, the signature of `twin.prediction.predict`, and
nothing else: the law that is validated is the law that plans.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import msgspec

from wattmill.compute.model import curve_of, power_w
from wattmill.compute.spec import Accelerator
from wattmill.models.deployment import Deployment
from wattmill.twin.law.spec import Disaggregation, Speculation
from wattmill.twin.prediction import Class, Interval, Prediction


class Performance(Protocol):
    """Predicts one replica under `concurrency` users who ask again as soon as they are answered.

    The last two are asked of pools that have them, and of no other.
    """

    def __call__(
        self,
        deployment: Deployment,
        *,
        isl: int,
        osl: int,
        concurrency: int,
        disaggregation: Disaggregation | None = None,
        speculation: Speculation | None = None,
    ) -> Prediction: ...


class Power(Protocol):
    """Watts of one accelerator whose replica decodes `batch`; 0 is idle. None: nobody knows."""

    def __call__(self, part: Accelerator, batch: float) -> float | None: ...


def declared_power(part: Accelerator, batch: float) -> float | None:
    """Return the watts of the declared power law of devices; None where no rating is published."""
    return power_w(curve_of(part), batch) if part.tdp_w is not None else None


def slow_end(performance: Performance) -> Performance:
    """Return a law that takes the slow end of each interval for its figure: what is promised then holds in
    nine cases of ten, as far as the interval is right."""

    def predicted(deployment: Deployment, *, isl: int, osl: int, concurrency: int, **more: Any) -> Prediction:
        found = performance(deployment, isl=isl, osl=osl, concurrency=concurrency, **more)
        return msgspec.structs.replace(found, ttft_s=_slow(found.ttft_s), tpot_s=_slow(found.tpot_s))

    return predicted


def _slow(interval: Interval) -> Interval:
    return Interval(value=interval.high, low=interval.low, high=interval.high)


class Point(NamedTuple):
    concurrency: int
    prediction: Prediction


class Curve(NamedTuple):
    """Predictions at rising batches, for one deployment and one pair of lengths."""

    points: tuple[Point, ...]
    output_tok: float

    def at_promise(
        self, *, ttft_s: float, tok_per_s: float, slower: float = 1.0, ttft_slower: float = 1.0
    ) -> Reached | None:
        """Return the batch with the most throughput that keeps both promises; None: not even one alone.

        Between two predicted batches, time per token and to the first token are straight lines in the batch.
        `slower` and `ttft_slower` are factors on the law's figures: 1.1 asks what holds if it is 10 % too
        fast.
        """
        best: Reached | None = None
        limit_s = 1.0 / tok_per_s
        before: Point | None = None
        for point in self.points:
            batch = float(point.concurrency)
            if not _kept(point, limit_s, ttft_s, slower, ttft_slower):
                if before is None:
                    break
                batch = _crossing(before, point, limit_s, ttft_s, slower, ttft_slower)
            reached = self._reached(before, point, batch, slower, ttft_slower)
            if best is None or reached.requests_per_s > best.requests_per_s:
                best = reached
            if batch < point.concurrency:
                break
            before = point
        return best

    def _reached(
        self, before: Point | None, point: Point, batch: float, slower: float, ttft_slower: float
    ) -> Reached:
        batch = float(max(1, math.floor(batch + 1e-9)))
        a, b = before or point, point
        width = b.concurrency - a.concurrency
        part = (batch - a.concurrency) / width if width else 1.0
        part = max(0.0, min(1.0, part))

        def mixed(one: Interval, two: Interval, factor: float) -> Interval:
            return Interval(
                value=factor * (one.value + part * (two.value - one.value)),
                low=factor * (one.low + part * (two.low - one.low)),
                high=factor * (one.high + part * (two.high - one.high)),
            )

        tpot = mixed(a.prediction.tpot_s, b.prediction.tpot_s, slower)
        ttft = mixed(a.prediction.ttft_s, b.prediction.ttft_s, ttft_slower)
        seconds = ttft.value + tpot.value * (self.output_tok - 1.0)
        nearer = b if part > 0.5 else a
        return Reached(
            batch=int(batch),
            ttft_s=ttft,
            tpot_s=tpot,
            requests_per_s=batch / seconds,
            klass=nearer.prediction.klass,
            nearest=nearer.prediction.nearest,
            nearer=nearer.prediction,
        )


class Reached(NamedTuple):
    """What one replica gives at a promise."""

    batch: int
    ttft_s: Interval
    tpot_s: Interval
    requests_per_s: float  # batch over the time that a request takes (Little's law)
    klass: Class
    nearest: str | None
    nearer: Prediction  # of the two that it lies between


def _kept(point: Point, limit_s: float, ttft_s: float, slower: float, ttft_slower: float) -> bool:
    p = point.prediction
    return slower * p.tpot_s.value <= limit_s and ttft_slower * p.ttft_s.value <= ttft_s


def _crossing(
    before: Point, after: Point, limit_s: float, ttft_s: float, slower: float, ttft_slower: float
) -> float:
    """Return the batch between two points at which the first promise breaks."""
    low, high = before.prediction, after.prediction
    parts = [1.0]
    for a, b, limit in (
        (slower * low.tpot_s.value, slower * high.tpot_s.value, limit_s),
        (ttft_slower * low.ttft_s.value, ttft_slower * high.ttft_s.value, ttft_s),
    ):
        if b > limit:
            parts.append((limit - a) / (b - a))
    part = max(0.0, min(parts))
    return before.concurrency + part * (after.concurrency - before.concurrency)


def batches(most: int) -> list[int]:
    """Return the batches at which the law is asked: 1, 2, 3, 4, 6, 8, 12 ... and `most` itself."""
    grid = sorted({size for power in range(12) for size in (2**power, 3 * 2 ** max(power - 1, 0))})
    return [size for size in grid if size < most] + ([most] if most >= 1 else [])


def curve(
    performance: Performance,
    deployment: Deployment,
    *,
    input_tok: float,
    output_tok: float,
    most: int,
    slowest_tok_per_s: float,
    **more: Any,
) -> Curve:
    """Ask the law at rising batches, until a stream is slower than any promise needs; `more` of it, too."""
    points: list[Point] = []
    for size in batches(most):
        prediction = performance(
            deployment, isl=max(1, round(input_tok)), osl=max(2, round(output_tok)), concurrency=size, **more
        )
        points.append(Point(size, prediction))
        if prediction.tpot_s.value > 2.0 / slowest_tok_per_s:
            break
    return Curve(tuple(points), output_tok)
