"""The last times of one kind, and their percentiles."""

from __future__ import annotations

_KEPT = 256
_FEWEST = 20  # a percentile of fewer says nothing
_LOOK_EVERY = 16  # new times after which the percentile is taken anew


class Recent:
    """A ring. A percentile costs a sort once in `_LOOK_EVERY` new times."""

    __slots__ = ("_looked", "_quantile_s", "_seen", "_share", "_times")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._seen = 0
        self._looked = -_LOOK_EVERY
        self._share = 0.0
        self._quantile_s = 0.0

    def took(self, time_s: float) -> None:
        if len(self._times) < _KEPT:
            self._times.append(time_s)
        else:
            self._times[self._seen % _KEPT] = time_s
        self._seen += 1

    def quantile_s(self, share: float) -> float | None:
        """Return a percentile of what is remembered, None where that is too little."""
        if len(self._times) < _FEWEST:
            return None
        if share != self._share or self._seen - self._looked >= _LOOK_EVERY:
            self._share, self._looked = share, self._seen
            self._quantile_s = sorted(self._times)[min(len(self._times) - 1, int(share * len(self._times)))]
        return self._quantile_s
