"""The policy that a name in the declaration stands for: a built-in one, or a function of your own."""

from __future__ import annotations

import importlib
import math
import re
from functools import cache

from wattmill.scheduling.policies import POLICIES, SCORES, policy
from wattmill.scheduling.ranking import Score
from wattmill.scheduling.spec import Fleet, Policy, Pool, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request

NAME = r"^([a-z][a-z-]*|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"


class UnknownPolicy(ValueError):
    """No such policy, or a function that is none; the message says what is wrong and the way out."""


@cache
def policy_named(name: str) -> Policy:
    """Return a policy by its name, or by `package.module:function`. Raises `UnknownPolicy`.

    The function of a policy of your own is a `scheduling.ranking.Score`: it is given what was asked and the
    places that every hard rule allows, and returns a score for each and a reason (or None). It chooses among
    places that are allowed, and never a place that is not. It must be pure: what it returns follows from its
    arguments alone, or `wattmill replay` names its decisions.
    """
    known = POLICIES.get(name)
    if known is not None:
        return known
    if not re.match(NAME, name) or ":" not in name:
        raise UnknownPolicy(
            f"no policy {name!r} (known: {', '.join(SCORES)}); a policy of your own is named "
            "package.module:function"
        )
    score = _imported(name)
    made = policy(name, score)
    _try_out(name, made)
    return made


def _imported(name: str) -> Score:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise UnknownPolicy(
            f"policy {name!r} cannot be imported: {error}; is it on PYTHONPATH or installed?"
        ) from error
    except AttributeError as error:
        raise UnknownPolicy(f"policy {name!r}: module {module!r} has no {function!r}") from error
    if not callable(found):
        raise UnknownPolicy(f"policy {name!r} is no function")
    return found  # type: ignore[no-any-return]


def _try_out(name: str, made: Policy) -> None:
    """Let it decide the same question twice: a shape that is wrong, and a coin that is tossed, show here."""
    pools = tuple(
        Pool(
            name=f"place-{i}",
            models=frozenset({"m"}),
            capabilities=frozenset({"chat"}),
            context_tok=4_096,
            privacy="private",
            slots=4,
            queue=4,
            charge_in_nusd_per_mtok={"m": 100_000_000 * (i + 1)},
            charge_out_nusd_per_mtok={"m": 400_000_000},
            prefill_tok_per_s=500.0 * (i + 1),
            decode_tok_per_s=50.0,
        )
        for i in range(3)
    )
    fleet = Fleet(id=1, at_us=0, pools=pools)
    ask = Request(
        id="req_000000000000_1", endpoint="chat", model="m", pool=None, stream=False, input_bound_tok=1_000,
        max_output_tok=100,
    )  # fmt: skip
    caller = Caller(key=1, name="o/t/k", path=(1,))
    answers = []
    try:
        for _ in range(2):
            answers.append(made(ask, caller, fleet, busy=(0, 1, 4), weights=Weights(), now_s=1.0, draw=0.5))
    except Exception as error:  # a stranger's code: whatever it raises is told to the person who declared it
        raise UnknownPolicy(
            f"policy {name!r} failed on a first question: {type(error).__name__}: {error}; it must take "
            "(look, places) and return (one number for each place, a reason or None)"
        ) from error
    if answers[0] != answers[1]:
        raise UnknownPolicy(f"policy {name!r} is not pure: asked twice the same, it decided differently")
    if isinstance(answers[0], Refusal) or not all(
        isinstance(c.score, int | float) and math.isfinite(c.score) for c in answers[0].candidates
    ):
        raise UnknownPolicy(f"policy {name!r} must give each place a finite number")
