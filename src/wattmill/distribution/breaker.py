"""When a place gets no requests for a while, and how it comes back: a circuit breaker.

Pure: it is told what happened and when, and says whether a request may go. Three states:

- `closed`: requests go. It opens after `failures` bad answers in a row, when at least `share` of the last
  `window` answers were bad, or at once when a connection is refused.
- `open`: none go. A cheap probe (not a request) is sent after `first_open_s`, then after twice as long each
  time up to `longest_open_s`. A probe that is answered only half-opens it: a place may list its models and
  still fail at each answer.
- `half_open`: one request goes as a trial; the next follows its first content. `good_trials` good ones close
  it, a bad one opens it again for twice as long. A trial that says nothing for `trial_s` is followed by the
  next.

Apart from that a place can ask for rest (`Retry-After`): it gets nothing until then, and comes back as it
was.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

State = Literal["closed", "open", "half_open", "resting"]

LONGEST_REST_S = 300.0
"""A place that asks for more is asked again after so long: its clock may be wrong."""


class BreakerRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a place is left alone for a while, and how it comes back."""

    failures: Annotated[int, Meta(ge=1, description="Bad answers in a row that open the breaker.")] = 3
    share: Annotated[
        float, Meta(gt=0, le=1, description="Share of bad answers among the last `window` that opens it.")
    ] = 0.5
    window: Annotated[
        int,
        Meta(ge=2, le=10_000, description="Answers looked at for `share`; fewer never open it."),
    ] = 20
    first_open_s: Annotated[
        float, Meta(gt=0, description="How long it stays open at first; doubled each time it fails again.")
    ] = 0.2
    longest_open_s: Annotated[float, Meta(gt=0, description="Longest time between two probes.")] = 5.0
    good_trials: Annotated[int, Meta(ge=1, description="Good answers, one at a time, that close it.")] = 2
    trial_s: Annotated[
        float, Meta(gt=0, description="A trial silent for so long is followed by another one.")
    ] = 1.0


class Breaker:
    """`healthy` is read for each request, so it is an attribute and not computed."""

    __slots__ = (
        "_bad",
        "_before_rest",
        "_goods",
        "_outcomes",
        "_rest_until_s",
        "_trial_until_s",
        "_wait_s",
        "failures",
        "healthy",
        "opened",
        "probe_at_s",
        "reachable",
        "rules",
        "state",
    )

    def __init__(self, rules: BreakerRules | None = None) -> None:
        self.rules = rules or BreakerRules()
        self.state: State = "closed"
        self.healthy = True
        self.failures = 0  # in a row
        self.opened = 0  # times, ever
        self.reachable = True  # False: its last news was that no connection could be made
        self.probe_at_s = float("inf")
        self._wait_s = self.rules.first_open_s
        self._outcomes: list[bool] = []  # the last ones, newest last; True: bad
        self._bad = 0  # of these
        self._goods = 0  # trials
        self._trial_until_s = float("inf")
        self._rest_until_s = 0.0
        self._before_rest: State = "closed"

    # ---- requests

    def sent(self, now_s: float) -> None:
        """A request went to the place."""
        if self.state == "half_open":
            self.healthy = False
            self._trial_until_s = now_s + self.rules.trial_s

    def gave_content(self) -> None:
        """A trial begins well: the next may follow."""
        if self.state == "half_open":
            self.healthy = True
            self._trial_until_s = float("inf")

    def good(self) -> None:
        """It answered to the end."""
        self.failures = 0
        self.reachable = True
        if self.state == "closed":
            if self._bad:
                self._note(bad=False)
            return
        if self.state == "resting":
            return
        if self.state == "open":
            self._half_open()
        self._goods += 1
        if self._goods >= self.rules.good_trials:
            self._close()
        else:
            self.healthy = True
            self._trial_until_s = float("inf")

    def bad(self, now_s: float, *, surely_down: bool = False) -> None:
        """It failed; `surely_down`: no connection can be made."""
        self.failures += 1
        self.reachable = not surely_down
        match self.state:
            case "closed":
                self._note(bad=True)
                rules = self.rules
                full = len(self._outcomes) == rules.window
                if (
                    surely_down
                    or self.failures >= rules.failures
                    or (full and self._bad >= rules.share * rules.window)
                ):
                    self._open(now_s)
            case "half_open":
                self._wait_s = min(2 * self._wait_s, self.rules.longest_open_s)
                self._open(now_s)
            case "open":
                pass  # one that was on its way already
            case "resting":
                self._before_rest = "open"

    @property
    def last_resort(self) -> bool:
        """Whether a request may go where no other place is left: not to one that asked for rest, nor to one
        that nobody can connect to."""
        return not self.healthy and self.reachable and self.state != "resting"

    # ---- probes and time

    def probe_due(self, now_s: float) -> bool:
        return self.state == "open" and now_s >= self.probe_at_s

    def probe_good(self) -> None:
        self.reachable = True
        if self.state == "open":
            self._half_open()

    def probe_bad(self, now_s: float, *, surely_down: bool) -> None:
        self.reachable = not surely_down
        if self.state == "open":
            self._wait_s = min(2 * self._wait_s, self.rules.longest_open_s)
            self.probe_at_s = now_s + self._wait_s

    def rest(self, now_s: float, wait_s: float) -> None:
        """The place asked for nothing until `wait_s` from now."""
        until_s = now_s + min(wait_s, LONGEST_REST_S)
        if wait_s <= 0 or (self.state == "resting" and until_s <= self._rest_until_s):
            return
        if self.state != "resting":
            self._before_rest = self.state
        self._rest_until_s = until_s
        self.state = "resting"
        self.healthy = False

    def tick(self, now_s: float) -> None:
        """Let time pass: ends a rest, and a trial that says nothing."""
        if self.state == "resting" and now_s >= self._rest_until_s:
            if self._before_rest == "closed":
                self.state, self.healthy = "closed", True
            else:
                self._open(now_s)
        elif self.state == "half_open" and now_s >= self._trial_until_s:
            self.healthy = True
            self._trial_until_s = float("inf")

    def rest_left_s(self, now_s: float) -> float:
        """Return how long it still rests, 0 if it does not."""
        return max(0.0, self._rest_until_s - now_s) if self.state == "resting" else 0.0

    # ---- transitions

    def _note(self, *, bad: bool) -> None:
        outcomes = self._outcomes
        outcomes.append(bad)
        self._bad += bad
        if len(outcomes) > self.rules.window:
            self._bad -= outcomes.pop(0)

    def _open(self, now_s: float) -> None:
        self.state = "open"
        self.healthy = False
        self.opened += 1
        self.probe_at_s = now_s + self._wait_s
        self._trial_until_s = float("inf")

    def _half_open(self) -> None:
        self.state = "half_open"
        self.healthy = True
        self._goods = 0
        self.probe_at_s = self._trial_until_s = float("inf")

    def _close(self) -> None:
        self.state = "closed"
        self.healthy = True
        self.failures = 0
        self._wait_s = self.rules.first_open_s
        self._outcomes.clear()
        self._bad = 0
        self._trial_until_s = float("inf")
