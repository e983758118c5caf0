"""The form of an answer that comes whole and goes whole: one in, one out."""

from __future__ import annotations

from typing import Any

from wattmill.distribution import answers
from wattmill.distribution.attempt import Attempt
from wattmill.distribution.booking import EngineSays
from wattmill.distribution.spec import MAX_WHOLE_BYTES
from wattmill.models.engines.odd_answer import begins_otherwise
from wattmill.models.engines.tally import Reading, read_answer
from wattmill.vocab.fact import UsageSource
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage

_ENDS_BYTES = 32_768  # kept of each end of an answer that is passed on unread, to find its usage
_NO_READING = Reading(usage=None, source="unmetered")


class Whole(Attempt):
    """One answer, kept until it is complete and then told with its charge; a very long one is passed on as it
    comes, without the charge, and its usage is read from its ends."""

    __slots__ = ("_begun", "_bytes", "_head", "_parts", "_reading", "_tail")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._parts: list[bytes] = []
        self._bytes = 0
        self._begun = False
        self._head = b""
        self._tail = b""
        self._reading = _NO_READING

    @property
    def committed(self) -> bool:
        return self._begun

    def on_body(self, data: bytes) -> None:
        size = self._bytes + len(data)
        if (
            self.status == 200
            and size <= self.exchange.services.limits.answer_buffer_bytes
            and not (self._begun or self.booked or self.exchange.taps)
        ):
            self._bytes = size  # the usual case: nothing is to be done before its end
            self._parts.append(data)
        else:
            super().on_body(data)

    def took(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._begun:
            self._tail = (self._tail + data)[-_ENDS_BYTES:]
            conn = self.exchange.conn
            conn.send(conn.framed(data))
            return
        self._parts.append(data)
        if self.exchange.taps:  # they want all of it at once
            if self._bytes > MAX_WHOLE_BYTES:
                self.malformed(f"an answer of more than {MAX_WHOLE_BYTES} bytes cannot be looked at")
        elif self._bytes > self.exchange.services.limits.answer_buffer_bytes:
            self._begin()

    def _begin(self) -> None:
        exchange = self.exchange
        whole = b"".join(self._parts)
        self._parts.clear()
        why = begins_otherwise(whole)
        if why is not None:  # its end could not make it an answer: another place may still be asked
            self.malformed(why)
            return
        self._begun = True
        self.first_s = exchange.services.clock.now()
        self.came_first()
        self._head, self._tail = whole[:_ENDS_BYTES], whole[-_ENDS_BYTES:]
        head = self.whole_head()
        exchange.conn.begin(head, [whole])

    def ended(self) -> None:
        exchange = self.exchange
        if self._begun:
            self._reading = _usage_of_ends(self, self._head, self._tail)
            self.book("finished", self._reading.usage, self._reading.source)
            exchange.finished(self.pool, "2xx")
            exchange.conn.end()
            return
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        reading = self._reading = read_answer(self.adapter, exchange.endpoint, body)
        if reading.failure is not None:
            self.malformed(reading.failure)
            return
        self.first_s = exchange.services.clock.now()
        self.came_first()
        why = exchange.goes_on(self, body) if exchange.services.cascade is not None else None
        self.book("finished", reading.usage, reading.source, error=why)
        if why is None:
            self._tell(body, reading)
        else:
            exchange.escalate(self, lambda: self._tell(body, reading))

    def _tell(self, body: bytes, reading: Reading) -> None:
        exchange = self.exchange
        exchange.finished(self.pool, "2xx")
        head = self.whole_head()
        for tap in exchange.taps:
            body = tap.whole(body)
        lines = answers.charge_lines(
            exchange.spent_nusd + self.charge_nusd,
            reading.usage,
            self.energy_j,
            stopped_by_budget=self.stopped_by_budget,
        )
        exchange.conn.answer(head + lines, body)

    def so_far(self, *, worked: bool) -> tuple[Usage | None, UsageSource]:
        if self._reading is not _NO_READING:
            return self._reading.usage, self._reading.source
        return super().so_far(worked=worked or self.status == 200)

    def said(self) -> EngineSays:
        return self._reading

    def break_off(self, refusal: Refusal) -> None:
        self.exchange.conn.break_off()  # half of a JSON text cannot be ended well


def _usage_of_ends(attempt: Whole, head: bytes, tail: bytes) -> Reading:
    """Find the usage object of an answer of which only the ends were kept.

    The last `"usage":{` of the tail, else the first of the head: a JSON string cannot hold it unescaped.
    """
    for part, at in ((tail, tail.rfind(b'"usage"')), (head, head.find(b'"usage"'))):
        if at < 0:
            continue
        start = part.find(b"{", at)
        depth = 0
        for end in range(start, len(part)) if start >= 0 else ():
            depth += (part[end] == 123) - (part[end] == 125)
            if depth == 0:
                found = read_answer(
                    attempt.adapter, attempt.exchange.endpoint, b'{"usage":%b}' % part[start : end + 1]
                )
                if found.usage is not None:
                    return found
                break
    return _NO_READING
