"""One request as the policies see it: what is asked, never who answers."""

from __future__ import annotations

from typing import Literal

import msgspec

Endpoint = Literal["chat", "completions", "embeddings"]
ENDPOINTS: tuple[Endpoint, ...] = ("chat", "completions", "embeddings")

Entry = Literal["chat", "completions", "embeddings", "responses", "messages"]
ENTRIES: tuple[Entry, ...] = (*ENDPOINTS, "responses", "messages")
"""The doors by which a request comes in: what rows, metrics and the scopes of keys call an endpoint."""


def endpoint_of(entry: str) -> Endpoint:
    """Return what places are asked for a request that came in by `entry`: the other doors lead to a chat."""
    return entry if entry in ENDPOINTS else "chat"


Body = dict[str, msgspec.Raw]
"""The top level of a JSON body: each value is still its original bytes. Rendering it again cannot hold a key
twice, so what was checked is what the engine reads."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks, read once. Token counts are upper bounds, never guesses."""

    id: str
    endpoint: Endpoint
    model: str  # as asked, without the place
    pool: str | None  # the place, if the client asked for "place/model"
    stream: bool
    input_bound_tok: int  # no tokenizer of a serving engine can make more of this prompt
    max_output_tok: int | None  # per choice, as asked; None: not given
    choices: int = 1
    needs: frozenset[str] = frozenset()  # capabilities, see models.spec.CAPABILITIES
    privacy: str = "internal"
    residency: frozenset[str] | None = None  # regions that may see it; None: no rule of its own
    operators: frozenset[str] | None = None  # who may run a place that sees it; None: no rule of its own
    evidence: tuple[str, ...] = ()  # which privacy rules matched and how often, never what
    keep: bool = True  # False: its answer holds originals that stay in memory: no cache, no stored copy
    tier: str = ""  # what it was sold as; "" is no tier
    promise_ttft_s: float | None = None  # what the tier promises; None: nothing
    promise_tok_per_s: float | None = None  # output tokens per second that its reader sees
    left_nusd: int | None = None  # what the caps leave to it; None: not looked at
    steps: int = 0  # of a cascade that its client found wanting: it begins with a larger model
    frugal: bool = False  # past a soft stage of its budget: time is worth nothing, the cheapest place serves


class Terms(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The fields of a request that are rarely given, as they are recorded."""

    residency: frozenset[str] | None = None
    operators: frozenset[str] | None = None
    tier: str = ""
    promise_ttft_s: float | None = None
    promise_tok_per_s: float | None = None
    left_nusd: int | None = None
    frugal: bool = False
    keep: bool = True
    steps: int = 0


def terms_of(ask: Request) -> Terms | None:
    """Return what `ask` says beyond the usual, None if that is nothing."""
    if (
        ask.residency is None
        and ask.operators is None
        and not ask.tier
        and ask.promise_ttft_s is None
        and ask.promise_tok_per_s is None
        and ask.left_nusd is None
        and not ask.frugal
        and ask.keep
        and not ask.steps
    ):
        return None
    return Terms(
        ask.residency,
        ask.operators,
        ask.tier,
        ask.promise_ttft_s,
        ask.promise_tok_per_s,
        ask.left_nusd,
        ask.frugal,
        ask.keep,
        ask.steps,
    )
