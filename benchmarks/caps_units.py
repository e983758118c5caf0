"""Cells of the caps matrix in other units than dollars, over a period: requests a minute, tokens a day.

Judged like the others from the engines' own log: arrivals in the minute in which the crowd ran, tokens of all
that were made. The key's dollars are no limit here. A crowd begins early in a minute, so that it ends in it.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

from caps_client import Caller, Told, crowd
from caps_verdict import Made, read
from factory import TEAM, wattmill

PLENTY_NUSD = 10**12
LATEST_START_S = 25.0  # in its minute


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit: `unit` as `wattmill budget show` calls it, `words` as `budget set` reads it."""

    name: str
    unit: str
    words: str
    per_request: int  # at most, as the engines count


REQUESTS_A_MINUTE = Rule("requests a minute", "requests", "{} requests/minute", 1)
TOKENS_A_DAY = Rule("tokens a day", "total_tok", "{} tokens/day", 70)

FAN_OUTS = (1, 16, 256)
CELLS: tuple[tuple[Rule, str, dict[str, object]], ...] = (
    (REQUESTS_A_MINUTE, "", {}),
    (REQUESTS_A_MINUTE, "429 then retry", {"first_fault": "status_429"}),
    (TOKENS_A_DAY, "", {}),
    (TOKENS_A_DAY, "500 after tokens", {"fault": "spent_500"}),
    (TOKENS_A_DAY, "aborted stream", {"leaves_after": 3, "delay_ms": 3.0}),
)


@dataclass(frozen=True, slots=True)
class Spent:
    """What one cell showed, in the rule's unit."""

    limit: int
    made: int
    counted: int
    told: Told
    took_s: float
    wrong: list[str]


def made_of(made: Made, rule: Rule, since_us: int) -> int:
    """Return what engines did under a rule: of a minute, the fullest one."""
    if rule.unit == "total_tok":
        return made.tokens
    by_minute: dict[int, int] = {}
    for at_us in made.arrived_us:
        if at_us >= since_us:
            by_minute[at_us // 60_000_000] = by_minute.get(at_us // 60_000_000, 0) + 1
    return max(by_minute.values(), default=0)


async def spend(caller: Caller, name: str, home: Path, log: Path, rule: Rule, fan_out: int) -> Spent:
    """Let a crowd spend `caller`'s key to a limit, then one alone, and compare."""
    limit = rule.per_request * max(60, fan_out * 2 // 3)
    done = await asyncio.to_thread(
        wattmill, "budget", "set", f"{TEAM}/{name}", rule.words.format(limit), "--home", str(home)
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    await asyncio.sleep(1.0)  # every worker knows it
    if rule is REQUESTS_A_MINUTE and time.time() % 60 > LATEST_START_S:
        await asyncio.sleep(60.2 - time.time() % 60)
    began, began_us = time.monotonic(), time.time_ns() // 1_000
    told = await crowd(caller, fan_out, give_up_s=30)
    alone = await crowd(replace(caller, fault="", first_fault="", leaves_after=None), 1, give_up_s=20)
    same_minute = time.time_ns() // 60_000_000_000 == began_us // 60_000_000
    counted, reserved = await asyncio.to_thread(_counted, name, home, rule)
    made = made_of(read(log)[caller.tag], rule, began_us)
    both = Told(told.codes + alone.codes, told.served + alone.served)
    wrong: list[str] = []
    # A try that an engine refuses is a request too: a crowd whose first tries are all refused may spend all.
    if not both.served and not (rule is REQUESTS_A_MINUTE and caller.first_fault):
        wrong.append("nothing was served at all")
    if made > limit:
        wrong.append(f"the limit of {limit} was passed by {made - limit}")
    if rule is TOKENS_A_DAY or same_minute:
        if counted < made:
            wrong.append(f"the limits count {counted}, the engines made {made}")
        # The prompt's bound is in bytes: a request may need some more of the limit than engines count.
        if limit - counted - reserved > 3 * rule.per_request:
            wrong.append(f"refused with {limit - counted - reserved} left")
    else:
        wrong.append("it ran into the next minute and cannot be judged: run it again")
    if told.gave_up or alone.gave_up:
        wrong.append(f"{told.gave_up + alone.gave_up} callers were never told that nothing is left")
    return Spent(limit, made, counted, both, time.monotonic() - began, wrong)


def _counted(name: str, home: Path, rule: Rule) -> tuple[int, int]:
    """Return what the limit says is used and reserved, once that stands still."""
    before = (-1, -1)
    for _ in range(30):
        done = wattmill("budget", "show", f"{TEAM}/{name}", "--json", "--home", str(home))
        if done.returncode:
            raise RuntimeError(done.stderr)
        (state,) = [one for one in json.loads(done.stdout)[0]["limits"] if one["unit"] == rule.unit]
        now = int(state["used"]), int(state["reserved"])
        if now == before and not now[1]:
            break
        before = now
        time.sleep(0.3)
    return before
