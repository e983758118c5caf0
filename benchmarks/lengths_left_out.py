"""How wrong the step-time law is at lengths that were left out: `python benchmarks/lengths_left_out.py`.

Of each model on each engine, the rows on one side of the middle of its range of input or output tokens are
left out, the law is fitted again (other models keep theirs), and the rows are held against the interval of
known curves and of what is extrapolated, by how many times they lie beyond what was kept. About 60 fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log, sqrt

import msgspec
import numpy as np

from wattmill.twin.law.calibration import stored
from wattmill.twin.law.rows import measured_rows
from wattmill.twin.law.samples import METRICS, Samples, samples

TIMES = ((1.0, 2.0), (2.0, 5.0), (5.0, 10.0))


class Far(msgspec.Struct, frozen=True):
    """One row whose length was left out."""

    side: str
    times: float  # beyond the nearest length that was kept
    metric: str
    known_client: bool
    error: float  # ln(measured / predicted)
    in_known: bool  # inside the interval of known curves
    in_extrapolated: bool


def left_out(s: Samples) -> Iterator[Far]:
    """Yield every row with complete inputs whose length was left out, once for each way to leave it out."""
    law, cs = stored(), s.configurations
    for model, engine in sorted({(c.architecture.name, c.engine) for c in cs}):
        mine = np.array([c.architecture.name == model and c.engine == engine for c in cs])
        for what in ("isl", "osl"):
            lengths = np.array([getattr(c, what) for c in cs], dtype=float)
            middle = sqrt(lengths[mine].min() * lengths[mine].max())
            for side, out in (("below", mine & (lengths < middle)), ("above", mine & (lengths > middle))):
                kept = lengths[mine & ~out]
                if not out.any() or not len(kept):
                    continue
                fit = s.which(np.flatnonzero(~out)).fitted()
                asked = s.which(np.flatnonzero(out))
                predicted = fit.log_seconds(asked.terms, asked.groups)
                edge = kept.min() if side == "below" else kept.max()
                for at, c in enumerate(asked.configurations):
                    if c.missing:
                        continue
                    error = float(asked.log_seconds[at] - predicted[at])
                    inside = [
                        low <= exp(error) <= high
                        for low, high in (
                            law.bounds(asked.metrics[at], klass, c, 1.0)
                            for klass in ("interpolated", "extrapolated")
                        )
                    ]
                    times = exp(abs(log(getattr(c, what) / edge)))
                    yield Far(f"{what} {side}", times, asked.metrics[at], c.known_client, error, *inside)


def main() -> None:
    found = list(left_out(samples(measured_rows("inferencex"))))
    print("beyond by    side        metric       rows  median %  in known %  in extrapolated %")
    for least, most in TIMES:
        for side in ("all", *sorted({row.side for row in found})):
            for metric in METRICS:
                rows = [
                    row
                    for row in found
                    if least < row.times <= most and row.metric == metric and side in ("all", row.side)
                ]
                if rows:
                    print(f"{f'{least:g} to {most:g}':13s}{side:12s}{metric:11s}{said(rows)}")


def said(rows: list[Far]) -> str:
    errors = np.abs(np.expm1([-row.error for row in rows]))
    known = 100.0 * float(np.mean([row.in_known for row in rows]))
    extrapolated = 100.0 * float(np.mean([row.in_extrapolated for row in rows]))
    return f"{len(rows):6d}{100.0 * float(np.median(errors)):10.1f}{known:12.1f}{extrapolated:19.1f}"


if __name__ == "__main__":
    main()
