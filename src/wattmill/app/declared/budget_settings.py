"""How budgets are declared: where leases are kept, how much of a limit unseen work takes, limits in words."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.ledger.amounts import amount_of, checked_limit
from wattmill.vocab.budget import Period, Unit

LimitWords = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        description="An amount, a unit, perhaps a period and a time zone.",
        examples=["20 USD/month in Europe/Berlin", "60 requests/minute"],
    ),
]

_ZONE = re.compile(r"(.*\S)\s+in\s+(\S+)\s*")


class Budgets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and where their leases are kept."""

    store: Annotated[
        str,
        Meta(
            pattern=r"^(sqlite|postgres(ql)?://.+)$",
            description="`sqlite`: in the data folder, for the workers of one machine. "
            "`postgresql://user@host/database`: shared by many machines (extra `postgres`); the password "
            "belongs into the environment (PGPASSWORD) or a password file, not here.",
        ),
    ] = "sqlite"
    term_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="How long a worker goes on reserving while it cannot tell the store that it lives. "
            "A lost worker can be written off after twice that.",
        ),
    ] = 30.0
    unseen: Annotated[
        Literal["reserved", "delivered"],
        Meta(
            description="What an answer that nobody counted takes of a limit (its client left, it broke off, "
            "its engine tells no usage). `reserved`: all that was set aside, so that no limit is ever "
            "passed. `delivered`: what was seen of it; a limit may then be passed by what was made unseen."
        ),
    ] = "reserved"


class Ceilings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a token takes at most at a place: limits of joules and grams are kept on these. Declared."""

    j_per_in_tok: Annotated[float, Meta(ge=0, description="Joules of a prompt token, at most.")]
    j_per_tok: Annotated[float, Meta(ge=0, description="Joules of an output token, at most.")]
    g_per_kwh: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(
            description="Grams of CO2 for a kilowatt-hour, at most. Absent: that of `carbon`, else unknown."
        ),
    ] = None


class Words(msgspec.Struct, frozen=True):
    """A limit, told apart."""

    unit: Unit
    period: Period
    amount: int
    zone: str


def limit_words(text: str) -> Words:
    """Return what a limit in words says. Raises `ControlError` with what could be said."""
    zone = "UTC"
    if (match := _ZONE.fullmatch(text)) is not None:
        text, zone = match.groups()
    unit, period, amount = amount_of(text)
    checked_limit(unit, period, amount, zone)
    return Words(unit, period, amount, zone)
