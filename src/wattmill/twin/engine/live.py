"""Replicas that a policy outside decides for, request by request: let time pass, look, send.

engine = Engine([(cost, limits)] * 16)
for index, work in enumerate(trace):
    for event in engine.advance(work.at_ps - 1):  # not with it: who comes now may share a step with others
        ...
    engine.take(index, chosen, work.at_ps, input_tok=…, output_tok=…, max_output_tok=…)
for event in engine.finish(): ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from wattmill.twin.engine import build
from wattmill.twin.engine import layout as c
from wattmill.twin.engine.compiled import SOURCE, outer
from wattmill.twin.engine.conservation import check_conserved
from wattmill.twin.engine.core import advance, take
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.spec import EngineLimits, StepCost

FIRST = c.EVENT_FIRST
END = c.EVENT_END


class Event(NamedTuple):
    """A first token (`kind` FIRST) or an end (END). Instants in picoseconds."""

    at_ps: int
    kind: int
    row: int  # the engine's own
    tag: int  # as given to `take`
    replica: int
    came_ps: int  # when it was sent
    begun_ps: int
    first_ps: int
    cached_tok: int
    energy_uj: int  # until now; complete at the end


def _advance_all(source: int) -> Callable[[State, int, int], int]:
    def advance_all(s: State, to: int, one_by_one: int) -> int:
        """Let everything happen until `to`, that instant included, or with `one_by_one` until there is
        something to tell; return the number of events."""
        if source != SOURCE:
            return 0
        s.common[c.EVENTS] = 0
        count = s.load.shape[0]
        while one_by_one == 1 and s.common[c.EVENTS] == 0:
            soonest = 0
            for r in range(1, count):
                if s.next_ps[r] < s.next_ps[soonest]:
                    soonest = r
            if s.next_ps[soonest] > to:
                return 0
            advance(s, soonest, s.next_ps[soonest])
        if one_by_one == 0:
            for r in range(count):
                if s.next_ps[r] <= to:
                    advance(s, r, to)
        count = s.common[c.EVENTS]
        for at in range(count):
            row = s.event[at, c.EVENT_ROW]
            s.event[at, c.EVENT_TAG] = s.req[row, c.TAG]
            s.event[at, c.EVENT_REPLICA] = s.req[row, c.REPLICA]
            s.event[at, c.EVENT_CAME] = s.req[row, c.AT]
            s.event[at, c.EVENT_BEGUN] = s.req[row, c.BEGUN]
            s.event[at, c.EVENT_FIRST_AT] = s.req[row, c.FIRST]
            s.event[at, c.EVENT_CACHED] = s.req[row, c.CACHED]
            s.event[at, c.EVENT_UJ] = s.req[row, c.JOULES]
        return int(count)

    return outer(advance_all)


def _send(source: int) -> Callable[[State, int, int, int, int, int, int, int, int, int], None]:
    def send(
        s: State,
        row: int,
        replica: int,
        now: int,
        tag: int,
        input_tok: int,
        output_tok: int,
        asked_tok: int,
        ids_from: int,
        ids: int,
    ) -> None:
        if source != SOURCE:
            return
        for column in range(s.req.shape[1]):
            s.req[row, column] = 0
        s.req[row, c.BEGUN] = -1
        s.req[row, c.FIRST] = -1
        s.req[row, c.END] = -1
        s.req[row, c.AFTER] = c.NOBODY
        s.req[row, c.INPUT] = input_tok
        s.req[row, c.OUTPUT] = output_tok
        s.req[row, c.ASKED] = asked_tok
        s.req[row, c.TAG] = tag
        s.req[row, c.AT] = now
        s.req[row, c.IDS_FROM] = ids_from
        s.req[row, c.IDS] = ids
        take(s, replica, row, now)

    return outer(send)


advance_all = _advance_all(SOURCE)
send = _send(SOURCE)


class Engine:
    """Replicas on one clock. `load[r]` is the number of requests at `r` between decision and last token."""

    def __init__(self, replicas: Sequence[tuple[StepCost, EngineLimits]], *, prefixes: bool = False) -> None:
        """`prefixes`: requests come with prefix ids, so caches are simulated."""
        self._replicas = list(replicas)
        rows = 1_024
        self._s = build.state(
            replicas, requests=rows, ids=np.zeros(1 << 16, np.int64) if prefixes else None, events=2 * rows
        )
        self._s.common[c.TELL] = 1
        self._free = list(range(rows - 1, -1, -1))
        self._ids = 0
        self._prefixes = prefixes
        self.load = self._s.load

    @property
    def state(self) -> State:
        """The core's memory, to look at; it is replaced when there are more requests than ever before."""
        return self._s

    @property
    def next_ps(self) -> int:
        """When something happens next; 2^62 if nothing will."""
        return int(self._s.next_ps.min())

    def take(
        self,
        tag: int,
        replica: int,
        now_ps: int,
        *,
        input_tok: int,
        output_tok: int,
        max_output_tok: int,
        prefix: Sequence[int] = (),
    ) -> None:
        """Send a request to `replica` at `now_ps`, not before the last `advance`. It must fit there
        (`refuse_misfits` says why one would not), or it waits forever."""
        if not self._free:
            self._more_rows()
        first = self._ids
        if prefix and self._prefixes:
            self._ids += len(prefix)
            if self._ids > len(self._s.ids):
                self._s = self._s._replace(
                    ids=np.concatenate([self._s.ids, np.zeros(len(self._s.ids) + len(prefix), np.int64)])
                )
            self._s.ids[first : self._ids] = prefix
        send(
            self._s,
            self._free.pop(),
            replica,
            now_ps,
            tag,
            input_tok,
            output_tok,
            max_output_tok,
            first,
            self._ids - first,
        )

    def advance(self, to_ps: int, *, to_news: bool = False) -> list[Event]:
        """Let everything happen until `to_ps`, that instant included; return first tokens and ends in order
        of time. `to_news`: stop at the first step that ends with any."""
        count = advance_all(self._s, to_ps, 1 if to_news else 0)
        if not count:
            return []
        events = [Event(*event) for event in self._s.event[:count].tolist()]
        events.sort(key=_instant)
        self._free.extend([event.row for event in events if event.kind == END])
        return events

    def finish(self) -> list[Event]:
        """Let everything come to its end, and check that nothing was lost or made up on the way."""
        events = self.advance(c.NEVER - 1)
        check_conserved(self._s, whole_trace=False)
        return events

    def busy_ps(self, replica: int) -> int:
        """Return how long steps ran at `replica` until now; what runs now counts when it ends."""
        return int(self._s.rep[replica, c.BUSY])

    def busy_uj(self, replica: int) -> int:
        return int(self._s.rep[replica, c.ENERGY])

    def steps(self, replica: int) -> int:
        return int(self._s.rep[replica, c.STEPS])

    def _more_rows(self) -> None:
        rows = len(self._s.req)
        self._s = self._s._replace(
            req=np.concatenate([self._s.req, build.fresh_rows(rows)]),
            event=np.zeros((4 * rows, c.EVENT_COLUMNS), np.int64),
        )
        self._free = list(range(2 * rows - 1, rows - 1, -1))


def _instant(event: Event) -> tuple[int, int, int]:
    return (event.at_ps, event.kind, event.tag)
