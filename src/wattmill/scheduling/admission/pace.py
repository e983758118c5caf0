"""How fast a queue moves, and who was told to come back when: what makes a `Retry-After` honest."""

from __future__ import annotations

from collections import deque

_WINDOW = 64  # departures that the pace is taken from
_FEWEST = 4
_EARLY_S = 0.05  # a client that was told 2 s may be back after 1.95
_LATE_S = 3.0  # and is not waited for longer than this


class Pace:
    """Departures per second from one queue while somebody waits in it. A queue that stands still slows down
    with every second that passes, so that a tier that gets nothing is not told its pace of better times."""

    __slots__ = ("_known", "_times")

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_WINDOW)
        self._known: float | None = None

    def went(self, now_s: float) -> None:
        self._times.append(now_s)

    def emptied(self, now_s: float) -> None:
        """Nobody waits any more: the time until somebody does says nothing about the pace."""
        self._known = self.per_s(now_s)
        self._times.clear()

    def per_s(self, now_s: float) -> float | None:
        """Return departures per second, or None while too few were seen."""
        times = self._times
        if len(times) < _FEWEST or now_s <= times[0]:
            return self._known
        return (len(times) - 1) / (now_s - times[0]) if len(times) > 1 else self._known


class Returns:
    """Who of one tenant was told to come back: a place in the queue is kept for each, for a while."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: deque[float] = deque()  # in order

    def __len__(self) -> int:
        return len(self._due)

    def told(self, due_s: float) -> None:
        due = self._due
        if due and due[-1] > due_s:  # the pace rose: rarely, so that order is kept by moving a few
            later = [due.pop()]
            while due and due[-1] > due_s:
                later.append(due.pop())
            due.append(due_s)
            due.extend(reversed(later))
        else:
            due.append(due_s)

    def forget_late(self, now_s: float) -> None:
        """Whoever has not come back in time does not come."""
        due = self._due
        while due and due[0] < now_s - _LATE_S:
            due.popleft()

    def is_back(self, now_s: float) -> bool:
        """Take a newcomer for one who was told to come back about now, if there is one."""
        if self._due and self._due[0] <= now_s + _EARLY_S:
            self._due.popleft()
            return True
        return False

    def within(self, until_s: float) -> int:
        """Return how many are expected until an instant."""
        due = self._due
        if not due or due[0] > until_s:
            return 0
        if due[-1] <= until_s:
            return len(due)
        return sum(at <= until_s for at in due)
