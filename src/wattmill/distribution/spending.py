"""What one attempt may take of every limit, what it took, and how much answer a grant allows.

Dollars come from the price book, tokens from the prompt's bound and the clamp, joules and grams from the
ceiling per token that the place declares. What an engine did and nobody saw counts at its reservation
(`unseen`): a limit that may have been used is never given back on a guess.
"""

from __future__ import annotations

from typing import Literal, Protocol

from wattmill.distribution.spec import Backend, BackendModel
from wattmill.ports import Grant
from wattmill.vocab.budget import ALL_TOK, Spend
from wattmill.vocab.price import Price
from wattmill.vocab.usage import Usage

Unseen = Literal["reserved", "delivered"]
"""reserved: what nobody counted counts at its reservation. delivered: what was seen of it."""

_SENT, _NOT_SENT = Spend(0, requests=1), Spend(0, requests=0)


class Rates(Protocol):
    """What a reservation is priced by."""

    @property
    def worst_case(self) -> WorstCase: ...

    @property
    def affordable(self) -> Affordable: ...


class WorstCase(Protocol):
    def __call__(self, price: Price, input_tok: int, output_tok: int, /) -> int: ...


class Affordable(Protocol):
    def __call__(self, price: Price, nusd: int, input_tok: int, /) -> int: ...


def worst_spend(
    services: Rates, backend: Backend, model: BackendModel, input_tok: int, output_tok: int
) -> Spend:
    """Return the most that an attempt may take. Raises `LookupError` where a class has no price."""
    nusd = services.worst_case(model.charge, input_tok, output_tok)
    ceiling = backend.ceiling
    if ceiling is None:
        return Spend(nusd, input_tok, output_tok, None, None)
    return Spend(
        nusd,
        input_tok,
        output_tok,
        ceiling.energy_uj(input_tok, output_tok),
        ceiling.carbon_ug(input_tok, output_tok),
    )


def output_room(
    services: Rates, grant: Grant, backend: Backend, model: BackendModel, input_tok: int, most: int
) -> int:
    """Return how many output tokens a grant allows, at most `most`; below 0: not even the prompt."""
    room = min(most, services.affordable(model.charge, grant.nusd, input_tok))
    if (part := grant.part("output_tok")) is not None:
        room = min(room, part)
    if (part := grant.part("total_tok")) is not None:
        room = min(room, part - input_tok)
    ceiling = backend.ceiling
    if ceiling is not None:
        if (part := grant.part("energy_uj")) is not None:
            room = min(room, ceiling.output_for_energy(part, input_tok))
        if (part := grant.part("carbon_ug")) is not None:
            room = min(room, ceiling.output_for_carbon(part, input_tok))
    return room


def spend_of(backend: Backend, nusd: int, usage: Usage) -> Spend:
    """Return what an attempt took that was counted."""
    ceiling = backend.ceiling
    if ceiling is None:
        return Spend(nusd, usage.prompt_tok, usage.output_tok, None, None)
    return Spend(
        nusd,
        usage.prompt_tok,
        usage.output_tok,
        ceiling.energy_uj(usage.prompt_tok, usage.output_tok),
        ceiling.carbon_ug(usage.prompt_tok, usage.output_tok),
    )


def spend_at_end(
    grant: Grant,
    backend: Backend,
    usage: Usage | None,
    source: str,
    rated_nusd: int,
    *,
    sent: bool,
    unseen: Unseen,
) -> Spend:
    """Return what counts against limits when an attempt has ended.

    `rated_nusd` is what its usage costs, whoever pays for it: a failed attempt is not charged to its caller,
    yet its tokens were made on the caller's behalf.
    """
    if source == "none":
        return _SENT if sent else _NOT_SENT
    if usage is not None and (source == "measured" or unseen == "delivered"):
        return spend_of(backend, min(rated_nusd, grant.nusd), usage)
    return reserved(grant)


def reserved(grant: Grant) -> Spend:
    """Return what counts when nothing is known of an attempt: all that was set aside for it."""
    return Spend(grant.nusd, ALL_TOK, ALL_TOK, None, None)
