"""A chat whose like was read before: clients repeat themselves, but for the messages.

The first ordinary chat on a connection is read field by field. A later one with the same bytes before and
after its messages says the same of everything else: model, limits, stream, whatever is governed. What is
left to read is the one value in between, and what goes to the engine is that value between the bytes that
were rendered for the last such body.

Why that cannot be fooled: with a mark in that place the bytes were seen to be the same object, with the mark
for its messages (`learn`). So what stands before leads a parser to where that value begins, and a complete
value leads it on to what stands after, whatever the value is.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from wattmill.distribution.wire import Draft, quick_chat, read_body
from wattmill.models.bound import chat_bound_tok, fields_bytes
from wattmill.models.engines.contract import Adapter
from wattmill.models.spec import TokenizerBound

_MARK = b'"here stand the messages 4f1c8e0b5d7a49c2b6e3"'
_MARKED = b"[%b]" % _MARK
_MOST_WAYS = 64  # in which bodies of one kind leave: another place, another limit


class KnownBody:
    """The bytes around the messages of a client's chats, and what they say."""

    __slots__ = ("_after", "_before", "_beside_bytes", "_draft", "_ways", "model", "passed_by")

    def __init__(self, before: bytes, after: bytes, draft: Draft) -> None:
        self._before = before
        self._after = after
        self._draft = draft
        self._beside_bytes = fields_bytes(draft.body)
        self.passed_by: set[str] = set()  # adapters that have found a body like this good for their engine
        self._ways: dict[tuple[str, str, bool, int], tuple[bytes, bytes]] = {}
        self.model = draft.model

    def read(self, data: bytes, bound: TokenizerBound) -> tuple[Draft, int] | None:
        """Return what `data` asks, and the most tokens that its prompt can become; None if it has to be read
        field by field."""
        before, after = self._before, self._after
        if not (data.startswith(before) and data.endswith(after)):
            return None
        raw = data[len(before) : len(data) - len(after)]
        if raw.rfind(b"[") != 0 or raw[-1:] != b"]":  # parts; or white space, which counts
            return None
        messages = Raw(raw)
        try:
            if not raw.isascii():
                raw.decode()
            most_tok = chat_bound_tok(messages, self._beside_bytes, bound)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if type(most_tok) is not int:
            return None
        known = self._draft
        body = known.body.copy()
        body["messages"] = messages
        draft = Draft(
            endpoint="chat",
            body=body,
            model=known.model,
            stream=known.stream,
            show_usage=known.show_usage,
            max_output_tok=known.max_output_tok,
        )
        return draft, most_tok

    def passed(self, adapter: Adapter) -> None:
        """`adapter.check` found one of these bodies good: it looks at fields, and not at the messages."""
        if adapter.extra_check is None and "messages" not in adapter.rules:
            self.passed_by.add(adapter.name)

    def render(self, adapter: Adapter, draft: Draft, model: str, stream: bool, max_output_tok: int) -> bytes:
        """Return what `adapter.render` would."""
        way = (adapter.name, model, stream, max_output_tok)
        around = self._ways.get(way)
        if around is None:
            if adapter.name not in self.passed_by:
                return _rendered(adapter, draft.body, model, stream, max_output_tok)
            marked = {**draft.body, "messages": Raw(_MARK)}
            parts = _rendered(adapter, marked, model, stream, max_output_tok).split(_MARK)
            if len(parts) != 2:  # a client that knows the mark
                return _rendered(adapter, draft.body, model, stream, max_output_tok)
            if len(self._ways) >= _MOST_WAYS:
                self._ways.clear()
            around = self._ways[way] = parts[0], parts[1]
        return b"%b%b%b" % (around[0], draft.body["messages"], around[1])


def learn(data: bytes, draft: Draft) -> KnownBody | None:
    """Return what to know of `data`, which was read as `draft`; None if it is no ordinary chat, or its
    messages cannot be told from the rest."""
    if "/" in draft.model or quick_chat(draft.body, data) != draft:
        return None
    raw = bytes(draft.body["messages"])
    at = data.find(raw)
    before, after = data[:at], data[at + len(raw) :]
    if read_body(before + _MARKED + after) != {**draft.body, "messages": Raw(_MARKED)}:
        return None  # the same bytes stand before the messages, as the value of something else
    return KnownBody(before, after, draft)


def _rendered(adapter: Adapter, body: dict[str, Raw], model: str, stream: bool, max_output_tok: int) -> bytes:
    return adapter.render("chat", body, model=model, stream=stream, max_output_tok=max_output_tok, choices=1)
