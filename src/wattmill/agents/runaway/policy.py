"""Whether this call is one of a runaway's: a memory of the last calls goes in, a verdict comes out.

What a runaway does shows in the calls themselves, whoever makes them: it says the same again at once, sends
ever more, opens ever more helpers, or repeats what has just failed without waiting. Work that looks alike has
something that a runaway has not: polling waits, a batch asks other things, people need time to type, and a
client that retries backs off.
"""

from __future__ import annotations

from wattmill.agents.runaway.spec import Rules, Verdict

RING = 16
"""So many calls are remembered: a loop over more different steps than this is not seen as one."""


class Trail:
    """What is remembered of one run (or of one conversation of a key): a few numbers, of bounded size."""

    __slots__ = (
        "ended_s",
        "failed",
        "heavy",
        "heavy_since_s",
        "heavy_tok",
        "in_flight",
        "last_repeats",
        "lasts",
        "leaps",
        "loads",
        "pairs",
        "prompt_tok",
        "repeats",
        "retries",
        "twins",
    )

    def __init__(self) -> None:
        self.pairs: list[int] = []
        self.lasts: list[int] = []
        self.repeats = 0
        self.last_repeats = 0
        self.twins = 0
        self.prompt_tok = 0
        self.leaps = 0
        self.loads = 0
        self.heavy = 0
        self.heavy_tok = 0
        self.heavy_since_s = 0.0
        self.failed: int | None = None  # the pair of the call that failed last
        self.retries = 0
        self.in_flight = 0
        self.ended_s = 0.0


def enter(
    trail: Trail, pair: int, last: int, wordy: bool, prompt_tok: int, now_s: float, rules: Rules
) -> Verdict | None:
    """A call comes: `pair`, `last` and `wordy` as `sketch` made them, `prompt_tok` estimated."""
    alone = not trail.in_flight
    trail.in_flight += 1
    if pair == trail.failed:
        return _again_after_failure(trail, now_s, rules)
    trail.retries = 0
    trail.failed = None
    found = None
    if pair in trail.pairs or last in trail.lasts:
        found = _said_before(trail, pair, last, wordy, alone, now_s, rules)
    else:
        trail.repeats = trail.last_repeats = trail.twins = 0
        _remember(trail.pairs, pair)
        _remember(trail.lasts, last)
    if alone:
        grown = _size(trail, prompt_tok, now_s, rules)
        return found or grown
    return found


def leave(trail: Trail, pair: int, failed: bool, now_s: float) -> None:
    """The call has ended; `failed`: its client got no answer that it could use."""
    trail.in_flight -= 1
    trail.ended_s = now_s
    if not failed:
        if trail.failed == pair:
            trail.failed = None
            trail.retries = 0
    elif trail.failed != pair:
        trail.failed = pair
        trail.retries = 0


def sub_runs(opened: int, deepest: int, rules: Rules) -> Verdict | None:
    """`opened`: sub-runs at any depth under one run within a minute; `deepest`: levels below that run."""
    if deepest >= 2 and opened >= rules.children:
        reason = f"{opened} sub-runs within a minute, {deepest} levels deep"
        return Verdict("fan_out", "children", opened, reason)
    if opened >= rules.direct_children:
        return Verdict("fan_out", "direct_children", opened, f"{opened} sub-runs within a minute")
    return None


def _remember(ring: list[int], value: int) -> None:
    ring.append(value)
    if len(ring) > RING:
        del ring[0]


def _again_after_failure(trail: Trail, now_s: float, rules: Rules) -> Verdict | None:
    if now_s - trail.ended_s > rules.retry_s:  # it backs off
        trail.retries = 0
        return None
    trail.retries += 1
    if trail.retries < rules.retries:
        return None
    reason = f"a call that failed was repeated {trail.retries} times, within {rules.retry_s:g} s each time"
    return Verdict("retry_storm", "retries", trail.retries, reason)


def _said_before(
    trail: Trail, pair: int, last: int, wordy: bool, alone: bool, now_s: float, rules: Rules
) -> Verdict | None:
    whole = pair in trail.pairs
    known = last in trail.lasts
    if not whole:
        _remember(trail.pairs, pair)
    if not known:
        _remember(trail.lasts, last)
    if not alone:
        trail.twins = trail.twins + 1 if whole else 0
        if trail.twins < rules.twins:
            return None
        reason = f"{trail.twins} near-identical calls side by side"
        return Verdict("near_identical", "twins", trail.twins, reason)
    trail.twins = 0
    at_once = now_s - trail.ended_s <= rules.pause_s
    trail.repeats = trail.repeats + 1 if whole and at_once else 0
    trail.last_repeats = trail.last_repeats + 1 if known and at_once else 0
    if trail.repeats >= rules.repeats:
        reason = f"{trail.repeats} calls in a row end as one shortly before did"
        return Verdict("near_identical", "repeats", trail.repeats, reason)
    if trail.last_repeats >= (rules.last_repeats if wordy else rules.word_repeats):
        reason = f"{trail.last_repeats} calls in a row have the last message of one shortly before"
        rule = "last_repeats" if wordy else "word_repeats"
        return Verdict("near_identical", rule, trail.last_repeats, reason)
    return None


def _size(trail: Trail, tok: int, now_s: float, rules: Rules) -> Verdict | None:
    before, trail.prompt_tok = trail.prompt_tok, tok
    trail.leaps = trail.leaps + 1 if before and 2 * tok >= 3 * before else 0
    trail.loads = trail.loads + 1 if before and tok - before >= rules.load_tok else 0
    if trail.leaps >= rules.leaps and tok >= rules.leap_tok:
        reason = f"the prompt grew by half or more {trail.leaps} times in a row, to about {tok} tokens"
        return Verdict("context_growth", "leaps", trail.leaps, reason)
    if trail.loads >= rules.loads:
        reason = f"{trail.loads} calls in a row sent {rules.load_tok} tokens or more on top, about {tok} now"
        return Verdict("context_growth", "loads", trail.loads, reason)
    if tok < rules.heavy_tok or 10 * tok < 9 * before:
        trail.heavy = 0
        return None
    if not trail.heavy:
        trail.heavy, trail.heavy_tok, trail.heavy_since_s = 1, tok, now_s
        return None
    sent_tok, took_s = trail.heavy_tok, now_s - trail.heavy_since_s
    trail.heavy += 1
    trail.heavy_tok += tok
    if trail.heavy < rules.heavy_calls:
        return None
    if sent_tok * 60 < rules.heavy_tok_per_min * took_s:
        trail.heavy, trail.heavy_tok, trail.heavy_since_s = 1, tok, now_s
        return None
    reason = f"{trail.heavy} calls in a row of about {tok} tokens, {_per_min(sent_tok, took_s)} a minute"
    return Verdict("context_growth", "heavy_calls", trail.heavy, reason)


def _per_min(tok: int, took_s: float) -> str:
    return f"{tok * 60 / max(took_s, 1.0) / 1e6:.1f} M"
