"""The gate for `idempotency-key`: a request is made once, and its answer told again to who repeats it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from wattmill.app.gates.claims import Claim, Claims, Stored
from wattmill.app.gates.recording import Recorder, told_again
from wattmill.distribution.answers import DONE
from wattmill.distribution.exchange import Exchange
from wattmill.distribution.gate import WAIT, Waiting
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Replayed
from wattmill.vocab.refusal import Refusal

MAX_KEY_BYTES = 255


class _Held:
    """One exchange that came with a key."""

    __slots__ = ("claim", "gone", "recorder")

    def __init__(self) -> None:
        self.claim: Claim | None = None
        self.recorder: Recorder | None = None
        self.gone = False


class IdempotencyGate:
    """Implements `distribution.gate.Gate`. A request without the header costs one look into a dict."""

    def __init__(self, claims: Claims, *, most_bytes: int) -> None:
        self._claims = claims
        self._most_bytes = most_bytes
        self._held: dict[Exchange, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def concerns(self, headers: Mapping[bytes, bytes], caller: Caller) -> bool:
        return b"idempotency-key" in headers

    def enter(self, x: Exchange) -> Refusal | Waiting | None:
        name = x.http.headers.get(b"idempotency-key")
        if name is None:
            return None
        name = name.strip()
        if not name or len(name) > MAX_KEY_BYTES or not name.isascii():
            return Refusal(
                code="bad_header",
                message=f"header 'idempotency-key' must be 1 to {MAX_KEY_BYTES} ASCII characters, "
                f"got {len(name)}",
                param="idempotency-key",
            )
        held = self._held[x] = _Held()
        self._start(x, self._claim(x, held, name))
        return WAIT

    async def _claim(self, x: Exchange, held: _Held, name: bytes) -> None:
        caller, path = x.caller, x.http.path
        assert caller is not None
        got = await self._claims.claim(
            node=caller.key,
            name=name,
            data_class=x.ask.privacy,
            body=path + b"\n" + x.http.body,
            request=x.id,
        )
        if isinstance(got, Refusal):
            x.go_on(got)
        elif isinstance(got, Stored):
            self._replay(x, got)
        elif held.gone:  # the client left while we asked
            await self._claims.free(got)
        else:
            held.claim = got
            held.recorder = Recorder(self._most_bytes)
            x.tap(held.recorder, outer=True)
            x.go_on()

    def _replay(self, x: Exchange, stored: Stored) -> None:
        x.gateway.metrics.count("wattmill_replays_total")
        note = Replayed(
            x.seq,
            x.services.clock.wall_us(),
            x.path,
            x.entry,
            x.draft.model,
            stored.request,
            x.http.label,
            x.below,
        )
        more = b"x-wattmill-replayed: %b\r\nx-wattmill-charge-usd: 0.000000000\r\n" % stored.request.encode()
        x.answer_with(told_again(x.id, more, stream=stored.stream), stored.answer, outer=True, note=note)

    def left(self, x: Exchange) -> None:
        held = self._held.pop(x, None)
        if held is None:
            return
        held.gone = True
        if held.claim is not None:
            # The last events of a stream pass the taps after this, in the same step of the loop.
            asyncio.get_running_loop().call_soon(self._over, x, held)

    def _over(self, x: Exchange, held: _Held) -> None:
        claim, recorder = held.claim, held.recorder
        assert claim is not None and recorder is not None
        if not recorder.complete:
            self._start(x, self._claims.free(claim))
            return
        answer = recorder.answer if _may_be_kept(x) else None
        stream = x.draft.stream
        if stream and answer is not None and x.door is None:
            answer += DONE  # which no tap sees
        self._start(x, self._claims.finish(claim, answer, stream=stream))

    def _start(self, x: Exchange, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(x, coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, x: Exchange, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception as error:  # noqa: BLE001 - the boundary: a defect of the store is told and answered
            x.gateway.defect(x.id, error)
            x.go_on(Refusal(code="internal", message=f"a defect in wattmill, logged under {x.id}"))

    async def settled(self) -> None:
        """Wait until everything is written down that has been answered."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _may_be_kept(x: Exchange) -> bool:
    """Say whether the answer may be on the disk: neither the client nor its data forbid it."""
    return x.ask.keep and bytes(x.draft.body.get("store", b"")) != b"false"
