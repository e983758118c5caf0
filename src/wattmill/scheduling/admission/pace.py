"""How fast a queue moves, and who was told to come back when: what makes a `Retry-After` honest."""

from __future__ import annotations

import heapq
from collections import deque

_WINDOW = 64  # departures that the pace is taken from
_FEWEST = 4
_STILL = 3.0  # departures that a gap may hold at most: of a steady queue hardly any is three times its usual
_SOON_S = 10.0  # a queue that was given up stands still for who comes until then
_LONG_S = 3.0  # a queue that nobody has left for so long stands still, however few have come
_PATIENT = 0.5  # of how long its own wait there; so long they may wait for a first one to go
_EARLY_S = 0.5  # a client that was told 2 s may be back after 1.5
_LATE_S = 3.0  # and is not waited for longer than this


class Pace:
    """Departures per second from one queue while somebody waits in it. A queue that stands still slows down
    with every second that passes, so that a tier that gets nothing is not told its pace of better times:
    after a gap of g seconds it goes at most `_STILL` in g, also where none was ever seen to go."""

    __slots__ = ("_given_up_s", "_known", "_still_since_s", "_times")

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_WINDOW)
        self._known: float | None = None
        self._still_since_s: float | None = None  # the last one went, or somebody began to wait
        self._given_up_s = 0.0  # all who waited had to leave

    def began(self, now_s: float) -> None:
        """Somebody waits where nobody did."""
        if self._still_since_s is None or now_s - self._given_up_s > _SOON_S:
            self._still_since_s = now_s

    def went(self, now_s: float) -> None:
        self._times.append(now_s)
        self._still_since_s = now_s

    def emptied(self, now_s: float, *, served: bool) -> None:
        """Nobody waits any more: the time until somebody does says nothing about the pace. Where the last one
        was not `served` but had to leave, the queue stands still as before for who comes soon."""
        self._known = self._measured(now_s)
        self._times.clear()
        if served:
            self._still_since_s = None
        self._given_up_s = now_s

    def per_s(self, now_s: float, *, patience_s: float = 0.0) -> float | None:
        """Return departures per second, or None while too few were seen. With `patience_s`, how long somebody
        would wait there, a queue that none was ever seen to leave is given half of that to begin: places
        may be starting."""
        measured = self._measured(now_s)
        since_s = self._still_since_s
        still_s = 0.0 if since_s is None else now_s - since_s
        if measured is None:
            return _STILL / still_s if still_s >= max(_LONG_S, _PATIENT * patience_s) else None
        return min(measured, _STILL / still_s) if still_s > 0.0 else measured

    def _measured(self, now_s: float) -> float | None:
        times = self._times
        if len(times) < _FEWEST or now_s <= times[0]:
            return self._known
        return (len(times) - 1) / (now_s - times[0]) if len(times) > 1 else self._known


class Returns:
    """Who of one tenant was told to come back: a place in the queue is kept for each, for a while. A request
    is known again by its mark (the hash of its body), on whatever connection it comes back."""

    __slots__ = ("_due", "_marks")

    def __init__(self) -> None:
        self._due: list[tuple[float, int]] = []  # a heap; who is back stays in it until its time has passed
        self._marks: dict[int, list[float]] = {}  # those who are still expected

    def __len__(self) -> int:
        return sum(map(len, self._marks.values()))

    def told(self, mark: int, due_s: float) -> None:
        heapq.heappush(self._due, (due_s, mark))
        self._marks.setdefault(mark, []).append(due_s)

    def forget_late(self, now_s: float) -> None:
        """Whoever has not come back in time does not come."""
        while self._due and self._due[0][0] < now_s - _LATE_S:
            due_s, mark = heapq.heappop(self._due)
            self._remove(mark, due_s)

    def is_back(self, mark: int, now_s: float) -> bool:
        """Return whether a newcomer was told to come back about now; it is expected no more."""
        due = self._marks.get(mark)
        if not due or min(due) > now_s + _EARLY_S:
            return False
        self._remove(mark, min(due))
        return True

    def within(self, until_s: float) -> int:
        """Return how many are expected until an instant."""
        return sum(at <= until_s for due in self._marks.values() for at in due)

    def _remove(self, mark: int, due_s: float) -> None:
        due = self._marks.get(mark, [])
        if due_s in due:
            due.remove(due_s)
            if not due:
                del self._marks[mark]
