"""How many tokens a prompt is, without asking for an answer.

Exact where a place that the caller may use counts for us, in the protocol's own words; else the upper bound
that a request would be reserved by, and the answer says which of the two it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from wattmill.distribution.doors.door import MESSAGES, Door
from wattmill.distribution.doors.fields import encode
from wattmill.distribution.side_door import SideAnswer, SideRequest
from wattmill.distribution.understanding import rules_of
from wattmill.distribution.upstream_conn import Handle
from wattmill.distribution.wire import draft_of, read_body
from wattmill.models.bound import input_bound_tok
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.spec import TokenizerBound
from wattmill.vocab.caller import out_of_scope
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body, Request

if TYPE_CHECKING:
    from wattmill.distribution.gateway import Gateway

_MOST_BYTES = 65_536
_LENGTH = frozenset(("max_tokens", "stream", "stream_options", "n"))
_COUNTED = frozenset(("messages", "system", "tools", "tool_choice", "thinking"))
_PLAIN = TokenizerBound()


class _Count(msgspec.Struct):
    input_tokens: int


_count = msgspec.json.Decoder(_Count).decode


async def count(gateway: Gateway, door: Door, request: SideRequest) -> SideAnswer | Refusal:
    """Answer a request that asks for the tokens of another one's prompt."""
    services, caller = gateway.services, request.caller
    refusal = out_of_scope(caller, endpoint=door.name)
    if refusal is not None:
        return refusal
    rules = rules_of(request.headers, caller)
    if isinstance(rules, Refusal):
        return rules
    privacy, residency = rules
    body = read_body(request.body)
    if isinstance(body, Refusal):
        return body
    visit = door.read(body, suffix="count", now_s=0, counting=True)
    if isinstance(visit, Refusal):
        return visit
    draft = draft_of(visit.chat)
    if isinstance(draft, Refusal):
        return draft
    model, pool = draft.model, None
    if "/" in model and model.partition("/")[0] in services.backends:
        pool, _, model = model.partition("/")
    card = services.bound.get(model, _PLAIN)
    bound = input_bound_tok("chat", visit.chat, card)
    if isinstance(bound, Refusal):
        return bound
    bound += int(visit.beside_bytes * card.expansion)
    ask = Request(
        id=request.id,
        endpoint="chat",
        model=model,
        pool=pool,
        stream=False,
        input_bound_tok=bound,
        max_output_tok=1,
        needs=draft.needs,
        privacy=privacy,
        residency=residency,
        operators=caller.operators,
    )
    for gate in services.gates:
        bound_by = getattr(gate, "for_counting", None)
        if bound_by is not None:
            told: Request | None = bound_by(ask, caller)
            if told is None:  # the text may not leave unread, and nothing here reads it
                return _answer(door, bound, "bound", "declared")
            ask = told
    route = services.route(ask, caller, None)
    if isinstance(route, Refusal):
        return route
    for candidate in route.candidates:
        exact = await _ask(gateway, candidate.pool, ask.model, door, visit.chat, visit.native)
        if exact is not None:
            return _answer(door, exact, f"place:{candidate.pool}", "measured")
    return _answer(door, bound, "bound", "declared")


def _answer(door: Door, tokens: int, counted_by: str, provenance: str) -> SideAnswer:
    said: dict[str, object] = {"input_tokens": tokens}
    if door is not MESSAGES:
        said["object"] = "response.input_tokens"
    said["counted_by"] = counted_by
    told = f"{provenance};{counted_by}".encode()
    return SideAnswer(encode(said), headers=((b"x-wattmill-count", told),))


async def _ask(gateway: Gateway, pool: str, model: str, door: Door, chat: Body, native: Body) -> int | None:
    """Return what the place counts, None if it does not count or cannot now."""
    upstream, backend = gateway.upstreams.get(pool), gateway.services.backends.get(pool)
    if upstream is None or backend is None or model not in backend.models:
        return None
    adapter = ADAPTERS[backend.adapter]
    name = backend.models[model].upstream
    if door.name in adapter.natives and adapter.native_count_path is not None:
        path = adapter.native_count_path
        body = encode({**{k: v for k, v in native.items() if k in _COUNTED}, "model": name})
    elif adapter.count_path is not None and adapter.check("chat", chat) is None:
        path = adapter.count_path
        body = encode({**{k: v for k, v in chat.items() if k not in _LENGTH}, "model": name})
    else:
        return None
    sink = _Sink(asyncio.get_running_loop().create_future())
    upstream.post(path, body, sink, gateway.now_s())
    try:
        async with asyncio.timeout(backend.first_byte_timeout_s):
            return await sink.told
    except TimeoutError:
        return None
    finally:
        if not sink.told.done() or sink.told.cancelled():
            sink.leave()


class _Sink:
    """Waits for one small answer of an engine."""

    def __init__(self, told: asyncio.Future[int | None]) -> None:
        self.told = told
        self.handle: Handle | None = None
        self._status = 0
        self._body = b""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._status = status

    def on_body(self, data: bytes) -> None:
        if len(self._body) < _MOST_BYTES:
            self._body += data

    def on_end(self) -> None:
        tokens: int | None = None
        if self._status == 200:
            try:
                tokens = _count(self._body).input_tokens
            except msgspec.MsgspecError:
                tokens = None
        self._tell(tokens)

    def on_lost(self, kind: str, text: str) -> None:
        self._tell(None)

    def _tell(self, tokens: int | None) -> None:
        if not self.told.done():
            self.told.set_result(tokens)

    def leave(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.abort()
