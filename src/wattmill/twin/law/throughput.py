"""Output throughput of a closed loop at fixed concurrency: what its two times imply.

concurrency x osl / (TTFT + TPOT x (osl - 1)), the steady state in which every place is always taken [1].

[1] Little's law; the same formula stands with the measured tables (`data/measured/SOURCES.md`).
"""

from __future__ import annotations

from collections.abc import Mapping

from wattmill.twin.law.calibration import Calibration, stored
from wattmill.twin.law.features import features
from wattmill.twin.law.predictors import Predicted
from wattmill.twin.law.reading import MOST_CONCURRENT, MOST_TOK, per_base, whole
from wattmill.twin.law.rows import configuration
from wattmill.twin.law.spec import Prior, with_prior


def at_fixed_concurrency(row: Mapping[str, str]) -> bool:
    """Return whether a row of throughput states lengths and how many requests are held: a closed loop."""
    lengths = (whole(row.get(name), most=MOST_TOK) for name in ("isl", "osl"))
    held = whole(row.get("concurrency"), most=MOST_CONCURRENT)
    return held is not None and all(length is not None for length in lengths)


def closed_loop_throughput(
    row: Mapping[str, str],
    *,
    per_gpu: bool,
    calibration: Calibration | None = None,
    prior: Prior | None = None,
) -> Predicted:
    """Return output tokens a second of the whole deployment, or of one device of it, in the row's unit."""
    law = calibration or stored()
    c = configuration(row)
    first, each = features(c)
    klass, near = law.classify(c), law.nearest(c)
    ttft = with_prior(prior, law, c, "ttft_mean", law.seconds(c, first), klass=klass)
    tpot = with_prior(prior, law, c, "tpot_mean", law.seconds(c, each), klass=klass)
    share = per_base(row.get("unit")) / (c.gpus if per_gpu else 1)

    def tok_per_s(ttft_s: float, tpot_s: float) -> float:
        return share * c.concurrency * c.osl / (ttft_s + tpot_s * (c.osl - 1))

    return Predicted(
        value=tok_per_s(ttft.value_s, tpot.value_s),
        low=tok_per_s(ttft.high_s, tpot.high_s),
        high=tok_per_s(ttft.low_s, tpot.low_s),
        klass=klass,
        nearest=near.name if near else None,
        assumed=c.missing,
        client_known=c.known_client,
        basis=tpot.basis,
    )
