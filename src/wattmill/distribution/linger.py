"""What an engine does after an abort: its slot counts as busy until its own counters say that it is free."""

from __future__ import annotations

from wattmill.distribution.metrics import Metrics
from wattmill.distribution.upstream import Upstream
from wattmill.distribution.upstream_conn import Handle
from wattmill.models.engines.adapter import ADAPTERS

_POLL_S = 0.1
_LONGEST_S = 60.0
_MAX_BYTES = 1024 * 1024


class LingerWatch:
    """Polls one engine's counters while aborted requests may still run on it.

    An engine shared by several workers also counts the others' requests as running; then a slot may be freed
    later than it could be, at most `_LONGEST_S` after the abort.
    """

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self.upstream = upstream
        self.handle: Handle | None = None
        self._metrics = metrics
        self._adapter = ADAPTERS[upstream.backend.adapter]
        self._began: list[tuple[float, int]] = []  # when, and how much of a prompt it leaves in the line
        self._asked_s = 0.0
        self._asking = False
        self._body = b""
        self._status = 0

    @property
    def waits(self) -> bool:
        return bool(self._began)

    def began(self, now_s: float, in_line_tok: int) -> None:
        self.upstream.state.lingers()
        self._began.append((now_s, in_line_tok))

    def sweep(self, now_s: float) -> None:
        if not self._began:
            return
        while self._began and now_s - self._began[0][0] > _LONGEST_S:
            self._free(1, now_s)
        if self._began and not self._asking and now_s - self._asked_s >= _POLL_S:
            self._asking = True
            self._asked_s = now_s
            self._body, self._status = b"", 0
            assert self._adapter.counters_path is not None
            self.upstream.get(self._adapter.counters_path, self, below_base=False)

    def _free(self, count: int, now_s: float) -> None:
        state = self.upstream.state
        state.lingers_no_more(count)
        for began_s, in_line_tok in self._began[:count]:
            state.ahead_tok -= in_line_tok
            state.linger_s = now_s - began_s
            self._metrics.count(
                "wattmill_abort_linger_seconds_total", self.upstream.backend.pool, by=now_s - began_s
            )
        del self._began[:count]

    # ---- the answer of the counters

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._status = status

    def on_body(self, data: bytes) -> None:
        if len(self._body) < _MAX_BYTES:
            self._body += data

    def on_end(self) -> None:
        self._asking = False
        counters = self._adapter.counters(self._body) if self._status == 200 else None
        if counters is not None:
            beyond_ours = max(0, counters.running - self.upstream.state.serving)
            free = len(self._began) - beyond_ours
            if free > 0:
                self._free(free, self.upstream.now_s())

    def on_lost(self, kind: str, text: str) -> None:
        self._asking = False
        if kind == "connect":  # the engine is gone, and its work with it
            self._free(len(self._began), self.upstream.now_s())
