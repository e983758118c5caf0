"""What each piece of work uses at each place at the very least, whatever the schedule.

Notation for one piece of work r at a place with a `StepLaw` of b seconds a step. r is *present* in a step if
the step computes a chunk of its prompt or one of its tokens; it *decodes* in m = output - 1 steps, one after
the other, after its prompt.

- `PRESENCES` D: steps in which r is present: at least ceil(prompt / budget) + m.
- `ALONE_S` W: the time that r adds to the steps in which it is present. It does not depend on the batch,
  since a step is a sum over what is in it (`StepLaw`).
- `PROMPT_S` P: the part of W that its prompt adds.
- `HELD` R: contexts held x presences.
- `ROOT` Q' = Q + 1/2 sum_k d_k g_k G_k, where Q is the sum of sqrt(v) over its decode steps and v is what r
  adds to that step (v_j = a + c j grows and is concave under the root: its sum over j = 1..m is >= its
  integral over 0..m); G_k = sqrt(m) if P >= y_k, else 0, for levels y_1 < y_2 < ... of the place with d_k =
  y_k - y_(k-1); and g_k >= 0 are constants of the place, any: here G_k summed over all work / Q summed over
  all work, which makes the bound best if the place serves the common mix. `bend` = 1 + 1/2 sum_k d_k g_k^2
  belongs to them.

With a prefix cache, r can find at most the longest beginning that any earlier piece of work had (all caches
pooled, nothing ever forgotten). D, W, P, Q' and the charge only grow when less is found.

At a bought place W is the time alone and the rest is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wattmill.scheduling.filters import standing_rule
from wattmill.twin.model import charge_nusd, decode_ps, prompt_ps, whole_blocks_tok
from wattmill.twin.spec import Place, StepLaw, StreamLaw, Work
from wattmill.units import NUSD_PER_USD, PS_PER_S, US_PER_S
from wattmill.vocab.caller import Caller
from wattmill.vocab.request import Request

Floats = npt.NDArray[np.float64]

PRESENCES, ALONE_S, PROMPT_S, HELD, ROOT = range(5)
USES = 5

_LEVELS = 12


class PlaceTerms(NamedTuple):
    """One place: its constants, and an array over all work for each of the four uses."""

    name: str
    step_s: float  # 0 for a bought place
    width: float  # seconds of work done in a second: 1, or a bought place's slots
    slots: int
    room: int  # slots and queue: no more are ever in flight
    held_tok: float  # capacity
    money_usd: Floats  # inf where the place may not serve
    overhead_s: float
    uses: Floats  # USES x work
    bend: float


class Terms(NamedTuple):
    at_s: Floats
    places: tuple[PlaceTerms, ...]
    usd_per_s: float
    refused_usd: float


def terms(
    works: Sequence[Work],
    places: Sequence[Place],
    *,
    model: str,
    caller: Caller,
    usd_per_s: float,
    refused_usd: float,
) -> Terms:
    found_tok = most_cached_tok(works)
    return Terms(
        np.array([work.at_us for work in works]) / US_PER_S,
        tuple(_place_terms(place, works, found_tok, model, caller) for place in places),
        usd_per_s,
        refused_usd,
    )


def most_cached_tok(works: Sequence[Work]) -> list[int]:
    """Return, for each piece of work, the longest beginning in tokens that any earlier one had."""
    seen: set[int] = set()
    found: list[int] = []
    for work in works:
        blocks = 0
        for block in work.blocks:
            if block not in seen:
                break
            blocks += 1
        found.append(whole_blocks_tok(blocks, work.input_tok) if blocks else 0)
        seen.update(work.blocks)
    return found


def may_serve(place: Place, work: Work, model: str, caller: Caller) -> bool:
    """The gateway's own standing rules, and room in the context for the prompt."""
    ask = Request(
        id="",
        endpoint="chat",
        model=model,
        pool=None,
        stream=True,
        input_bound_tok=work.input_tok,
        max_output_tok=work.max_output_tok,
        privacy=work.privacy,
    )
    return standing_rule(ask, caller, place.pool) is None and work.input_tok < place.pool.context_tok


def _place_terms(
    place: Place, works: Sequence[Work], found_tok: Sequence[int], model: str, caller: Caller
) -> PlaceTerms:
    uses = np.zeros((USES, len(works)))
    money = np.full(len(works), np.inf)
    allowed: dict[str, bool] = {}
    law, pool = place.law, place.pool
    for i, work in enumerate(works):
        if work.privacy not in allowed:
            probe = Work(at_us=0, input_tok=1, output_tok=1, max_output_tok=1, privacy=work.privacy)
            allowed[work.privacy] = may_serve(place, probe, model, caller)
        cached_tok = found_tok[i] if isinstance(law, StepLaw) and law.cache_blocks else 0
        if allowed[work.privacy] and work.input_tok < pool.context_tok:
            money[i] = charge_nusd(pool, model, work, cached_tok) / NUSD_PER_USD
        match law:
            case StepLaw():
                uses[:, i] = _step_uses(law, work, cached_tok)
            case StreamLaw():
                alone = law.prefill_ps_per_tok * work.input_tok + law.decode_ps * (work.output_tok - 1)
                uses[ALONE_S, i] = alone / PS_PER_S
    is_step = isinstance(law, StepLaw)
    bend = 1.0
    if is_step:
        steps = np.array([work.output_tok - 1.0 for work in works])
        bend = _add_prompts(uses, steps, np.isfinite(money))
    return PlaceTerms(
        pool.name,
        law.step_ps / PS_PER_S if isinstance(law, StepLaw) else 0.0,
        1.0 if is_step else float(pool.slots),
        pool.slots,
        pool.slots + pool.queue,
        float(law.kv_tok) if isinstance(law, StepLaw) else np.inf,
        money,
        place.overhead_ps / PS_PER_S,
        uses,
        bend,
    )


def _step_uses(law: StepLaw, work: Work, cached_tok: int) -> tuple[float, float, float, float, float]:
    """Return the uses, with Q alone as the last."""
    prompt_tok, steps = work.input_tok, work.output_tok - 1
    presences = -(-(prompt_tok - cached_tok) // law.budget_tok) + steps
    prompt_s = prompt_ps(law, cached_tok, prompt_tok) / PS_PER_S
    alone_s = prompt_s + decode_ps(law, prompt_tok + 1, steps) / PS_PER_S
    a, c = (law.decode_ps + law.kv_ps_per_tok * prompt_tok) / PS_PER_S, law.kv_ps_per_tok / PS_PER_S
    root = ((a + c * steps) ** 1.5 - a**1.5) / (1.5 * c) if c > 0 else steps * a**0.5
    return presences, alone_s, prompt_s, presences * (prompt_tok + work.max_output_tok), root


def _add_prompts(uses: Floats, steps: Floats, allowed: npt.NDArray[np.bool_]) -> float:
    """Turn Q into Q' in `uses`; return the place's `bend`."""
    prompts, total = uses[PROMPT_S], float(uses[ROOT][allowed].sum())
    if total <= 0.0:
        return 1.0
    levels = np.unique(np.quantile(prompts[allowed], (np.arange(_LEVELS) + 0.5) / _LEVELS))
    thickness = np.diff(levels, prepend=0.0)
    reaches = (prompts[None, :] >= levels[:, None]) * np.sqrt(steps)[None, :]
    ratios = reaches[:, allowed].sum(axis=1) / total
    uses[ROOT] += 0.5 * (thickness * ratios) @ reaches
    return 1.0 + 0.5 * float(np.sum(thickness * ratios**2))
