"""The exact length of a prompt, by the engine that would serve it: asked near a limit only.

An upper bound from bytes lies some four times above the count. Where the bound does not fit what a limit has
left and the count might, the engine's own tokenizer is asked (that moves no counter), and the reservation is
tried again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from wattmill.distribution.upstream import Upstream
from wattmill.distribution.upstream_conn import Handle
from wattmill.models.engines.contract import Adapter
from wattmill.vocab.request import Body

_MAX_BYTES = 65_536
_LENGTH = frozenset({"max_tokens", "max_completion_tokens", "stream", "stream_options", "n"})


class _Said(msgspec.Struct):
    input_tokens: int


_read = msgspec.json.Decoder(_Said).decode


class PromptCount:
    """Implements `upstream_conn.Sink`. Calls `done` once, with the count or None."""

    def __init__(self, done: Callable[[int | None], None]) -> None:
        self.handle: Handle | None = None
        self._done: Callable[[int | None], None] | None = done
        self._status = 0
        self._body = b""

    def ask(self, upstream: Upstream, adapter: Adapter, body: Body, *, model: str) -> None:
        """Put the question. `adapter.count_path` must be there."""
        assert adapter.count_path is not None
        asked: dict[str, object] = {name: value for name, value in body.items() if name not in _LENGTH}
        asked["model"] = model
        upstream.post(adapter.count_path, msgspec.json.encode(asked), self, upstream.now_s())

    def _tell(self, count: int | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(count)

    # ---- upstream_conn.Sink

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._status = status

    def on_body(self, data: bytes) -> None:
        if len(self._body) < _MAX_BYTES:
            self._body += data

    def on_end(self) -> None:
        count: int | None = None
        if self._status == 200:
            try:
                count = _read(self._body).input_tokens
            except msgspec.MsgspecError:
                count = None
        self._tell(count if count is None or count > 0 else None)

    def on_lost(self, kind: str, text: str) -> None:
        self._tell(None)
