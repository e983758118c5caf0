"""Stored responses: one item of the kept store for each, with the request's own input and the answer.

A response that continues another holds only its own part and the id of the one before; the whole is put
together when it is continued. So deleting one deletes what it added, and what follows it cannot go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from wattmill.app.doors.spec import ResponseLimits
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.spec import Item, KeptUnavailable, Kind
from wattmill.units import US_PER_S
from wattmill.vocab.caller import PRIVACY_CLASSES, Caller
from wattmill.vocab.refusal import Refusal

_KIND: Kind = "response"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept; JSON in the item's body."""

    response: dict[str, Any]  # as the client saw it
    input: list[Any]  # items of this request alone, each with an id
    previous: str | None = None
    residency: frozenset[str] | None = None  # rules of the request: they bind whoever continues it
    operators: frozenset[str] | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation so far, and the strictest rules of its parts."""

    items: list[Any]
    data_class: str
    residency: frozenset[str] | None
    operators: frozenset[str] | None


_record = msgspec.json.Decoder(Record).decode


class StoredResponses:
    """The stored responses of all callers, each found only in its own scope."""

    def __init__(self, shelf: Shelf, limits: ResponseLimits, *, wall_us: Callable[[], int]) -> None:
        self._shelf = shelf
        self.limits = limits
        self._wall_us = wall_us

    def node_of(self, caller: Caller) -> int:
        """The key, or its team: the node above it."""
        if self.limits.scope == "team" and len(caller.path) > 1:
            return caller.path[-2]
        return caller.key

    async def put(self, caller: Caller, data_class: str, record: Record) -> None:
        """Keep `record`. Raises `NoRoom` or `KeptUnavailable`."""
        now_us = self._wall_us()
        answer = record.response
        await self._shelf.put(
            Item(
                kind=_KIND,
                node=self.node_of(caller),
                data_class=data_class,
                id=str(answer["id"]),
                created_us=now_us,
                expires_us=now_us + self.limits.keep_s * US_PER_S,
                meta=msgspec.json.encode(
                    {"model": answer.get("model"), "status": answer.get("status"), "key": caller.key}
                ),
                body=msgspec.json.encode(record),
            )
        )

    async def get(self, caller: Caller, response_id: str, privacy: str) -> tuple[Record, str] | Refusal:
        """Return the record and its class. What is of a higher class than `privacy`, that of who asks, is
        found only by the key that made it."""
        try:
            item = await self._shelf.get(_KIND, self.node_of(caller), response_id)
        except KeptUnavailable as error:
            return _unavailable(error)
        if item is None or not _may_see(item, caller, privacy):
            return Refusal(
                code="not_found",
                message=f"no response {response_id[:80]!r} is stored for this {self.limits.scope}; it may "
                "have expired or been deleted, or was made with store=false",
                param="response_id",
            )
        return _record(item.body), item.data_class

    async def delete(self, caller: Caller, response_id: str, privacy: str) -> bool | Refusal:
        found = await self.get(caller, response_id, privacy)
        if isinstance(found, Refusal):
            return found
        try:
            return await self._shelf.delete(_KIND, self.node_of(caller), response_id)
        except KeptUnavailable as error:
            return _unavailable(error)

    async def conversation(self, caller: Caller, last: str, privacy: str) -> Found | Refusal:
        """Return all items up to and with the answer of response `last`, oldest first."""
        parts: list[list[Any]] = []
        classes: list[str] = []
        residency: frozenset[str] | None = None
        operators: frozenset[str] | None = None
        at: str | None = last
        while at is not None:
            if len(parts) >= self.limits.chain:
                return Refusal(
                    code="bad_value",
                    message=f"{last!r} follows {self.limits.chain} responses already (responses.chain); "
                    "begin a new conversation, or send its items",
                    param="previous_response_id",
                )
            found = await self.get(caller, at, privacy)
            if isinstance(found, Refusal):
                if found.code != "not_found":
                    return found
                follows = "" if at == last else f", which {last!r} follows,"
                return Refusal(
                    code="not_found",
                    message=f"previous response {at[:80]!r}{follows} is not stored for this "
                    f"{self.limits.scope}: send the items themselves",
                    param="previous_response_id",
                )
            record, data_class = found
            parts.append([*record.input, *record.response.get("output", ())])
            classes.append(data_class)
            residency = _both(residency, record.residency)
            operators = _both(operators, record.operators)
            at = record.previous
        return Found(
            items=[item for part in reversed(parts) for item in part],
            data_class=max(classes, key=PRIVACY_CLASSES.index),
            residency=residency,
            operators=operators,
        )


def _may_see(item: Item, caller: Caller, privacy: str) -> bool:
    if PRIVACY_CLASSES.index(item.data_class) <= PRIVACY_CLASSES.index(privacy):
        return True
    made_by = msgspec.json.decode(item.meta).get("key") if item.meta else None
    return bool(made_by == caller.key)


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    return other if one is None else one if other is None else one & other


def _unavailable(error: Exception) -> Refusal:
    return Refusal(
        code="kept_unavailable",
        message=f"stored responses cannot be read now: {error}",
        retry_after_s=2.0,
    )
