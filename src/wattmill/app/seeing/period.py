"""A recorded period as the twin takes it: the work that came, and the decisions with what they were given."""

from __future__ import annotations

from typing import NamedTuple

from wattmill.app.home import Home
from wattmill.app.seeing.decisions import Decision, decisions
from wattmill.twin.recorded import Recorded
from wattmill.twin.spec import Work
from wattmill.vocab.fact import End


class Period(NamedTuple):
    """`works` and `recorded` go together, in the order in which the requests came."""

    start_us: int  # since 1970 UTC; the works' instants count from here
    works: list[Work]
    recorded: list[Recorded]
    left_out: int  # decisions whose inputs are no longer kept, or were never recorded


def period(home: Home, *, since_us: int = 0, until_us: int | None = None) -> Period:
    """Read the decisions of a period. How long a prompt and its answer were is known from the attempt that
    ended well; of a request without one the prompt is taken at its bound, and the answer as one token."""
    told: list[Decision] = []
    ends: dict[tuple[str, int], End] = {}
    left_out = 0
    for item in decisions(home.journal, since_us=since_us, until_us=until_us):
        if isinstance(item, tuple):
            epoch, end = item
            if end.usage is not None and end.status == "finished":
                ends[epoch, end.seq] = end
        elif item.view is None or item.caller is None:
            left_out += 1
        else:
            told.append(item)
    start_us = told[0].at_us if told else 0
    works: list[Work] = []
    recorded: list[Recorded] = []
    for one in told:
        assert one.view is not None and one.caller is not None
        works.append(_work(one, ends.get((one.epoch, one.seq)), start_us))
        recorded.append(Recorded(one.request, one.caller, one.view.fleet, one.view.weights, one.route))
    return Period(start_us, works, recorded, left_out)


def _work(one: Decision, end: End | None, start_us: int) -> Work:
    ask, usage = one.request, None if end is None else end.usage
    output_tok = 1 if usage is None else max(1, usage.output_tok)
    return Work(
        at_us=one.at_us - start_us,
        input_tok=max(1, ask.input_bound_tok if usage is None else usage.prompt_tok),
        output_tok=output_tok,
        max_output_tok=max(output_tok, ask.max_output_tok or 0),
        privacy=ask.privacy,
    )
