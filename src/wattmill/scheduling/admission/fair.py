"""Weighted fair queueing by start tags: who has had least of the tier goes next [1].

A tenant's head starts at max(virtual time, where its last request finished), and finishes its work divided by
its weight later; the least start goes first and sets the virtual time. Two tenants that wait all the while
differ by no more than their longest requests: |W_f/w_f - W_g/w_g| <= l_f/w_f + l_g/w_g. A tag is made when a
request comes to the head of its tenant's line, so that those who leave before are not charged.

[1] Goyal, Vin, Cheng: Start-time fair queueing, SIGCOMM 1996, theorem 1.
"""

from __future__ import annotations

import heapq
from collections import deque

from wattmill.scheduling.admission.spec import Tags, Ticket


class _Line:
    """Those of one tenant in the order of arrival, after those who came back when they were told to, and so
    had asked before. Who has left is skipped when it comes to the head."""

    __slots__ = ("back", "fresh", "waiting")

    def __init__(self) -> None:
        self.back: deque[Ticket] = deque()
        self.fresh: deque[Ticket] = deque()
        self.waiting = 0

    def first(self) -> Ticket:
        """Return the head; somebody waits."""
        while True:
            tickets = self.back or self.fresh
            if tickets[0].state == "waiting":
                return tickets[0]
            tickets.popleft()

    def take(self) -> Ticket:
        ticket = self.first()
        (self.back or self.fresh).popleft()
        return ticket


class FairQueue:
    """Those of one tier who wait for the same places. First in, first out for each tenant."""

    __slots__ = ("_heap", "_lines", "_tags", "_tier", "waiting")

    def __init__(self, tier: int, tags: Tags) -> None:
        self._tier = tier
        self._tags = tags
        # (start tag, number of its head, tenant, its line), one for each tenant that waits. An entry whose
        # line is no longer the tenant's is void: the tenant had gone, and what it did not use is lost.
        self._heap: list[tuple[float, int, int, _Line]] = []
        self._lines: dict[int, _Line] = {}
        self.waiting = 0

    def __len__(self) -> int:
        return self.waiting

    @property
    def tenants(self) -> int:
        """How many tenants wait."""
        return len(self._lines)

    def of(self, tenant: int) -> int:
        """Return how many of a tenant wait."""
        line = self._lines.get(tenant)
        return 0 if line is None else line.waiting

    def back_of(self, tenant: int) -> int:
        """Return how many of a tenant wait that came back when they were told to."""
        line = self._lines.get(tenant)
        return 0 if line is None else sum(ticket.state == "waiting" for ticket in line.back)

    def put(self, ticket: Ticket, *, back: bool = False) -> None:
        ticket.state = "waiting"
        self.waiting += 1
        line = self._lines.get(ticket.tenant)
        if line is None:
            line = self._lines[ticket.tenant] = _Line()
            heapq.heappush(self._heap, (self._start(ticket.tenant), ticket.number, ticket.tenant, line))
        (line.back if back else line.fresh).append(ticket)
        line.waiting += 1

    def head(self) -> tuple[float, Ticket] | None:
        """Return (start tag, ticket) of who goes next, or None."""
        heap = self._heap
        while heap:
            tag, number, tenant, line = heap[0]
            if self._lines.get(tenant) is not line:
                heapq.heappop(heap)
                continue
            first = line.first()
            # It may have been served at other places, or by another worker, since this tag was made.
            now = max(tag, self._tags.finish(self._tier, tenant))
            if now > tag or number != first.number:
                heapq.heapreplace(heap, (now, first.number, tenant, line))
                continue
            return tag, first
        return None

    def take(self) -> Ticket | None:
        """Remove who goes next, and charge its tenant."""
        found = self.head()
        if found is None:
            return None
        tag, ticket = found
        _, _, tenant, line = self._heap[0]
        line.take()
        ticket.state = "served"
        finish = self._tags.charge(self._tier, tenant, ticket.work, tag)
        self._one_less(tenant, line)
        if line.waiting:
            heapq.heapreplace(self._heap, (finish, line.first().number, tenant, line))
        else:
            heapq.heappop(self._heap)
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Somebody who waited has left: it costs its tenant nothing."""
        if ticket.state == "waiting":
            ticket.state = "gone"
            self._one_less(ticket.tenant, self._lines[ticket.tenant])

    def last_of(self, tenant: int) -> Ticket | None:
        """Return who of a tenant came last."""
        line = self._lines.get(tenant)
        if line is None:
            return None
        return next(t for t in (*reversed(line.fresh), *reversed(line.back)) if t.state == "waiting")

    def _one_less(self, tenant: int, line: _Line) -> None:
        self.waiting -= 1
        line.waiting -= 1
        if not line.waiting:
            del self._lines[tenant]

    def _start(self, tenant: int) -> float:
        return max(self._tags.virtual(self._tier), self._tags.finish(self._tier, tenant))
