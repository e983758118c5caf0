"""The forms of an answer that is told in another protocol than chat, or that comes in one.

Three cases, by stream or not: the engine speaks chat and the client does not (a `Writer` translates); both
speak the same other protocol (its bytes pass unchanged, and a `Dialect` reads them for the books); the engine
speaks another protocol than the client (dialect and writer, one after the other).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from wattmill.distribution import answers
from wattmill.distribution.attempt import Attempt
from wattmill.distribution.attempt_forms import Assembling, Passing, Streamed, drained, through
from wattmill.distribution.doors.chat import choice_of_answer
from wattmill.distribution.spec import MAX_WHOLE_BYTES
from wattmill.distribution.sse import EventTooLongError
from wattmill.distribution.whole_answer import Whole
from wattmill.models.engines.odd_answer import begins_otherwise
from wattmill.models.engines.speech import Dialect, Speech, data_of
from wattmill.models.engines.tally import read_answer
from wattmill.units import US_PER_S
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body
from wattmill.vocab.usage import Usage

if TYPE_CHECKING:
    from wattmill.distribution.exchange import Exchange
    from wattmill.models.engines.adapter import Adapter

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def form_of(*, streamed: bool, stream: bool) -> type[Attempt]:
    """Return the form for an engine that is asked for a stream or not, and a client that wants one or not."""
    if not streamed:
        return DoorWhole
    return DoorPassing if stream else DoorAssembling


def _native(x: Exchange, adapter: Adapter) -> Speech | None:
    """Return how the client's own body is put to an engine of its protocol; None: it leaves as a chat.

    A gate that has changed the body, or wants to see or change the answer, knows chat only."""
    entrance = x.door
    if entrance is None or x.taps or x.draft.body is not entrance.visit.chat:
        return None
    return adapter.natives.get(entrance.name)


def _spoken(x: Exchange, *, native: bool) -> Body:
    return x.door.visit.native if native and x.door is not None else x.draft.body


class DoorPassing(Passing):
    """A stream, event by event."""

    __slots__ = ("_dialect", "_is_native", "_writer", "speech")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        x = self.exchange
        native = _native(x, self.adapter)
        self._is_native = native is not None
        self.speech = native or self.adapter.chat_as
        self._dialect: Dialect | None = self.speech.dialect() if self.speech is not None else None
        self._writer = x.door.writer() if x.door is not None and native is None else None

    def spoken(self) -> Body:
        return _spoken(self.exchange, native=self._is_native)

    def on_body(self, data: bytes) -> None:
        Streamed.on_body(self, data)  # no event goes on as it came: it is told in other words, or retouched

    def took(self, data: bytes) -> None:
        dialect, tally = self._dialect, self.tally
        if dialect is None:
            super().took(data)
            return
        try:
            events = self._splitter.feed(data)
        except EventTooLongError as error:
            self.malformed(str(error))
            return
        shown: list[bytes] = []
        for event in events:
            if not event:
                continue
            for chat in dialect.feed(event):
                out = tally.feed(chat)
                if tally.failure is not None or tally.done or tally.output_tok_so_far > self.clamp_tok:
                    break
                if out is not None and not self._is_native:
                    shown.append(out)
            if tally.failure is not None or tally.output_tok_so_far > self.clamp_tok:
                break
            if self._is_native:
                shown.append(self._retouched(event) + b"\n\n")
            if tally.done:
                break
        self.judge(shown)

    def _retouched(self, event: bytes) -> bytes:
        entrance = self.exchange.door
        assert entrance is not None
        return entrance.visit.retouched(event, kept=entrance.keeper is not None)

    def cut_events(self, usage: Usage | None) -> list[bytes]:
        if self._is_native and self._dialect is not None:
            return self._dialect.cut(usage)
        return super().cut_events(usage)

    def show(self, events: list[bytes]) -> None:
        x = self.exchange
        if x.door is None:
            super().show(events)
            return
        if self._begun:
            if x.taps:
                events = through(x.taps, events)
            if events:
                self._write(self._told(events))
            return
        if events and self.hold(events):
            self._begin()

    def _told(self, events: list[bytes]) -> list[bytes]:
        """Return chat events in the door's words; what is in them already passes."""
        writer = self._writer
        told = events if writer is None else [one for event in events for one in writer.take(event)]
        return self._outer(told)

    def _outer(self, told: list[bytes]) -> list[bytes]:
        entrance = self.exchange.door
        return through(entrance.outer, told) if entrance is not None and entrance.outer else told

    def _write(self, told: list[bytes]) -> None:
        conn = self.exchange.conn
        if told:
            conn.send(b"".join([conn.framed(event) for event in told]))

    def _begin(self) -> None:
        if self.exchange.door is not None:
            self._held = self._told(self._held)
        super()._begin()

    def close(self, events: list[bytes], usage: Usage | None) -> None:
        x = self.exchange
        entrance = x.door
        if entrance is None:
            super().close(events, usage)
            return
        told = self._told(self.last_of(events))
        writer = self._writer
        if writer is not None:
            last = writer.close(usage, now_s=_now_s(x))
        else:
            last, told = told[-1:], told[:-1]
        if self._begun:
            self._write(told)
        else:
            self._held = told
            super()._begin()
        keeper = entrance.keeper
        answer = _answer_in(last) if keeper is not None else None
        if entrance.outer:
            last = drained(entrance.outer, last, complete=True)
        if keeper is None or answer is None:
            self._finish(last)
        else:
            keeper.keep(x, answer, lambda kept: self._finish(last if kept else _not_kept(last)))

    def _finish(self, last: list[bytes]) -> None:
        """Write the last events; the charge stands before the very last, after which clients stop reading."""
        x = self.exchange
        comment = answers.charge_comment(
            x.id, self.charge_nusd, self.energy_j, stopped_by_budget=self.stopped_by_budget
        )
        last = [*last[:-1], comment, *last[-1:]]
        x.conn.end(b"".join([x.conn.framed(event) for event in last]))

    def break_off(self, refusal: Refusal) -> None:
        x = self.exchange
        entrance = x.door
        if entrance is None:
            super().break_off(refusal)
            return
        last = self._told(drained(x.taps, [], complete=False) if x.taps else [])
        if self._writer is not None:
            last += self._writer.fail(refusal, x.id)
        else:
            last.append(entrance.door.error_event(refusal, x.id))
        if entrance.outer:
            last = drained(entrance.outer, last, complete=False)
        x.conn.end(b"".join([x.conn.framed(event) for event in last]))


class DoorAssembling(Assembling):
    """The engine streams a chat; the client wants one answer in the door's words."""

    __slots__ = ()

    def take_in(self, events: list[bytes]) -> None:
        super().take_in(events)
        if self.exchange.door is not None:
            choice_of_answer(self._assembler.answer())  # the door will read it so

    def tell(self, head: bytes, body: bytes, usage: Usage | None) -> None:
        _tell_whole(self, head, body, usage, native=False)


class DoorWhole(Whole):
    """One answer in, one answer out; it is held until all of it is there."""

    __slots__ = ("_is_native", "speech")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        native = _native(self.exchange, self.adapter)
        self._is_native = native is not None
        self.speech = native or self.adapter.chat_as

    def spoken(self) -> Body:
        return _spoken(self.exchange, native=self._is_native)

    def took(self, data: bytes) -> None:
        self._bytes += len(data)
        self._parts.append(data)
        if self._bytes > MAX_WHOLE_BYTES:
            self.malformed(f"an answer of more than {MAX_WHOLE_BYTES} bytes cannot be looked at")

    def ended(self) -> None:
        x = self.exchange
        body = chat = b"".join(self._parts)
        if self.speech is not None:
            try:
                chat = self.speech.dialect().whole(body)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                self.malformed(begins_otherwise(body) or f"the engine's answer cannot be read: {error}")
                return
        reading = self._reading = read_answer(self.adapter, x.endpoint, chat)
        if reading.failure is not None:
            self.malformed(reading.failure)
            return
        if x.door is not None and not self._is_native:
            choice_of_answer(chat)  # the door will read it so
        self.first_s = x.services.clock.now()
        self.came_first()
        why = x.goes_on(self, chat) if x.services.cascade is not None else None
        self.book("finished", reading.usage, reading.source, error=why)
        if why is None:
            self._tell_answer(body, chat, reading.usage)
        else:
            x.escalate(self, lambda: self._tell_answer(body, chat, reading.usage))

    def _tell_answer(self, body: bytes, chat: bytes, usage: Usage | None) -> None:
        x = self.exchange
        x.finished(self.pool, "2xx")
        head = self.whole_head()
        for tap in x.taps:
            chat = tap.whole(chat)
        _tell_whole(self, head, body if self._is_native else chat, usage, native=self._is_native)


def _tell_whole(attempt: Attempt, head: bytes, body: bytes, usage: Usage | None, *, native: bool) -> None:
    x = attempt.exchange
    entrance = x.door
    head += answers.charge_lines(
        x.spent_nusd + attempt.charge_nusd,
        usage,
        attempt.energy_j,
        stopped_by_budget=attempt.stopped_by_budget,
    )
    if entrance is None:  # a chat, from an engine that speaks another protocol
        x.conn.answer(head, body)
        return
    keeper = entrance.keeper
    if native:
        body = entrance.visit.retouched(body, kept=keeper is not None)
    else:
        body = entrance.writer().answer(body, usage, now_s=_now_s(x))
    answer = _decode(body) if keeper is not None else {}
    for tap in entrance.outer:
        body = tap.whole(body)

    def tell(kept: bool) -> None:
        x.conn.answer(head, body if kept else _encode({**_decode(body), "store": False}))

    if keeper is None:
        x.conn.answer(head, body)
    else:
        keeper.keep(x, answer, tell)


def _now_s(x: Exchange) -> int:
    return x.services.clock.wall_us() // US_PER_S


def _answer_in(last: list[bytes]) -> Mapping[str, Any] | None:
    """Return the response object of the event that ends a stream."""
    payload = data_of(last[-1]) if last else None
    answer = _decode(payload).get("response") if payload else None
    return answer if isinstance(answer, dict) else None


def _not_kept(last: list[bytes]) -> list[bytes]:
    """It could not be kept: the last event says so, as the first ones could not know."""
    head, _, data = last[-1].partition(b"\ndata: ")
    body = _decode(data)
    body["response"]["store"] = False
    return [*last[:-1], b"%b\ndata: %b\n\n" % (head, _encode(body))]
