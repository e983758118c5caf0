"""What is looked for in the calls of one run, and what is found."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Kind = Literal["near_identical", "context_growth", "fan_out", "retry_storm"]
KINDS: tuple[Kind, ...] = ("near_identical", "context_growth", "fan_out", "retry_storm")

Action = Literal["off", "warn", "slow", "pause", "stop"]
"""off: not told. warn: a header and a journal record. slow: the call waits first. pause: refused until a
person says go on. stop: the run is over. Each one does what those before it do."""
ACTIONS: tuple[Action, ...] = ("off", "warn", "slow", "pause", "stop")


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From where on a pattern is a runaway. The defaults were fixed before they met the sessions on which
    false alarms were counted (docs/lab.md), and have not been moved since."""

    repeats: Annotated[
        int,
        Meta(ge=1, description="Calls in a row whose last two messages repeat one of the 16 calls before."),
    ] = 3
    last_repeats: Annotated[
        int, Meta(ge=1, description="The same for the last message alone, where it is longer than a word.")
    ] = 4
    word_repeats: Annotated[
        int, Meta(ge=1, description="The same for a last message of a word or two, such as `ok`.")
    ] = 12
    twins: Annotated[
        int, Meta(ge=1, description="Near-identical calls in a row while others of them are in flight.")
    ] = 64
    pause_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Who waits longer than this between an answer and the next call polls, and does not "
            "run away, in seconds.",
        ),
    ] = 3.0
    leaps: Annotated[
        int,
        Meta(ge=1, description="Growths in a row by half of the context or more that end above leap_tok."),
    ] = 3
    leap_tok: Annotated[int, Meta(ge=1, description="See leaps; estimated tokens.")] = 64_000
    loads: Annotated[int, Meta(ge=1, description="Growths in a row by load_tok or more.")] = 4
    load_tok: Annotated[int, Meta(ge=1, description="See loads; estimated tokens.")] = 24_000
    heavy_calls: Annotated[
        int, Meta(ge=2, description="Calls in a row of heavy_tok or more, at heavy_tok_per_min or more.")
    ] = 5
    heavy_tok: Annotated[int, Meta(ge=1, description="See heavy_calls; estimated tokens.")] = 256_000
    heavy_tok_per_min: Annotated[int, Meta(ge=1, description="See heavy_calls; estimated tokens.")] = (
        2_000_000
    )
    retries: Annotated[
        int, Meta(ge=1, description="Repetitions in a row of a call that failed, retry_s or less apart.")
    ] = 4
    retry_s: Annotated[
        float, Meta(gt=0, description="See retries: a longer wait is a client that backs off, in seconds.")
    ] = 1.0
    children: Annotated[
        int, Meta(ge=1, description="Sub-runs opened under one run within a minute, at any depth below it.")
    ] = 32
    direct_children: Annotated[
        int, Meta(ge=1, description="The same where none of them has sub-runs of its own: a wide plan.")
    ] = 128


class Verdict(msgspec.Struct, frozen=True):
    """One call looks like a runaway's."""

    kind: Kind
    rule: str  # the name of the rule in `Rules` that it passed
    count: int  # calls in a row, or sub-runs
    reason: str  # one sentence with the figures
