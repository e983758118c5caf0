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
from typing import Final, NamedTuple

import numpy as np

from wattmill.twin.engine import build
from wattmill.twin.engine import layout as c
from wattmill.twin.engine.compiled import SOURCE, Array, array_at, inner, outer
from wattmill.twin.engine.conservation import check_conserved
from wattmill.twin.engine.core import advance, take
from wattmill.twin.engine.failing import die
from wattmill.twin.engine.handover import deliver, float_again, forget_broken, prefilled, strand
from wattmill.twin.engine.instants import taken
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.spec import EngineLimits, StepCost

FIRST = c.EVENT_FIRST
END = c.EVENT_END


class Event(NamedTuple):
    """A first token (`kind` FIRST) or an end (END), in the order of the core's columns. Instants in
    picoseconds."""

    at_ps: int
    kind: int
    tag: int  # as given to `take`
    row: int  # the engine's own
    replica: int
    came_ps: int  # when it was sent
    begun_ps: int
    first_ps: int
    cached_tok: int
    energy_uj: int  # until now; complete at the end


# Handing fifteen arrays from Python to compiled code takes 10 us; handing over where they stand takes none.
_WHERE: Final = 4  # address and three sizes of each array


def _where(s: State) -> Array:
    """Return where each array of `s` stands and how large it is. Good for as long as `s` lives."""
    told = np.ones((len(s), _WHERE), np.int64)
    for row, array in zip(told, s, strict=True):
        assert array.dtype == np.int64 and array.flags.c_contiguous
        row[0] = array.ctypes.data
        row[1 : 1 + array.ndim] = array.shape
    return told


@inner
def _state(where: int) -> State:
    """Return the arrays that `_where` told of."""
    w = array_at(where, (17, _WHERE))
    return State(
        array_at(w[0, 0], (w[0, 1], w[0, 2])),
        array_at(w[1, 0], (w[1, 1], w[1, 2])),
        array_at(w[2, 0], (w[2, 1], w[2, 2])),
        array_at(w[3, 0], (w[3, 1],)),
        array_at(w[4, 0], (w[4, 1],)),
        array_at(w[5, 0], (w[5, 1], w[5, 2])),
        array_at(w[6, 0], (w[6, 1], w[6, 2])),
        array_at(w[7, 0], (w[7, 1], w[7, 2])),
        array_at(w[8, 0], (w[8, 1], w[8, 2])),
        array_at(w[9, 0], (w[9, 1], w[9, 2], w[9, 3])),
        array_at(w[10, 0], (w[10, 1], w[10, 2], w[10, 3])),
        array_at(w[11, 0], (w[11, 1], w[11, 2])),
        array_at(w[12, 0], (w[12, 1],)),
        array_at(w[13, 0], (w[13, 1], w[13, 2])),
        array_at(w[14, 0], (w[14, 1],)),
        array_at(w[15, 0], (w[15, 1], w[15, 2])),
        array_at(w[16, 0], (w[16, 1], w[16, 2])),
    )


@inner
def _look_ahead(s: State) -> None:
    soonest = s.next_ps[0]
    for r in range(1, s.load.shape[0]):
        if s.next_ps[r] < soonest:
            soonest = s.next_ps[r]
    if s.common[c.DUE] > 0:
        soonest = min(soonest, s.due[0, 0])
    s.common[c.SOONEST] = soonest


@inner
def _in_order(s: State, to: int, one_by_one: int) -> None:
    """Let happen until `to` one thing after the other, over all replicas, and hand over between them."""
    told = 0
    while one_by_one == 0 or told == 0:
        soonest = 0
        for r in range(1, s.load.shape[0]):
            if s.next_ps[r] < s.next_ps[soonest]:
                soonest = r
        now = s.next_ps[soonest]
        arrives = s.due[0, 0] if s.common[c.DUE] > 0 else c.NEVER
        if min(now, arrives) > to:
            break
        if arrives <= now:
            row = s.due[0, 1]
            s.common[c.DUE] = taken(s.due, s.common[c.DUE])
            if not deliver(s, row, arrives):
                strand(s, row)
            continue
        advance(s, soonest, now)
        for at in range(told, s.common[c.EVENTS]):
            if s.event[at, c.EVENT_KIND] == c.EVENT_PREFILLED:
                prefilled(s, s.event[at, c.EVENT_ROW], now)
                continue
            for column in (c.EVENT_AT, c.EVENT_KIND, c.EVENT_ROW):
                s.event[told, column] = s.event[at, column]
            told += 1
        s.common[c.EVENTS] = told


@inner
def _told(s: State) -> int:
    """Write beside each event what a policy outside wants to know, and return how many there are."""
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


def _advance_all(source: int) -> Callable[[int, int, int], int]:
    def advance_all(where: int, to: int, one_by_one: int) -> int:
        """Let everything happen until `to`, that instant included, or with `one_by_one` until there is
        something to tell; return the number of events."""
        if source != SOURCE:
            return 0
        s = _state(where)
        s.common[c.EVENTS] = 0
        count = s.load.shape[0]
        if s.due.shape[0] > 1:
            _in_order(s, to, one_by_one)
            _look_ahead(s)
            return _told(s)
        while one_by_one == 1 and s.common[c.EVENTS] == 0:
            soonest = 0
            for r in range(1, count):
                if s.next_ps[r] < s.next_ps[soonest]:
                    soonest = r
            if s.next_ps[soonest] > to:
                break
            advance(s, soonest, s.next_ps[soonest])
        if one_by_one == 0:
            for r in range(count):
                if s.next_ps[r] <= to:
                    advance(s, r, to)
        _look_ahead(s)
        return _told(s)

    return outer(advance_all)


def _send(source: int) -> Callable[[int, int, int, int, int, int, int, int, int, int], None]:
    def send(
        where: int,
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
        s = _state(where)
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
        _look_ahead(s)

    return outer(send)


def _kill(source: int) -> Callable[[int, int, int], None]:
    def kill(where: int, replica: int, now: int) -> None:
        if source != SOURCE:
            return
        s = _state(where)
        die(s, replica, now)
        forget_broken(s)
        _look_ahead(s)

    return outer(kill)


def _revive(source: int) -> Callable[[int, int, int], None]:
    def revive(where: int, replica: int, now: int) -> None:
        if source != SOURCE:
            return
        s = _state(where)
        s.rep[replica, c.DOWN] = 0
        float_again(s, now)
        _look_ahead(s)

    return outer(revive)


advance_all = _advance_all(SOURCE)
kill = _kill(SOURCE)
revive = _revive(SOURCE)
send = _send(SOURCE)


class Engine:
    """Replicas on one clock. `load[r]` is the number of requests at `r` between decision and last token."""

    def __init__(
        self,
        replicas: Sequence[tuple[StepCost, EngineLimits]],
        *,
        prefixes: bool = False,
        hands_to: Sequence[tuple[range, int] | None] | None = None,
    ) -> None:
        """`prefixes`: requests come with prefix ids, so caches are simulated. `hands_to`: of each replica
        those that it hands over to when a prompt is complete, and by which link; None: it decodes itself."""
        self._replicas = list(replicas)
        rows = 1_024
        self._s = build.state(
            replicas,
            requests=rows,
            ids=np.zeros(1 << 16, np.int64) if prefixes else None,
            events=3 * rows,
            hands_to=hands_to,
            hand_overs=0 if hands_to is None else rows,
        )
        self._s.common[c.TELL] = 1
        self._s.common[c.SOONEST] = c.NEVER
        self.common: memoryview[int] = self._s.common.data  # what all replicas share, to look at
        self._stands()
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
        return self.common[c.SOONEST]

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
                self._stands()
            self._s.ids[first : self._ids] = prefix
        send(
            self._where,
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
        return [Event(*told) for told in self.told(to_ps, to_news=to_news)]

    def told(self, to_ps: int, *, to_news: bool = False) -> list[list[int]]:
        """Do what `advance` does, and return the same events as rows of the core's columns."""
        count = advance_all(self._where, to_ps, 1 if to_news else 0)
        if not count:
            return []
        events: list[list[int]]
        if count == 1:
            events = [self._s.event[0].tolist()]
        else:
            events = self._s.event[:count].tolist()
            events.sort()
        free = self._free
        for event in events:
            if event[c.EVENT_KIND] == END:
                free.append(event[c.EVENT_ROW])
        return events

    def down(self, replica: int) -> None:
        """Nothing is handed over to `replica` until it is `up`."""
        self._s.rep[replica, c.DOWN] = 1

    def up(self, replica: int, now_ps: int) -> None:
        if self._s.rep[replica, c.DOWN]:
            revive(self._where, replica, now_ps)

    def break_off(self, replica: int, now_ps: int) -> list[list[int]]:
        """`replica` dies at `now_ps`, to which all was advanced; it is empty afterwards, and can go on.

        Return of each request that was there its tag, how much of its prompt it had, how much of that was
        found in the cache, and the tokens given."""
        kill(self._where, replica, now_ps)
        req = self._s.req
        rows = np.flatnonzero(req[:, c.STATE] == c.BROKEN)
        req[rows, c.STATE] = c.GONE
        self._free.extend(rows.tolist())
        told: list[list[int]] = req[rows][:, [c.TAG, c.DONE, c.CACHED, c.GIVEN]].tolist()
        return sorted(told)

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
            event=np.zeros((6 * rows, c.EVENT_COLUMNS), np.int64),
        )
        if len(self._s.due) > 1:
            self._s = self._s._replace(due=np.concatenate([self._s.due, np.zeros((rows, 2), np.int64)]))
        self._free = list(range(2 * rows - 1, rows - 1, -1))
        self._stands()

    def _stands(self) -> None:
        """The arrays are others: tell where they stand now."""
        self._told_where = _where(self._s)
        self._where: int = self._told_where.ctypes.data
