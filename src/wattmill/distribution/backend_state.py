"""What the data plane knows of one pool at this moment: how busy, how healthy, how fast."""

from __future__ import annotations

from wattmill.distribution.breaker import Breaker, BreakerRules
from wattmill.units import US_PER_S

_NEW = 0.2  # weight of a new measurement
_FEWEST_TOK = 8  # a speed from fewer tokens is mostly overhead
_RECENT = 256  # times to first content of which percentiles are taken
_FEWEST_TIMES = 20  # a percentile of fewer says nothing
_LOOK_EVERY = 16  # new times after which percentiles are taken anew


class BackendState(Breaker):
    """One pool as one worker sees it. Speeds are None until measured; they are of one request alone,
    exponentially weighted with 0.2 for the newest."""

    __slots__ = (
        "_new_times",
        "_quantile_s",
        "_quantile_share",
        "_times",
        "busy",
        "decode_tok_per_s",
        "last_error",
        "linger_s",
        "lingering",
        "overhead_s",
        "pool",
        "prefill_tok_per_s",
        "serving",
    )

    def __init__(self, pool: str, rules: BreakerRules | None = None) -> None:
        super().__init__(rules)
        self.pool = pool
        self.busy = 0  # slots taken: running attempts, and aborted ones that the engine still works on
        self.lingering = 0  # of these, aborted ones
        self.serving = 0  # of these, running ones
        self.last_error: str | None = None
        self.prefill_tok_per_s: float | None = None
        self.decode_tok_per_s: float | None = None
        self.overhead_s: float | None = None  # from sending to the engine's start of work
        self.linger_s: float | None = None  # how long the engine went on after the last observed abort
        self._times: list[float] = []  # from sending to the first content, a ring
        self._new_times = 0
        self._quantile_share = 0.0
        self._quantile_s: float | None = None

    def took(self, now_s: float) -> None:
        self.serving += 1
        self.busy += 1
        if self.state == "half_open":
            self.sent(now_s)

    def gave_back(self) -> None:
        self.serving -= 1
        self.busy -= 1

    def lingers(self) -> None:
        """A running attempt was aborted; its slot stays taken until the engine says that it is free."""
        self.serving -= 1
        self.lingering += 1

    def lingers_no_more(self, count: int) -> None:
        self.lingering -= count
        self.busy -= count

    def failed(self, error: str, *, now_s: float, surely_down: bool = False) -> None:
        """Count a failure; the breaker says what follows."""
        self.last_error = error
        self.bad(now_s, surely_down=surely_down)

    def probe_failed(self, error: str, *, now_s: float, surely_down: bool) -> None:
        self.last_error = error
        self.probe_bad(now_s, surely_down=surely_down)

    def observe(
        self,
        *,
        computed_tok: int,
        output_tok: int,
        ttft_s: float,
        decode_s: float,
        prefill_us: int | None,
        decode_us: int | None,
    ) -> None:
        """Learn from one finished attempt. The engine's own times are preferred to what was seen from here.

        Args:
            computed_tok: prompt tokens that were not cached.
            ttft_s: from sending to the first content.
            decode_s: from the first content to the end.
        """
        prefill_s = prefill_us / US_PER_S if prefill_us else ttft_s
        if computed_tok >= _FEWEST_TOK and prefill_s > 0:
            self.prefill_tok_per_s = _mix(self.prefill_tok_per_s, computed_tok / prefill_s)
        spent_s = decode_us / US_PER_S if decode_us else decode_s
        if output_tok >= _FEWEST_TOK and spent_s > 0:
            self.decode_tok_per_s = _mix(self.decode_tok_per_s, (output_tok - 1) / spent_s)
        if prefill_us:
            self.overhead_s = _mix(self.overhead_s, max(0.0, ttft_s - prefill_s))

    # ---- how long the first content takes; kept only where hedges are declared

    def first_content_took(self, ttft_s: float) -> None:
        times = self._times
        if len(times) < _RECENT:
            times.append(ttft_s)
        else:
            times[self._new_times % _RECENT] = ttft_s
        self._new_times += 1

    def ttft_quantile_s(self, share: float) -> float | None:
        """Return a percentile of the last times to first content, None where there are too few."""
        times = self._times
        if len(times) < _FEWEST_TIMES:
            return None
        if self._quantile_s is None or share != self._quantile_share or self._new_times % _LOOK_EVERY == 0:
            self._quantile_share = share
            self._quantile_s = sorted(times)[min(len(times) - 1, int(share * len(times)))]
        return self._quantile_s


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _NEW * (new - old)
