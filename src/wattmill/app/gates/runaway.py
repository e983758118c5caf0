"""The gate that looks at each call for what a lost agent does, and does about it what is declared."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

from wattmill.agents.runaway.policy import Trail, enter, leave
from wattmill.agents.runaway.sketch import head, sketch
from wattmill.agents.runaway.spec import Verdict
from wattmill.agents.runaway.watch import Watch
from wattmill.app.runs.desk import Desk
from wattmill.app.runs.settings import RunawaySettings
from wattmill.distribution.gate import WAIT, Waiting
from wattmill.ports import Clock
from wattmill.vocab.fact import RunawaySeen
from wattmill.vocab.refusal import Refusal

if TYPE_CHECKING:
    from wattmill.distribution.exchange import Exchange

_MAX_HELD = 4_096


class RunawayGate:
    """Implements `distribution.gate.Gate`. A trail belongs to a run, or to a conversation of a key."""

    name = "runaway"

    def __init__(
        self, settings: RunawaySettings, desk: Desk, clock: Clock, runs: Mapping[Exchange, int]
    ) -> None:
        """`runs`: the node of the run that a request is in."""
        self.settings = settings
        self._desk = desk
        self._runs = runs
        self._clock = clock
        self._watch = Watch()
        self._inside: dict[Exchange, tuple[Trail, int]] = {}
        self._held: dict[Hashable, tuple[float, str]] = {}  # subject outside of runs -> until when, and why
        self._waiting: dict[Exchange, asyncio.TimerHandle] = {}

    def enter(self, x: Exchange) -> Refusal | Waiting | None:
        body = x.draft.body
        raw = body.get("messages") or body.get("prompt")
        if raw is None:
            return None
        view = memoryview(raw)
        pair, last, wordy = sketch(view)
        caller = x.caller
        assert caller is not None
        run = self._runs.get(x)
        subject: Hashable = run if run is not None else (caller.key, head(view))
        now_s = self._clock.now()
        if self._held and (held := self._still_held(subject, now_s)) is not None:
            return held
        trail = self._watch.trail(subject)
        self._inside[x] = (trail, pair)
        verdict = enter(trail, pair, last, wordy, x.estimated_prompt_tok, now_s, self.settings.rules)
        return None if verdict is None else self._act(x, subject, verdict, now_s)

    def left(self, x: Exchange) -> None:
        inside = self._inside.pop(x, None)
        if inside is not None:
            leave(inside[0], inside[1], x.status != "2xx", self._clock.now())
        if self._waiting:
            timer = self._waiting.pop(x, None)
            if timer is not None:
                timer.cancel()

    def forget(self, node: int) -> None:
        """A person let a run go on, or it is over."""
        self._watch.forget(node)

    def _act(
        self, x: Exchange, subject: Hashable, verdict: Verdict, now_s: float
    ) -> Refusal | Waiting | None:
        action = self.settings.action(verdict.kind)
        if action == "off":
            return None
        x.gateway.metrics.count("wattmill_runaway_total", verdict.kind, action)
        if action != "warn" or _is_news(verdict.count):
            x.services.journal.append_note(
                seen(x.seq, self._clock.wall_us(), x.path, x.below, verdict, action)
            )
        x.head_lines += b"x-wattmill-runaway: %b; rule=%b; calls=%d\r\n" % (
            action.encode(),
            verdict.rule.encode(),
            verdict.count,
        )
        if action == "slow":
            self._waiting[x] = asyncio.get_running_loop().call_later(self.settings.slow_s, self._go_on, x)
            return WAIT
        if action in ("pause", "stop"):
            self._watch.forget(subject)
            run = self._runs.get(x)
            if run is not None:
                return self._desk.hold(run, action, f"runaway: {verdict.reason}: {_setting(verdict, action)}")
            return self._hold(subject, verdict, now_s)
        return None

    def _go_on(self, x: Exchange) -> None:
        self._waiting.pop(x, None)
        x.go_on()

    def _hold(self, subject: Hashable, verdict: Verdict, now_s: float) -> Refusal:
        if len(self._held) >= _MAX_HELD:
            del self._held[next(iter(self._held))]
        why = f"{verdict.reason}: {_setting(verdict, self.settings.action(verdict.kind))}"
        self._held[subject] = (now_s + self.settings.pause_s, why)
        return _runaway(why, self.settings.pause_s)

    def _still_held(self, subject: Hashable, now_s: float) -> Refusal | None:
        held = self._held.get(subject)
        if held is None:
            return None
        until_s, reason = held
        if now_s >= until_s:
            del self._held[subject]
            return None
        return _runaway(reason, until_s - now_s)


def _is_news(count: int) -> bool:
    """Say whether a warning is written down: each of the first, then at 16, 32, 64 ... calls, so that a storm
    does not fill the journal too. The header and the metric tell every one."""
    return count <= 8 or count & (count - 1) == 0


def seen(
    seq: int, at_us: int, path: tuple[int, ...], below: int, verdict: Verdict, action: str
) -> RunawaySeen:
    """Return the fact that is written down of a verdict."""
    return RunawaySeen(
        seq, at_us, path, verdict.kind, verdict.rule, verdict.count, action, verdict.reason, below
    )


def _setting(verdict: Verdict, action: str) -> str:
    """Name what in the declaration has decided this."""
    return f'[runaway] {verdict.kind} = "{action}", [runaway.rules] {verdict.rule}'


def _runaway(reason: str, left_s: float) -> Refusal:
    return Refusal(
        code="runaway",
        message=f"this conversation looks like a runaway's ({reason}) and is held back for {left_s:.0f} s",
        retry_after_s=left_s,
    )
