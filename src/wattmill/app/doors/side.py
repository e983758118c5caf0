"""The paths beside the doors: a stored response by its id, and counting the tokens of a prompt."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import msgspec

from wattmill.app.doors.stored import Record, StoredResponses
from wattmill.distribution.counting import count
from wattmill.distribution.doors.door import MESSAGES, RESPONSES
from wattmill.distribution.gateway import Gateway
from wattmill.distribution.side_door import SideAnswer, SideDoor, SideRequest
from wattmill.distribution.understanding import rules_of
from wattmill.units import whole_from
from wattmill.vocab.caller import out_of_scope
from wattmill.vocab.refusal import Refusal

_encode = msgspec.json.Encoder().encode
_MOST = 100


def side_doors(gateway: Gateway, stored: StoredResponses) -> dict[bytes, SideDoor]:
    """Return the side doors of `/v1/responses` and `/v1/messages`."""
    return {b"/v1/responses": _Responses(gateway, stored), b"/v1/messages": _Messages(gateway)}


class _Messages:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, request: SideRequest) -> SideAnswer | Refusal:
        if request.path != b"/v1/messages/count_tokens":
            return _unknown(request, "POST /v1/messages, POST /v1/messages/count_tokens")
        if request.method != b"POST":
            return _method(request, "POST")
        return await count(self._gateway, MESSAGES, request)


class _Responses:
    def __init__(self, gateway: Gateway, stored: StoredResponses) -> None:
        self._gateway = gateway
        self._stored = stored

    async def __call__(self, request: SideRequest) -> SideAnswer | Refusal:
        refusal = out_of_scope(request.caller, endpoint="responses")
        if refusal is not None:
            return refusal
        parts = request.path.decode("utf-8", "replace").split("/")[3:]
        match request.method, parts:
            case b"POST", ["input_tokens"]:
                return await count(self._gateway, RESPONSES, request)
            case b"GET", [response_id]:
                return await self._get(request, response_id)
            case b"DELETE", [response_id]:
                return await self._delete(request, response_id)
            case b"GET", [response_id, "input_items"]:
                return await self._items(request, response_id)
            case b"POST", [_, "cancel"]:
                return Refusal(
                    code="bad_value",
                    message="only responses made with background=true can be cancelled, and none are made "
                    "here; close the connection of a running one",
                )
            case _, [] | [_] | [_, "input_items"]:
                return _method(request, "POST /v1/responses, GET or DELETE /v1/responses/ID")
        return _unknown(
            request,
            "POST /v1/responses, GET and DELETE /v1/responses/ID, GET /v1/responses/ID/input_items, "
            "POST /v1/responses/input_tokens",
        )

    async def _get(self, request: SideRequest, response_id: str) -> SideAnswer | Refusal:
        if b"stream=true" in request.query:
            return Refusal(
                code="field_refused",
                message="a stored response is told whole; leave 'stream' out",
                param="stream",
            )
        found = await self._found(request, response_id)
        return found if isinstance(found, Refusal) else SideAnswer(_encode(found[0].response))

    async def _delete(self, request: SideRequest, response_id: str) -> SideAnswer | Refusal:
        rules = rules_of(request.headers, request.caller)
        if isinstance(rules, Refusal):
            return rules
        gone = await self._stored.delete(request.caller, response_id, rules[0])
        if isinstance(gone, Refusal):
            return gone
        return SideAnswer(_encode({"id": response_id, "object": "response", "deleted": True}))

    async def _found(self, request: SideRequest, response_id: str) -> tuple[Record, str] | Refusal:
        rules = rules_of(request.headers, request.caller)
        if isinstance(rules, Refusal):
            return rules
        return await self._stored.get(request.caller, response_id, rules[0])

    async def _items(self, request: SideRequest, response_id: str) -> SideAnswer | Refusal:
        found = await self._found(request, response_id)
        if isinstance(found, Refusal):
            return found
        asked = parse_qs(request.query.decode("latin-1"))
        limit_text = asked.get("limit", ["20"])[0]
        limit = whole_from(limit_text) or 0
        if not 1 <= limit <= _MOST:
            return Refusal(
                code="bad_value",
                message=f"'limit' must be from 1 to {_MOST}, got {limit_text[:20]!r}",
                param="limit",
            )
        items: list[dict[str, Any]] = list(found[0].input)
        if asked.get("order", ["desc"])[0] != "asc":
            items.reverse()
        after = asked.get("after", [""])[0]
        ids = [item["id"] for item in items]
        if after:
            if after not in ids:
                no = f"'after' names no item: {after[:80]!r}"
                return Refusal(code="bad_value", message=no, param="after")
            items = items[ids.index(after) + 1 :]
        page = items[:limit]
        body = {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > len(page),
        }
        return SideAnswer(_encode(body))


def _unknown(request: SideRequest, known: str) -> Refusal:
    shown = request.path[:200].decode("utf-8", "replace")
    return Refusal(code="not_found", message=f"no path {shown!r} here; there are {known}")


def _method(request: SideRequest, verbs: str) -> Refusal:
    return Refusal(
        code="method_not_allowed",
        message=f"{request.method.decode('latin-1')} is not allowed on this path; use {verbs}",
    )
