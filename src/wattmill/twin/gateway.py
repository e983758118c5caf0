"""The gateway's decision in the twin: the gateway's own view of its fleet, fed with a simulated life.

Views, what is learned, hints and the decision are `scheduling.fleet.FleetView`, and the state of a place is
`distribution.backend_state.BackendState`, as in a worker. What stands here is the life: when a request
leaves, answers and ends. The engines give no times of their own. The view is made anew on every refresh; load
is counted at once, since one gateway sends all requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from wattmill import __version__
from wattmill.distribution.backend_state import BackendState
from wattmill.ports import Journal
from wattmill.scheduling.fleet import FleetView
from wattmill.scheduling.memory import Memory
from wattmill.scheduling.policies import POLICIES
from wattmill.scheduling.prefix import LENGTHS, Prefix
from wattmill.scheduling.spec import Policy, Weights
from wattmill.twin.spec import BLOCK_TOK, Place, Served, Work
from wattmill.units import PS_PER_S, US_PER_S
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import Fact
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Route
from wattmill.vocab.usage import Usage

Asks = Callable[[int, Work], tuple[Request, Caller]]
"""Return what the client of a piece of work (by its index in the trace) asks for, and who it is."""


class SimulatedClock:
    """The instant of the simulation, on both hands; it stands still until it is set."""

    def __init__(self, start_us: int = 0) -> None:
        self.us = start_us

    def now(self) -> float:
        return self.us / US_PER_S

    def wall_us(self) -> int:
        return self.us


class Untold:
    """A journal that nobody will read: there is always room in it."""

    epoch = "twin"

    def append_intent(self, fact: Fact) -> None:
        pass

    def append_end(self, fact: Fact) -> None:
        pass

    def append_note(self, fact: Fact) -> bool:
        return True


class Prompt(Protocol):
    """What is known of a prompt's text: how long it is, and which blocks it begins with."""

    @property
    def input_tok(self) -> int: ...

    @property
    def blocks(self) -> tuple[int, ...]: ...


class _Sent(NamedTuple):
    """What was known of one request when it left."""

    ask: Request
    caller: Caller
    route: Route
    ahead_tok: int  # bound on the prompts there that had no answer yet
    beside: int  # requests at work there


class Gateway:
    """A `Dispatcher` that asks the gateway's view of the fleet. Decisions are kept if `keep` is true.

    Args:
        policy: its name; `named` returns those that are not built in.
        journal: is told of views and callers as a worker's is; None: nobody is.
        start_us: the instant, since 1970 UTC, at which the trace begins.
    """

    def __init__(
        self,
        places: Sequence[Place],
        *,
        asks: Asks,
        weights: Weights,
        seed: int,
        policy: str = "cheapest-adequate",
        named: Callable[[str], Policy] = POLICIES.__getitem__,
        journal: Journal | None = None,
        start_us: int = 0,
        keep: bool = False,
    ) -> None:
        self._asks = asks
        self._start_us = start_us
        self._clock = SimulatedClock(start_us)
        self._at = {place.pool.name: at for at, place in enumerate(places)}
        self._slots = [place.pool.slots for place in places]
        self._sent: dict[int, _Sent] = {}
        self._keep = keep
        self.decisions: list[tuple[Request, Caller, Route | Refusal]] = []
        self.life = [BackendState(place.pool.name) for place in places]
        self.view = FleetView(
            pools=tuple([place.pool for place in places]),
            life={state.pool: state for state in self.life},
            weights=weights,
            journal=Untold() if journal is None else journal,
            clock=self._clock,
            policy=policy,
            named=named,
            memory=Memory(
                expected_output_tok=weights.expected_output_tok, seed=seed, draw=random.Random(seed).random
            ),
            version=__version__,
        )

    def refresh(self, now_us: int) -> None:
        self._clock.us = self._start_us + now_us
        self.view.refresh()

    def choose(self, index: int, work: Work, now_us: int, in_flight: Sequence[int]) -> int | str:
        self._clock.us = self._start_us + now_us
        ask, caller = self._asks(index, work)
        route = self.view.place(ask, caller, prefix_of_blocks(work) if work.blocks else ())
        return self.follow(index, ask, caller, route)

    def follow(self, index: int, ask: Request, caller: Caller, route: Route | Refusal) -> int | str:
        """Send the work where it was decided, and take down what it met there."""
        if self._keep:
            self.decisions.append((ask, caller, route))
        if isinstance(route, Refusal):
            return route.code
        at = self._at[route.candidates[0].pool]
        life = self.life[at]
        self._sent[index] = _Sent(ask, caller, route, life.asked(ask.input_bound_tok), life.busy)
        life.took(self._clock.now())
        return at

    def answered(self, index: int, place: int) -> None:
        self.life[place].ahead_tok -= self._sent[index].ask.input_bound_tok

    def ended(self, served: Served, work: Work) -> None:
        at = served.place
        sent, life = self._sent.pop(served.work), self.life[at]
        life.gave_back()
        usage = Usage(prompt_tok=work.input_tok, output_tok=work.output_tok, cached_tok=served.cached_tok)
        bound_tok = max(1, sent.ask.input_bound_tok)
        life.observe(
            computed_tok=work.input_tok - served.cached_tok,
            output_tok=work.output_tok,
            ttft_s=(served.first_ps - served.at_ps) / PS_PER_S,
            decode_s=(served.end_ps - served.first_ps) / PS_PER_S,
            prefill_us=None,
            decode_us=None,
            others=min((sent.beside + life.busy) / 2, self._slots[at] - 1),
            expected_ttft_s=sent.route.candidates[0].expected_ttft_s,
            ahead_tok=sent.ahead_tok * work.input_tok / bound_tok,
            waited=sent.beside >= self._slots[at],
        )
        self.view.learn(sent.ask, sent.caller, sent.route, life.pool, usage)


def chats(*, model: str, caller: Caller, weights: Weights) -> Asks:
    """Return clients that all ask `model` for a streamed chat, with a bound on the prompt as text has it."""

    def asks(index: int, work: Work) -> tuple[Request, Caller]:
        ask = Request(
            id="",
            endpoint="chat",
            model=model,
            pool=None,
            stream=True,
            input_bound_tok=round(work.input_tok * weights.bound_tok_per_tok),
            max_output_tok=work.max_output_tok,
            privacy=work.privacy,
        )
        return ask, caller

    return asks


def prefix_of_blocks(work: Prompt) -> Prefix:
    """Return marks of the prompt's beginnings as `scheduling.prefix` would make them of its bytes, about
    four to a token: a block stands for its bytes, so beginnings inside the first block count as the whole of
    it."""
    size = work.input_tok * 4
    marks: list[int] = []
    for length in LENGTHS:
        if length > size:
            break
        blocks = -(-length // (4 * BLOCK_TOK))
        marks.append(hash((length, work.blocks[:blocks])))
    return tuple(marks)
