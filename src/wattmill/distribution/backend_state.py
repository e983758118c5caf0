"""What the data plane knows of one pool at this moment: how busy, how healthy, how fast."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from wattmill.distribution.breaker import Breaker, BreakerRules
from wattmill.distribution.recent import Recent
from wattmill.models import prompts
from wattmill.models.model import Pace, corrected, first, seen
from wattmill.units import US_PER_S

_NEW = 0.2  # weight of a new measurement
_FEW = 0.03
_FEWEST_TOK = 8  # a speed from fewer tokens is mostly overhead


LESSONS = 32
"""So many attempts of a sweep (0.1 s) are learned from: a fast place ends thousands, and what the last ones
would teach is known by then. Each lesson costs as much as a decision."""


class BackendState(Breaker):
    """One pool as one worker sees it. Speeds are None until measured, and of one request alone: prefill's is
    exponentially weighted with 0.2 for the newest, decode's is fitted against the load."""

    __slots__ = (
        "_fitted",
        "_line",
        "ahead_tok",
        "busy",
        "cell",
        "declared_decode_s",
        "declared_overhead_s",
        "declared_prefill_tok_per_s",
        "elsewhere",
        "last_error",
        "lessons",
        "linger_s",
        "lingering",
        "output_tok",
        "overhead_s",
        "pace",
        "pool",
        "prefill_tok_per_s",
        "prompt_tok",
        "prompts",
        "serving",
        "ttft_factor",
        "ttft_s",
        "whole_s",
    )

    def __init__(self, pool: str, rules: BreakerRules | None = None) -> None:
        super().__init__(rules)
        self.pool = pool
        self.busy = 0  # slots taken: running attempts, and aborted ones that the engine still works on
        self.cell: tuple[memoryview[int], int] | None = None  # where other workers read `busy`
        self.elsewhere: Callable[[], int] | None = None  # slots that they have taken
        self.lingering = 0  # of these, aborted ones
        self.serving = 0  # of these, running ones
        self.last_error: str | None = None
        self.lessons = LESSONS  # how many more attempts are learned from before the next sweep
        self.ahead_tok = 0  # upper bound on the prompts that were sent and have no answer yet
        self.prompts: prompts.PromptPace | None = None
        self.prefill_tok_per_s: float | None = None
        self.pace: Pace | None = None
        # What follows from a pace is worked out once for each: views ask three times, and the next lesson.
        self._fitted: tuple[prompts.PromptPace | None, tuple[float, float]] = (None, (0.0, 0.0))
        self._line: tuple[Pace | None, tuple[float, float]] = (None, (0.0, 0.0))
        self.prompt_tok = 0.0  # computed for one answer, in the mean
        self.output_tok = 0.0
        self.declared_decode_s: float | None = None  # per token, alone
        self.declared_overhead_s = 0.0
        self.declared_prefill_tok_per_s: float | None = None
        self.ttft_factor = 1.0  # observed over expected time to first content, lately
        self.overhead_s: float | None = None  # from sending to the engine's start of work
        self.linger_s: float | None = None  # how long the engine went on after the last observed abort
        self.ttft_s = Recent()  # from sending to the first content; kept only where hedges are declared
        self.whole_s = Recent()  # likewise of answers that come at once

    @property
    def decode_tok_per_s(self) -> float | None:
        return None if self.pace is None else 1.0 / self._line_of(self.pace)[0]

    @property
    def ahead_share(self) -> float:
        if self.prompts is None:
            return 0.0
        own_s, ahead_s = self._fitted_of(self.prompts)
        return ahead_s / own_s

    @property
    def decode_share(self) -> float:
        """Return which part of the slowdown comes of others' tokens, and not of their prompts."""
        if self.pace is None or self.prompts is None or not self.output_tok:
            return 0.5
        prompts_s = self.prompt_tok * self._fitted_of(self.prompts)[1]
        slower_s = self.output_tok * self._line_of(self.pace)[1]
        return max(0.0, 1.0 - prompts_s / slower_s) if slower_s > 0.0 else 0.0

    @property
    def slowdown(self) -> float:
        if self.pace is None:
            return 0.0
        alone_s, slope_s = self._line_of(self.pace)
        return slope_s / alone_s

    def _line_of(self, pace: Pace) -> tuple[float, float]:
        if self._line[0] is not pace:
            self._line = pace, pace.line_s
        return self._line[1]

    def _fitted_of(self, pace: prompts.PromptPace) -> tuple[float, float]:
        if self._fitted[0] is not pace:
            self._fitted = pace, prompts.fitted(pace)
        return self._fitted[1]

    def expect(self, *, prefill_tok_per_s: float, decode_tok_per_s: float, overhead_s: float) -> None:
        """Take what is declared of the place for where learning starts from."""
        self.declared_decode_s = 1.0 / decode_tok_per_s
        self.declared_overhead_s = overhead_s
        self.declared_prefill_tok_per_s = prefill_tok_per_s
        if self.pace is not None:
            self.pace = msgspec.structs.replace(self.pace, anchor_s=self.declared_decode_s)

    def took(self, now_s: float) -> None:
        self.serving += 1
        self.busy += 1
        if self.state == "half_open":
            self.sent(now_s)
        if self.cell is not None:
            self._tell()

    def asked(self, bound_tok: int) -> int:
        """A prompt of at most so many tokens leaves; return how many have no answer yet before it."""
        before = self.ahead_tok
        self.ahead_tok = before + bound_tok
        return before

    def gave_back(self) -> None:
        self.serving -= 1
        self.busy -= 1
        if self.cell is not None:
            self._tell()

    def share(self, cells: memoryview[int], at: int, elsewhere: Callable[[], int]) -> None:
        """Write taken slots where other workers read them, and know of theirs."""
        self.cell = cells, at
        self.elsewhere = elsewhere
        self._tell()

    def share_no_more(self) -> None:
        self.cell = self.elsewhere = None

    def _tell(self) -> None:
        assert self.cell is not None
        cells, at = self.cell
        cells[at] = self.busy

    @property
    def taken(self) -> int:
        """Slots that are taken, by other workers of this machine too."""
        return self.busy if self.elsewhere is None else self.busy + self.elsewhere()

    def lingers(self) -> None:
        """A running attempt was aborted; its slot stays taken until the engine says that it is free."""
        self.serving -= 1
        self.lingering += 1

    def lingers_no_more(self, count: int) -> None:
        self.lingering -= count
        self.busy -= count
        if self.cell is not None:
            self._tell()

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
        others: float = 0.0,
        expected_ttft_s: float | None = None,
        ahead_tok: float | None = None,
        waited: bool = False,
    ) -> None:
        """Learn from one finished attempt. The engine's own times are preferred to what was seen from here.

        Args:
            computed_tok: prompt tokens that were not cached.
            ttft_s: from sending to the first content.
            decode_s: from the first content to the end.
            others: requests that were at work beside it, in the mean.
            expected_ttft_s: what its decision expected; None where the first content was not seen to come.
            ahead_tok: prompt tokens that had no answer yet when it left; None likewise.
            waited: all slots were taken when it left, so the wait for one is in `ttft_s`.
        """
        if ahead_tok is not None and not waited and computed_tok >= _FEWEST_TOK and ttft_s > 0:
            # What is declared of the way there and back is no part of the prompt; at most nine tenths are.
            seconds = max(ttft_s - self.declared_overhead_s, 0.1 * ttft_s)
            if self.prompts is None:
                self.prompts = prompts.believed(self.declared_prefill_tok_per_s or computed_tok / seconds)
            self.prompts = prompts.seen(
                self.prompts,
                own_tok=computed_tok,
                ahead_tok=ahead_tok,
                seconds=seconds,
                fit=self._fitted_of(self.prompts),
            )
            if not prefill_us:
                self.prefill_tok_per_s = 1.0 / self._fitted_of(self.prompts)[0]
        if prefill_us and computed_tok >= _FEWEST_TOK:
            self.prefill_tok_per_s = _mix(self.prefill_tok_per_s, computed_tok * US_PER_S / prefill_us)
        spent_s = decode_us / US_PER_S if decode_us else decode_s
        if output_tok >= _FEWEST_TOK and spent_s > 0:
            s_per_tok = spent_s / (output_tok - 1)
            if self.pace is None:
                self.pace = first(others, s_per_tok, anchor_s=self.declared_decode_s)
            else:
                line_s = self._line_of(self.pace)
                self.pace = seen(self.pace, others=others, s_per_tok=s_per_tok, line_s=line_s)
        self.output_tok += _FEW * (output_tok - self.output_tok)
        self.prompt_tok += _FEW * (computed_tok - self.prompt_tok)
        if prefill_us:
            self.overhead_s = _mix(self.overhead_s, max(0.0, ttft_s - prefill_us / US_PER_S))

    def observe_whole(self, ratio: float, *, s_per_tok: float, output_tok: int, others: float) -> None:
        """Learn from an answer that came all at once, by an engine that does not tell its times: it took
        `ratio` times what was expected of it, `s_per_tok` of that for each token. Nobody can say which part
        was off, so all of it was."""
        self.ttft_factor = corrected(self.ttft_factor, expected_s=1.0, observed_s=ratio)
        if output_tok >= _FEWEST_TOK and s_per_tok > 0:
            took_s = s_per_tok * ratio
            self.pace = (
                first(others, took_s, anchor_s=self.declared_decode_s)
                if self.pace is None
                else seen(self.pace, others=others, s_per_tok=took_s)
            )


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _NEW * (new - old)
