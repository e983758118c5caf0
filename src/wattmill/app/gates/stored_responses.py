"""The gate of `/v1/responses`: what was stored comes in before anybody judges the request, and the answer is
kept before its client is told that it ended, so that any worker finds it from then on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from wattmill.app.doors.stored import Found, Record, StoredResponses
from wattmill.app.kept.spec import KeptUnavailable, NoRoom
from wattmill.distribution.doors.door import ResponsesVisit
from wattmill.distribution.exchange import Exchange
from wattmill.distribution.gate import WAIT, Waiting
from wattmill.vocab.caller import PRIVACY_CLASSES
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request

_log = logging.getLogger("wattmill.responses")


class StoredResponsesGate:
    """Implements `distribution.gate.Gate` and `distribution.doors.entrance.Keeper`."""

    def __init__(self, stored: StoredResponses) -> None:
        self._stored = stored
        self._tasks: set[asyncio.Task[None]] = set()

    def enter(self, x: Exchange) -> Refusal | Waiting | None:
        entrance = x.door
        if entrance is None or not isinstance(visit := entrance.visit, ResponsesVisit):
            return None
        if visit.asked.store and self._stored.limits.keep_s:
            entrance.keeper = self
        if visit.asked.previous is None:
            return None
        self._start(self._continue(x, visit, visit.asked.previous))
        return WAIT

    def left(self, x: Exchange) -> None: ...

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _continue(self, x: Exchange, visit: ResponsesVisit, previous: str) -> None:
        caller = x.caller
        assert caller is not None
        found = await self._stored.conversation(caller, previous, x.ask.privacy)
        if x.over:
            return
        x.guarded(self._found, x, visit, found)

    def _found(self, x: Exchange, visit: ResponsesVisit, found: Found | Refusal) -> None:
        if isinstance(found, Refusal):
            x.go_on(found)
            return
        whole = visit.following(found.items)
        if isinstance(whole, Refusal):
            x.go_on(whole)
            return
        refusal = x.revisit(whole)
        if refusal is None:
            x.ask = _bound_by(x.ask, found)
        x.go_on(refusal)

    # ---- Keeper

    def keep(self, x: Exchange, answer: Mapping[str, Any], done: Callable[[bool], None]) -> None:
        if not x.ask.keep or answer.get("status") not in ("completed", "incomplete"):
            done(False)
            return
        self._start(self._keep(x, answer, done))

    async def _keep(self, x: Exchange, answer: Mapping[str, Any], done: Callable[[bool], None]) -> None:
        entrance, caller, ask = x.door, x.caller, x.ask
        assert entrance is not None and caller is not None
        visit = entrance.visit
        assert isinstance(visit, ResponsesVisit)
        record = Record(
            response=dict(answer),
            input=_with_ids(visit.asked.items, str(answer["id"])),
            previous=visit.asked.previous,
            residency=ask.residency,
            operators=ask.operators,
        )
        kept = False
        try:
            await self._stored.put(caller, ask.privacy, record)
            kept = True
        except (KeptUnavailable, NoRoom) as error:
            _log.warning("%s: the response is not stored: %s", x.id, error)
        finally:
            done(kept)


def _with_ids(items: list[Any], response_id: str) -> list[Any]:
    suffix = response_id.removeprefix("resp_")
    return [
        {"type": "message", **item, "id": item.get("id") or f"in_{suffix}_{number}"}
        for number, item in enumerate(items)
    ]


def _bound_by(ask: Request, found: Found) -> Request:
    """The strictest rules of what is continued hold for what continues it."""
    return msgspec.structs.replace(
        ask,
        privacy=max(ask.privacy, found.data_class, key=PRIVACY_CLASSES.index),
        residency=_both(ask.residency, found.residency),
        operators=_both(ask.operators, found.operators),
    )


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    return other if one is None else one if other is None else one & other
