"""What is decided about attempts whose end nobody saw. What is known goes in, a settlement comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from wattmill.ledger.book import Opened
from wattmill.ledger.rating import Unpriced, rate
from wattmill.vocab.price import Price
from wattmill.vocab.shares import largest_remainder
from wattmill.vocab.usage import Usage

Rule = Literal["engine", "delivered", "worst", "none"]
"""engine: what the engine's counters say. delivered: what was seen to leave. worst: the reservation stands.
none: nothing was produced, nothing is charged (an operator's word)."""

RULES: tuple[Rule, ...] = ("engine", "delivered", "worst", "none")


class Settlement(NamedTuple):
    """How one attempt in doubt is to be booked."""

    usage: Usage | None
    charge_nusd: int
    cost_nusd: int
    overrun_nusd: int
    source: Literal["measured", "estimated", "unmetered", "none"]
    rule: Rule


def settle(
    start: Opened, rule: Rule, *, charge: Price, cost: Price, counted: Usage | None = None
) -> Settlement:
    """Return the booking that replaces a reservation.

    Args:
        start: the attempt.
        rule: which witness is believed. "engine" needs `counted`.
        charge: price version of its charge leg.
        cost: price version of its cost leg.
        counted: what the engine counted for it.
    """
    match rule:
        case "worst":
            usage = Usage(start.input_bound_tok, start.output_clamp_tok)
            return Settlement(usage, start.reserved_nusd, start.reserved_cost_nusd, 0, "estimated", rule)
        case "none":
            return Settlement(None, 0, 0, 0, "none", rule)
        case "delivered":
            return _priced(
                start, Usage(start.input_bound_tok, start.progress_tok), charge, cost, rule, "estimated"
            )
        case "engine":
            if counted is None:
                raise ValueError(
                    "rule 'engine' needs what the engine counted; there is no witness: use 'delivered'"
                )
            return _priced(start, counted, charge, cost, rule, "measured")


def _priced(
    start: Opened,
    usage: Usage,
    charge: Price,
    cost: Price,
    rule: Rule,
    source: Literal["measured", "estimated"],
) -> Settlement:
    try:
        rated, costs = rate(charge, usage), rate(cost, usage)
    except Unpriced:
        return Settlement(usage, start.reserved_nusd, start.reserved_cost_nusd, 0, source, rule)
    told = min(rated, start.reserved_nusd)
    return Settlement(usage, told, costs, rated - told, source, rule)


def divide(starts: Sequence[Opened], prompt_tok: int, output_tok: int) -> list[Usage]:
    """Split what an engine counted over the attempts in doubt: each gets what it was seen to deliver, the
    rest goes by the room that each had left. The parts sum to the count exactly.

    With one attempt this is the engine's word on it; with several it is an estimate of each and exact in sum.
    """
    prompts = _by_room(prompt_tok, [0] * len(starts), [start.input_bound_tok for start in starts])
    outputs = _by_room(
        output_tok, [start.progress_tok for start in starts], [start.output_clamp_tok for start in starts]
    )
    return [Usage(prompt, output) for prompt, output in zip(prompts, outputs, strict=True)]


def _by_room(total: int, seen: list[int], most: list[int]) -> list[int]:
    left = total - sum(seen)
    if left < 0:  # the engine knows of less than was seen: its count is believed, in the same proportions
        return largest_remainder(total, seen)
    room = [max(0, upper - lower) for lower, upper in zip(seen, most, strict=True)]
    extra = largest_remainder(left, room if any(room) else [1] * len(seen))
    return [lower + more for lower, more in zip(seen, extra, strict=True)]
