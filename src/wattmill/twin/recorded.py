"""A recorded live period in the twin: the twin's gateway, given the recorded views, decides what was decided.

The requests come at the recorded instants and are served by simulated places. Each decision is taken again by
the object that decides in a worker, with the view, the load and the hints that the journal says it was given;
where the simulated places are slower or faster than the real ones were, that changes what comes of the
decisions, not the decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wattmill.scheduling.spec import Fleet, Weights
from wattmill.twin.gateway import Gateway
from wattmill.twin.spec import Served, Work
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Route


class Recorded(NamedTuple):
    """One decision that a policy took, with every input. `route` has no candidates where it refused."""

    request: Request
    caller: Caller
    fleet: Fleet
    weights: Weights
    route: Route


class Differed(NamedTuple):
    """A decision that was not the same in the twin."""

    work: int  # index in the trace
    recorded: Route
    again: Route | Refusal


class Replayed:
    """A `Dispatcher` that lets `gateway` take recorded decisions again, one for each piece of work in order,
    and follows them. The places of the gateway must have the names of the recorded ones."""

    def __init__(self, gateway: Gateway, recorded: Sequence[Recorded]) -> None:
        self._gateway = gateway
        self._recorded = recorded
        self.identical = 0
        self.differed: list[Differed] = []

    def choose(self, index: int, work: Work, now_us: int, in_flight: Sequence[int]) -> int | str:
        was = self._recorded[index]
        again = self._gateway.view.again(
            was.request, was.caller, was.route, fleet=was.fleet, weights=was.weights
        )
        if (again.route if isinstance(again, Refusal) else again) == was.route:
            self.identical += 1
        else:
            self.differed.append(Differed(index, was.route, again))
        return self._gateway.follow(index, was.request, was.caller, again)

    def answered(self, index: int, place: int) -> None:
        self._gateway.answered(index, place)

    def ended(self, served: Served, work: Work) -> None:
        self._gateway.ended(served, work)

    def refresh(self, now_us: int) -> None:
        self._gateway.refresh(now_us)
