"""The measured configurations as the fit sees them: terms, logarithms of seconds, groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from wattmill.models.step_time import DATASHEET
from wattmill.twin.law.features import NAMES, features
from wattmill.twin.law.fit import RIDGE, Fit, fit
from wattmill.twin.law.groups import law_groups
from wattmill.twin.law.rows import Configuration, configuration
from wattmill.twin.law.spec import METRICS as METRICS
from wattmill.units import MS_PER_S

START = (*msgspec.structs.astuple(DATASHEET), 0.03, 1e-6)
"""Coefficients to start from: the datasheet's, 30 ms a request and 1 µs a prompt token on the host."""

_MODEL_RIDGE = 100.0
_KIND_RIDGE = 1000.0
_GUESS_RIDGE = 30.0
_OF_A_PROMPT = ("prefill_flop", "attention", "request", "prompt")

_WEIGHT = {"ttft_mean": 0.4, "tpot_mean": 1.0}  # first tokens scatter more
_INCOMPLETE = 0.3  # of a row whose split or workers are guessed


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """One entry for each measured value, in parallel."""

    configurations: tuple[Configuration, ...]
    metrics: tuple[str, ...]
    log_seconds: Any  # of what was measured
    terms: Any  # rows x coefficients
    groups: tuple[tuple[str, ...], ...]
    folds: tuple[str, ...]  # calibration group

    def __len__(self) -> int:
        return len(self.metrics)

    def which(self, keep: Any) -> Samples:
        """Return the samples at the positions `keep`."""
        at = [int(i) for i in keep]
        return Samples(
            configurations=tuple(self.configurations[i] for i in at),
            metrics=tuple(self.metrics[i] for i in at),
            log_seconds=self.log_seconds[at],
            terms=self.terms[at],
            groups=tuple(self.groups[i] for i in at),
            folds=tuple(self.folds[i] for i in at),
        )

    def fitted(self) -> Fit:
        """Return the law fitted on these samples."""
        return fit(
            self.terms, self.log_seconds, self.groups, start=START, weights=self.weights(), ridge=ridge_of
        )

    def weights(self) -> Any:
        """Return how much each sample counts in a fit.

        A model counts by the square root of its rows: some have twenty times as many as others, and the law
        is to hold for models that have none.
        """
        count: dict[str, int] = defaultdict(int)
        for c in self.configurations:
            count[c.architecture.name] += 1
        typical = float(np.median(list(count.values())))
        return np.array(
            [
                _WEIGHT[metric]
                * (_INCOMPLETE if c.missing else 1.0)
                * (typical / count[c.architecture.name]) ** 0.5
                for metric, c in zip(self.metrics, self.configurations, strict=True)
            ]
        )


def ridge_of(group: str) -> Any:
    """Return what holds a group's deviations, by coefficient.

    What one model does on its engine is freer than what is shared, so that shared effects are learnt from
    what models have in common and not from the one that has most rows. What a kind of model does to the
    steps of decode is held hardest: eight models of three kinds cannot tell it from their own. A group
    that stands for what a row does not say (its workers) is no physics, and free.
    """
    if group.startswith("workers="):
        return np.full(len(NAMES), _GUESS_RIDGE)
    held = np.full(len(NAMES), _MODEL_RIDGE if group.startswith("model=") else RIDGE)
    if group.startswith("kind="):
        held[[name not in _OF_A_PROMPT for name in NAMES]] = _KIND_RIDGE
    return held


def samples(rows: Sequence[Mapping[str, str]]) -> Samples:
    """Return the samples of all rows whose metric the law knows, in their order."""
    kept = [row for row in rows if row["metric"] in METRICS]
    cs = [configuration(row) for row in kept]
    cached: dict[Configuration, tuple[Any, Any]] = {}
    terms = []
    for row, c in zip(kept, cs, strict=True):
        if c not in cached:
            cached[c] = features(c)
        terms.append(cached[c][METRICS.index(row["metric"])])
    return Samples(
        configurations=tuple(cs),
        metrics=tuple(row["metric"] for row in kept),
        log_seconds=np.log(
            [float(row["value"]) / (MS_PER_S if row["unit"] == "ms" else 1.0) for row in kept]
        ),
        terms=np.array(terms),
        groups=tuple(law_groups(c) for c in cs),
        folds=tuple(c.fold for c in cs),
    )
