"""Where a request goes, and why."""

from __future__ import annotations

import msgspec


class Candidate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One place that passed every hard rule, with what it is expected to cost and how fast it is."""

    pool: str
    expected_nusd: int  # charge to the tenant at the expected output length
    expected_ttft_s: float
    expected_s: float
    score: float  # lower is better; comparable inside one decision only


class Excluded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One place that a hard rule ruled out."""

    pool: str
    rule: str  # one of scheduling.filters.RULES


class Hints(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was learned until now and concerns this request: an input of the decision, recorded with it."""

    asker: int = 0  # number of the caller's record in the journal (`Asker`)
    turn: int = 0  # decisions that this worker took before
    output_tok: int | None = None  # expected length of one choice; None: as the weights say
    shared_tok: tuple[int, ...] = ()  # of the prompt, sent to each place before; (): to none
    ahead_tok: tuple[int, ...] = ()  # of prompts that each place has not begun to answer; (): none anywhere


NO_HINTS = Hints()


class Route(msgspec.Struct, frozen=True, array_like=True):
    """Candidates from best to worst; the gateway tries them in this order until one gives content."""

    candidates: tuple[Candidate, ...]
    excluded: tuple[Excluded, ...]
    reason: str  # one sentence for people
    snapshot: int  # version of the fleet view that was looked at
    busy: tuple[int, ...] = ()  # requests in flight at each pool of that view: with it a decision replays
    policy: str = ""  # name of the policy that decided
    now_s: float = 0.0  # and what it was given beside the request, the view and the load
    draw: float = 0.0
    hints: Hints = NO_HINTS
