"""A trace sent through a dispatcher to simulated places: every piece of work is served once or refused.

The only thing that differs between the gateway's policy, a rival's rule and a clairvoyant schedule is the
dispatcher. It sees what a gateway sees: the request, how many requests are in flight at each place, and a
view of the fleet that is `refresh_us` old at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from wattmill.twin.place import NEVER, BatchPlace, StreamPlace, simulated
from wattmill.twin.spec import Place, Served, StepLaw, Work
from wattmill.units import PS_PER_US, US_PER_S


class Dispatcher(Protocol):
    """Says where each piece of work goes, at its arrival and for good."""

    def choose(self, index: int, work: Work, now_us: int, in_flight: Sequence[int]) -> int | str:
        """Return a place's index, or the code of a refusal. Asked once for each piece of work, in order."""

    def answered(self, index: int, place: int) -> None:
        """A piece of work has its first token."""

    def ended(self, served: Served, work: Work) -> None:
        """A piece of work has ended. Told before the next question, in order of time at each place."""

    def refresh(self, now_us: int) -> None:
        """The view of the fleet is made anew; asked every `refresh_us`."""


class RefusedWork(NamedTuple):
    work: int
    at_us: int
    code: str


class Run(NamedTuple):
    """What became of a trace."""

    served: list[Served]  # in order of their index in the trace
    refused: list[RefusedWork]
    steps: list[int]  # by place
    busy_ps: list[int]  # by place: time in which it computed; of a bought place, summed over its requests
    logs: list[list[tuple[int, int, int]]]  # by place: (from, to, steps); empty unless asked for


def simulate(
    works: Sequence[Work],
    places: Sequence[Place],
    dispatcher: Dispatcher,
    *,
    refresh_us: int = US_PER_S,
    log: bool = False,
) -> Run:
    """Play `works` (in order of arrival) on `places`; the same arguments give the same run."""
    check(places)
    served: list[Served] = []
    refused: list[RefusedWork] = []

    def on_end(one: Served) -> None:
        served.append(one)
        dispatcher.ended(one, works[one.work])

    running = [simulated(at, place, dispatcher.answered, on_end) for at, place in enumerate(places)]
    if log:
        for place in running:
            if isinstance(place, BatchPlace):
                place.log = []
    next_refresh_us = refresh_us
    dispatcher.refresh(0)
    for index, work in enumerate(works):
        now_us = work.at_us
        while next_refresh_us <= now_us:
            _advance(running, next_refresh_us * PS_PER_US)
            dispatcher.refresh(next_refresh_us)
            next_refresh_us += refresh_us
        now_ps = now_us * PS_PER_US
        # Up to this instant, not with it: who comes at the same instant may share a step with this one.
        for place in running:
            if place.next_ps < now_ps:
                place.advance(now_ps - 1)
        chosen = dispatcher.choose(index, work, now_us, [place.in_flight for place in running])
        if isinstance(chosen, str):
            refused.append(RefusedWork(index, now_us, chosen))
        else:
            running[chosen].take(index, work, now_ps)
    _advance(running, NEVER - 1)
    served.sort(key=lambda one: one.work)
    return Run(
        served,
        refused,
        [place.steps for place in running],
        [place.busy_ps for place in running],
        [(place.log or []) if isinstance(place, BatchPlace) else [] for place in running],
    )


class Fixed:
    """A `Dispatcher` that follows a list made beforehand: the place of each piece of work, -1 to refuse
    it."""

    def __init__(self, places: Sequence[int]) -> None:
        self._places = places

    def choose(self, index: int, work: Work, now_us: int, in_flight: Sequence[int]) -> int | str:
        at = self._places[index]
        return "as planned" if at < 0 else at

    def answered(self, index: int, place: int) -> None:
        pass

    def ended(self, served: Served, work: Work) -> None:
        pass

    def refresh(self, now_us: int) -> None:
        pass


def _advance(running: Sequence[BatchPlace | StreamPlace], to_ps: int) -> None:
    for place in running:
        if place.next_ps <= to_ps:
            place.advance(to_ps)


def check(places: Sequence[Place]) -> None:
    """Raise `ValueError` where a place could never work: better than a simulation that hangs."""
    for place in places:
        name, law = place.pool.name, place.law
        if place.pool.slots < 1:
            raise ValueError(f"slots of place {name!r} are {place.pool.slots}, must be >= 1")
        if not isinstance(law, StepLaw):
            continue
        if law.step_ps < 1:
            raise ValueError(f"step_ps of place {name!r} is {law.step_ps}, must be >= 1: steps take time")
        if law.budget_tok <= place.pool.slots:
            raise ValueError(
                f"budget_tok of place {name!r} is {law.budget_tok}, must be > its {place.pool.slots} slots: "
                "each decoding request takes one token of a step, and a prompt needs one too"
            )
        if law.kv_tok < place.pool.context_tok:
            raise ValueError(
                f"kv_tok of place {name!r} is {law.kv_tok}, must be >= its context of "
                f"{place.pool.context_tok} tokens: a request that never fits would wait forever"
            )
