"""Prefill and decode on different workers, under a client that holds its concurrency: mean work per request.

Here the schedule does depend on times: how many requests decode at once follows from how long prompts wait.
It is found with the datasheet's coefficients (mean value analysis of one queue and one delay), and the fitted
law is then taken over that mean work. The first prompts come all at once: one run in `PROMPTS` waits for half
of them.
"""

from __future__ import annotations

from math import inf

import msgspec

from wattmill.models.deployment import Deployment
from wattmill.models.graphs import paddings
from wattmill.models.step_time import DATASHEET, Work, seconds, step_s, terms
from wattmill.twin.law.closed_loop import PROMPTS, SHORTEST, Loop
from wattmill.twin.law.spec import Disaggregation

PREFILL_BUDGET_TOK = 8192
_MEAN_LENGTH = (1.0 + SHORTEST) / 2.0
_ROUNDS = 60


def disaggregated_loop(
    prefill: Deployment,
    decode: Deployment,
    *,
    prefill_workers: int,
    decode_workers: int,
    isl: int,
    osl: int,
    concurrency: int,
    drafted: int = 0,
) -> Loop:
    """Return the mean work that passes before a request's first token, and for each further token."""
    prompt_tok, output_tok = isl * _MEAN_LENGTH, max(osl * _MEAN_LENGTH, 2.0)
    waiting_each = concurrency / prefill_workers
    together = max(min(PREFILL_BUDGET_TOK * prefill.attn_dp / prompt_tok, waiting_each), 1.0)
    step = Work(
        prefill_tok=prompt_tok * together,
        prefill_attention_tok2=prompt_tok * prompt_tok / 2.0 * together,
        touched=prefill.architecture.experts_touched(prompt_tok * together),
        mixed_steps=1.0,
    )
    step_seconds = seconds(terms(prefill, step), DATASHEET)
    service_s = step_seconds / together
    context = prompt_tok + output_tok / 2.0

    waits = 0.0  # prompts before one that arrives at its worker
    decoding = float(concurrency)
    for _ in range(_ROUNDS):
        each = max(decoding / decode_workers, 1.0)
        token_s = step_s(decode, DATASHEET, decode_n=each, context_tok=each * context)
        prefill_s = step_seconds + waits * service_s
        per_s = min(concurrency / (prefill_s + output_tok * token_s), prefill_workers / service_s)
        queued = concurrency - per_s * output_tok * token_s
        seen = queued / prefill_workers * (concurrency - 1.0) / concurrency
        waits = 0.5 * waits + 0.5 * max(seen - together, 0.0)
        decoding = 0.5 * decoding + 0.5 * per_s * output_tok * token_s
    each = max(decoding / decode_workers, 1.0)
    fills = paddings(decode.graph_sizes, ranks=decode.attn_dp, each=1 + drafted)
    fill = float(fills[round(each)]) if round(each) < len(fills) else 0.0
    first_wave = max(waiting_each - together, 0.0) / 2.0
    mean_wait = waits + max(first_wave - waits, 0.0) / PROMPTS
    return Loop(
        to_first_token=_times(step, 1.0 + mean_wait / together),
        per_token=Work(
            decode_n=each,
            context_tok=each * context,
            touched=decode.architecture.experts_touched(each + fill),
            padded=fill,
        ),
    )


def _times(work: Work, factor: float) -> Work:
    return Work(**{name: getattr(work, name) * factor for name in msgspec.structs.asdict(work)})


def handed_over_s(
    decode: Deployment, apart: Disaggregation, *, isl: int, users: int, cycle_s: float
) -> float:
    """Return the seconds between a first token and the begin of decoding: the hand-over, and its turn.

    Each attention rank of a prefill worker has a link of its own, of as many devices as share a sequence. One
    hand-over takes latency + prompt x bytes of a cached token / the link's bytes per second; `users` go round
    in `cycle_s` without it. It waits as in M/D/1, and behind no more than all users at once: the cycle with
    it is where both sides agree. Valid for links of their own; where they are nearly full the wait is that
    of random arrivals, which prompts that end one after the other are not: an upper bound.

    Hand check: 1,000 tokens of 100 kB over two devices of 50 GB/s: 1 ms; where 100 a second come by one link,
    a tenth of its time, they wait 0.1 / (2 x 0.9) ms.
    """
    if apart.link_bytes_per_s is None and apart.latency_s == 0.0:
        return 0.0
    speed = (apart.link_bytes_per_s or inf) * apart.prefill.tp
    one_s = apart.latency_s + isl * _MEAN_LENGTH * decode.distinct_kv_bytes_per_tok / speed
    links = apart.prefill_workers * apart.prefill.attn_dp

    def with_wait(whole_s: float) -> float:
        full = users / whole_s * one_s / links
        waits = full / (2.0 * (1.0 - full)) if full < 1.0 else inf
        return cycle_s + one_s * (1.0 + min(waits, users / links))

    low, high = cycle_s + one_s, cycle_s + one_s * (1.0 + users / links)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2.0
        if with_wait(middle) > middle:
            low = middle
        else:
            high = middle
    return high - cycle_s
