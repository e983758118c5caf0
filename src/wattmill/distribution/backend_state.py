"""What the data plane knows of one pool at this moment: how busy, how healthy, how fast."""

from __future__ import annotations

from wattmill.units import US_PER_S

_DOWN_AFTER = 3  # failures in a row
_FIRST_PROBE_S = 0.2
_LONGEST_PROBE_S = 5.0
_NEW = 0.2  # weight of a new measurement
_FEWEST_TOK = 8  # a speed from fewer tokens is mostly overhead


class BackendState:
    """One pool as one worker sees it. Speeds are None until measured; they are of one request alone,
    exponentially weighted with 0.2 for the newest."""

    __slots__ = (
        "busy",
        "decode_tok_per_s",
        "failures",
        "healthy",
        "last_error",
        "linger_s",
        "lingering",
        "overhead_s",
        "pool",
        "prefill_tok_per_s",
        "probe_at_s",
        "probe_wait_s",
        "serving",
    )

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.busy = 0  # slots taken: running attempts, and aborted ones that the engine still works on
        self.lingering = 0  # of these, aborted ones
        self.serving = 0  # of these, running ones
        self.healthy = True
        self.failures = 0  # in a row
        self.last_error: str | None = None
        self.probe_at_s = 0.0
        self.probe_wait_s = _FIRST_PROBE_S
        self.prefill_tok_per_s: float | None = None
        self.decode_tok_per_s: float | None = None
        self.overhead_s: float | None = None  # from sending to the engine's start of work
        self.linger_s: float | None = None  # how long the engine went on after the last observed abort

    def took(self) -> None:
        self.serving += 1
        self.busy += 1

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

    def succeeded(self) -> None:
        self.failures = 0
        if not self.healthy:
            self.healthy = True
            self.probe_wait_s = _FIRST_PROBE_S

    def failed(self, error: str, *, now_s: float, surely_down: bool = False) -> None:
        """Count a failure; after three in a row, or one that leaves no doubt, the pool is down and probed."""
        self.last_error = error
        self.failures += 1
        if self.healthy and (surely_down or self.failures >= _DOWN_AFTER):
            self.healthy = False
            self.probe_wait_s = _FIRST_PROBE_S
            self.probe_at_s = now_s + self.probe_wait_s

    def probe_failed(self, error: str, *, now_s: float) -> None:
        self.last_error = error
        self.probe_wait_s = min(2 * self.probe_wait_s, _LONGEST_PROBE_S)
        self.probe_at_s = now_s + self.probe_wait_s

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


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _NEW * (new - old)
