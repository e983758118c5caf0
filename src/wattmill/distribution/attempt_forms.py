"""The forms of an answer that its engine streams.

`Passing`: it goes on as a stream, event by event. `Assembling`: the client wants one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wattmill.distribution import answers
from wattmill.distribution.attempt import Attempt
from wattmill.distribution.booking import EngineSays
from wattmill.distribution.gate import Tap
from wattmill.distribution.spec import MAX_WHOLE_BYTES
from wattmill.distribution.sse import EventTooLongError, Splitter
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.models.engines.assemble import Assembler
from wattmill.models.engines.continuing import text_so_far
from wattmill.models.engines.tally import Tally
from wattmill.vocab.fact import UsageSource
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage

if TYPE_CHECKING:
    from wattmill.distribution.exchange import Exchange

HELD_EVENTS = 64  # before the first content; more than any engine sends
_UNHEARD = Tally(ADAPTERS["openai"], "chat", show_usage=False)  # of an attempt that nobody listens to yet


class Streamed(Attempt):
    """What `Passing` and `Assembling` share: events, counted one by one, and the clamp."""

    __slots__ = ("_splitter", "tally")

    def listen(self) -> None:
        draft = self.exchange.draft
        # An assembled answer always has its usage, like any answer that is not streamed.
        self.tally = Tally(
            self.adapter,
            self.exchange.endpoint,
            show_usage=draft.show_usage or not draft.stream,
            n=draft.n,
            prompts=draft.prompts,
        )
        self._splitter = Splitter()

    streamed = True

    def output_tok_so_far(self) -> int:
        return self.tally.output_tok_so_far

    def began(self, content_type: bytes) -> None:
        if content_type.startswith(b"application/json"):
            self.malformed("asked for a stream, the engine answered with application/json")

    def so_far(self, *, worked: bool) -> tuple[Usage | None, UsageSource]:
        if not self.sent:
            return None, "none"
        worked = worked or self.tally.has_content
        estimated_tok = self.exchange.estimated_prompt_tok if worked else None
        return self.tally.reading(estimated_tok, batch_tok=self.backend.batch_tok)

    def said(self) -> EngineSays:
        return self.tally

    def on_body(self, data: bytes) -> None:
        if self.status != 200 or self.booked:
            super().on_body(data)
            return
        try:
            self.took(data)
        except Exception as error:  # noqa: BLE001 - `guarded`, without its calls: every chunk comes by here
            self.exchange.crashed(error)

    def took(self, data: bytes) -> None:
        tally = self.tally
        try:
            events = self._splitter.feed(data)
        except EventTooLongError as error:
            self.malformed(str(error))
            return
        shown: list[bytes] = []
        for event in events:
            if not event:
                continue
            out = tally.feed(event)
            if tally.failure is not None or tally.output_tok_so_far > self.clamp_tok or tally.done:
                break
            if out is not None:
                shown.append(out)
        self.judge(shown)

    def judge(self, shown: list[bytes]) -> None:
        """Go on by what the tally says, with the events that the client may see."""
        tally = self.tally
        if self.first_s is None and tally.has_content:
            self.first_s = self.exchange.services.clock.now()
            self.upstream.state.gave_content()
            self.came_first()
        if tally.failure is not None:
            self.show(shown)
            self.malformed(tally.failure)
        elif tally.output_tok_so_far > self.clamp_tok:
            self._cut(shown)
        elif tally.done:
            self._done(shown)
        else:
            self.show(shown)

    def ended(self) -> None:
        rest = self._splitter.rest
        if rest:  # a last event without its blank line
            self.took(b"\n\n")
        if self.booked:
            return
        if self.tally.finish_reason is not None:
            self._done([])  # everything came but the [DONE]
        else:
            self.malformed("the stream ended before the answer did")

    def _done(self, shown: list[bytes]) -> None:
        usage, source = self.tally.reading(self.exchange.estimated_prompt_tok)
        self.book("finished", usage, source)
        self._detach()
        self.exchange.finished(self.pool, "2xx")
        self.close(shown, usage)

    def _cut(self, shown: list[bytes]) -> None:
        """The engine went past its clamp: stop it, book all of it, and give the client a proper end."""
        tally = self.tally
        usage, source = tally.reading(self.exchange.estimated_prompt_tok)
        self._abort()
        self.book("cut", usage, source, error="clamp")
        self.exchange.finished(self.pool, "2xx")
        self.close(shown + self.cut_events(usage), usage)

    def cut_events(self, usage: Usage | None) -> list[bytes]:
        """Return the events that end an answer which was cut."""
        tally, draft = self.tally, self.exchange.draft
        endpoint, model = self.exchange.endpoint, self.model.upstream
        events = [answers.length_event(endpoint, engine_id=tally.engine_id, model=model)]
        if usage is not None and (draft.show_usage or not draft.stream):
            events.append(answers.usage_event(endpoint, engine_id=tally.engine_id, model=model, usage=usage))
        return events

    def _detach(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.detach()

    def show(self, events: list[bytes]) -> None:
        """Take events that the client may see."""
        raise NotImplementedError

    def close(self, events: list[bytes], usage: Usage | None) -> None:
        """Take the last events; the attempt is booked."""
        raise NotImplementedError


class Passing(Streamed):
    """The client sees each event as it comes; what precedes the first content waits for it, so that another
    place can take over unseen."""

    __slots__ = ("_begun", "_head", "_held", "_said", "_tapped")

    def __init__(self, *args: Any) -> None:
        Attempt.__init__(self, *args)
        self.tally = _UNHEARD
        self._held: list[bytes] = []
        self._begun = False
        self._tapped = False  # what is held has passed the taps
        exchange = self.exchange
        may_go_on = exchange.services.resilience.continuation and exchange.door is None
        self._said: list[bytes] | None = [] if may_go_on else None

    def listen(self) -> None:
        super().listen()
        exchange = self.exchange
        self._head = answers.routed_head(
            exchange.id,
            stream=True,
            pool=self.pool,
            expected_nusd=self.candidate.expected_nusd,
            more=exchange.head_lines,
        )

    def on_body(self, data: bytes) -> None:
        # Most chunks of most streams are one event like the one before it, but for its text.
        if self._begun and self._said is None and not self.booked and not self.exchange.taps:
            tally = self.tally
            if self._splitter.between and (event := tally.again(data)) is not None:
                if tally.output_tok_so_far <= self.clamp_tok:
                    self.exchange.conn.send_one(event)
                else:
                    self.exchange.guarded(self.judge, [event])
                return
        super().on_body(data)

    @property
    def committed(self) -> bool:
        return self._begun

    def text_shown(self) -> str | None:
        said = self._said
        return None if said is None else text_so_far(self.exchange.endpoint, said)

    def as_seen(self, events: list[bytes]) -> list[bytes]:
        """Return events as part of the one answer that the client sees, and remember them if it may go on."""
        if self._said is not None:
            self._said += events
            part = self.exchange.continuing
            if part is not None:
                return [part.shown(event, self.tally.engine_id) for event in events]
        return events

    def show(self, events: list[bytes]) -> None:
        if self._said is not None:
            events = self.as_seen(events)
        if self._begun and self.exchange.taps:
            events = through(self.exchange.taps, events)
        if not events:
            return
        conn = self.exchange.conn
        if self._begun:
            if len(events) == 1:
                conn.send(conn.framed(events[0]))
            else:
                conn.send(b"".join([conn.framed(event) for event in events]))
            return
        if self.hold(events):
            self._begin()

    def hold(self, events: list[bytes]) -> bool:
        """Keep events until there is content to show; return whether it is time to begin.

        Taps see nothing before the first content, when no other attempt can win any more. One of them may
        keep the content back: then another place can still take over."""
        taps = self.exchange.taps
        if self._tapped:
            self._held += through(taps, events)
            return bool(self._held)
        self._held += events
        if not self.tally.has_content and len(self._held) <= HELD_EVENTS:
            return False
        if taps:
            self._tapped = True
            self._held = through(taps, self._held)
        return bool(self._held)

    def last_of(self, events: list[bytes]) -> list[bytes]:
        """Return what is yet to be shown when the stream ends: all of it, if nothing was."""
        if not self._begun and not self._tapped:
            events, self._held = self._held + events, []
        if self.exchange.taps:
            events = drained(self.exchange.taps, events, complete=True)
        if not self._begun:
            events, self._held = self._held + events, []
        return events

    def _begin(self) -> None:
        """Send the head and what was held in one write, each event in a frame of its own."""
        self._begun = True
        exchange = self.exchange
        conn = exchange.conn
        part = exchange.continuing
        if part is not None:
            held, self._held = [part.mark(self.pool), *self._held], []
            conn.send(b"".join([conn.framed(event) for event in held]))
            return
        held, self._held = self._held, []
        conn.begin(self._head, held)

    def close(self, events: list[bytes], usage: Usage | None) -> None:
        conn = self.exchange.conn
        if self._said is not None:
            events = self.as_seen(events)
        events = self.last_of(events)
        if not self._begun:
            self._held = events
            events = []
            self._begin()
        charge, energy_j = self.charge_nusd, self.energy_j
        part = self.exchange.continuing
        if part is not None:
            charge += part.charge_nusd
            energy_j = None if energy_j is None else energy_j + part.energy_j
        events.append(
            answers.charge_comment(
                self.exchange.id, charge, energy_j, stopped_by_budget=self.stopped_by_budget
            )
        )
        events.append(answers.DONE)
        conn.end(b"".join([conn.framed(event) for event in events]))

    def break_off(self, refusal: Refusal) -> None:
        break_off_stream(self.exchange, refusal)


def break_off_stream(exchange: Exchange, refusal: Refusal) -> None:
    """End a stream of which the client has seen a part."""
    conn = exchange.conn
    last = [answers.error_event(refusal, exchange.id)]
    if exchange.taps:
        last = drained(exchange.taps, [], complete=False) + last
    conn.end(b"".join([conn.framed(event) for event in last]))


class Assembling(Streamed):
    """The client sees nothing until all is there: until then another place can take over."""

    __slots__ = ("_assembler", "_bytes")

    def __init__(self, *args: Any) -> None:
        Attempt.__init__(self, *args)
        self.tally = _UNHEARD
        self._assembler = Assembler(self.exchange.endpoint)
        self._bytes = 0

    def show(self, events: list[bytes]) -> None:
        for event in events:
            self._bytes += len(event)
            self._assembler.add(event)
        if self._bytes > MAX_WHOLE_BYTES and not self.booked:
            self.malformed(f"an answer of more than {MAX_WHOLE_BYTES} bytes cannot be assembled")

    def take_in(self, events: list[bytes]) -> None:
        """Take the last events, before the end is booked: raises `OddAnswer` if they make no answer."""
        for event in events:
            self._assembler.add(event)

    def _cut(self, shown: list[bytes]) -> None:
        self.take_in(shown)
        super()._cut([])

    def _done(self, shown: list[bytes]) -> None:
        self.take_in(shown)
        exchange = self.exchange
        if exchange.services.cascade is None:
            super()._done([])
            return
        usage, source = self.tally.reading(exchange.estimated_prompt_tok)
        why = exchange.goes_on(self, self._assembler.answer())
        self.book("finished", usage, source, error=why)
        self._detach()

        def tell() -> None:
            exchange.finished(self.pool, "2xx")
            self.close([], usage)

        if why is None:
            tell()
        else:
            exchange.escalate(self, tell)

    def close(self, events: list[bytes], usage: Usage | None) -> None:
        for event in events:
            self._assembler.add(event)
        exchange = self.exchange
        head = self.whole_head()
        body = self._assembler.answer()
        for tap in exchange.taps:
            body = tap.whole(body)
        self.tell(head, body, usage)

    def tell(self, head: bytes, body: bytes, usage: Usage | None) -> None:
        """Write the assembled answer."""
        lines = answers.charge_lines(
            self.exchange.spent_nusd + self.charge_nusd,
            usage,
            self.energy_j,
            stopped_by_budget=self.stopped_by_budget,
        )
        self.exchange.conn.answer(head + lines, body)

    def break_off(self, refusal: Refusal) -> None:
        raise AssertionError("nothing was shown")


def through(taps: Sequence[Tap], events: list[bytes]) -> list[bytes]:
    for tap in taps:
        events = [out for event in events if (out := tap.event(event))]
    return events


def drained(taps: Sequence[Tap], events: list[bytes], *, complete: bool) -> list[bytes]:
    """The last events, and what each tap has kept back; what one gives, the next one sees."""
    for tap in taps:
        events = [out for event in events if (out := tap.event(event))]
        if rest := tap.ended(complete):
            events.append(rest)
    return events
