"""The core's memory for a set of replicas, and rows for requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.compiled import Array
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.policy import SGLANG_RATIO
from wattmill.twin.engine.spec import EngineLimits, StepCost, check

_RULES = {  # scheduler: (decoding and prompts together, admission, eviction)
    "vllm": (1, c.ADMIT_PROMPT, c.EVICT_LAST),
    "sglang": (0, c.ADMIT_ESTIMATE, c.EVICT_SHORTEST),
    "trtllm": (1, c.ADMIT_WHOLE, c.EVICT_NOBODY),
    "llamacpp": (1, c.ADMIT_SLOT, c.EVICT_NOBODY),
}


def state(
    replicas: Sequence[tuple[StepCost, EngineLimits]],
    *,
    requests: int,
    ids: Array | None = None,
    events: int = 0,
    hands_to: Sequence[tuple[range, int] | None] | None = None,
    hand_overs: int = 0,
) -> State:
    """Return empty replicas with room for `requests` requests. Raises `ValueError` where one cannot work.

    `hands_to`: of each replica those that it hands over to when a prompt is complete, and by which link; None
    if it decodes itself. `hand_overs`: how many may be on their way at once.
    """
    if not replicas:
        raise ValueError("an experiment needs at least one replica")
    if requests >= 1 << c.ROW_BITS:
        raise ValueError(f"{requests} requests at once, at most {1 << c.ROW_BITS} are possible")
    for cost, limits in replicas:
        check(cost, limits)
    count = len(replicas)
    if hands_to is not None:
        _check_hand_overs(replicas, hands_to)
    caching = ids is not None and len(ids) > 0
    law = np.zeros((count, c.LAW_COLUMNS), np.int64)
    table = np.zeros((count, max(len(cost.step_ps) for cost, _ in replicas)), np.int64)
    power = np.zeros((count, max(1, *(len(cost.power_mw) for cost, _ in replicas))), np.int64)
    nodes = 1
    for r, (cost, limits) in enumerate(replicas):
        table[r, : len(cost.step_ps)] = cost.step_ps
        power[r, : len(cost.power_mw)] = cost.power_mw
        mixed, admit, evict = _RULES[limits.scheduler]
        keeps = caching and limits.prefix_cache
        law[r] = _law(
            cost,
            limits,
            keeps=keeps,
            rules=(mixed, admit, evict),
            to=None if hands_to is None else hands_to[r],
        )
        if keeps and admit != c.ADMIT_SLOT:
            nodes = max(nodes, limits.kv_blocks * limits.block_tok // limits.prefix_tok + 1)
    rows = _lanes(law)
    rep = np.zeros((rows, c.REP_COLUMNS), np.int64)
    rep[:, c.BOUNDARY] = c.NEVER
    for head in (c.INBOX, c.WAIT, c.PROMPTS, c.DECODERS, c.LRU):
        rep[:, head : head + 2] = c.NOBODY
    rep[:, c.RATIO] = SGLANG_RATIO
    rep[:, c.LOOK] = c.NEVER
    rep[:count, c.MOST] = law[:, c.SEQS]
    node = np.zeros((count, nodes, c.NODE_COLUMNS), np.int64)
    node[:, :, c.NODE_NEXT] = np.arange(1, nodes + 1)
    seqs = max(limits.max_num_seqs for _, limits in replicas)
    by_slot = any(limits.scheduler == "llamacpp" for _, limits in replicas)
    places = seqs if by_slot else 1
    if rows > count:
        places = max(places, seqs, *(cost.stages for cost, _ in replicas))
    slot = np.zeros((rows, places, c.SLOT_COLUMNS), np.int64)
    slot[:count, :, c.SLOT_ROW] = c.NOBODY
    common = np.zeros(c.COMMONS, np.int64)
    common[c.TAKERS] = count
    links = [0, *(to[1] for to in hands_to or () if to is not None)]
    return State(
        law=law,
        table=table,
        power=power,
        next_ps=np.full(count, c.NEVER, np.int64),
        load=np.zeros(count, np.int64),
        rep=rep,
        heap=np.zeros((rows, seqs + 1), np.int64),
        residue=np.zeros((rows, max(limits.block_tok for _, limits in replicas)), np.int64),
        tree=np.zeros((count, 1 << (2 * nodes).bit_length()), np.int64),
        node=node,
        slot=slot,
        req=fresh_rows(requests),
        ids=ids if ids is not None and len(ids) else np.zeros(1, np.int64),
        event=np.zeros((max(1, events), c.EVENT_COLUMNS), np.int64),
        common=common,
        link=np.zeros((1 + max(links), c.LINK_COLUMNS), np.int64),
        due=np.zeros((hand_overs + 1, 2), np.int64),
    )


def _lanes(law: Array) -> int:
    """Give each pipeline a row for each stage, behind the replicas', and return how many rows there are."""
    rows = len(law)
    for one in law:
        if one[c.STAGES] > 1:
            one[c.LANES] = rows
            rows += int(one[c.STAGES])
    return rows


def rows_of(s: State, r: int) -> list[int]:
    """Return the rows of replica `r` in `rep`, `heap`, `residue` and `slot`: its own, and its lanes'."""
    first, stages = s.law[r, [c.LANES, c.STAGES]].tolist()
    return [r, *range(first, first + stages)] if stages > 1 else [r]


def _law(
    cost: StepCost,
    limits: EngineLimits,
    *,
    keeps: bool,
    rules: tuple[int, int, int],
    to: tuple[range, int] | None,
) -> Array:
    law = np.zeros(c.LAW_COLUMNS, np.int64)
    law[c.MIXED], law[c.ADMIT], law[c.EVICT] = rules
    law[c.BEYOND] = cost.beyond_ps_per_tok
    law[c.DECODE] = cost.decode_ps
    law[c.CONTEXT] = cost.context_ps_per_tok
    law[c.PREFILL] = cost.prefill_ps_per_tok
    law[c.ATTENTION] = cost.attention_ps_per_ktok
    law[c.STAGES] = cost.stages
    law[c.VERIFY] = cost.verify_tok
    law[c.PER_STEP] = 0 if cost.accept else cost.tokens_per_step
    law[c.ACCEPT] = cost.accept
    law[c.DRAW_SEED] = cost.draw_seed
    law[c.OVERHEAD] = cost.overhead_ps
    law[c.HANDOVER] = cost.handover_ps
    law[c.HANDOVER_TOK] = cost.handover_ps_per_tok
    law[c.PIECE] = cost.piece_tok
    law[c.TABLE] = len(cost.step_ps)
    law[c.POWERS] = len(cost.power_mw)
    law[c.WALKS] = bool(cost.accept) or cost.stages > 1
    law[c.SEQS] = limits.max_num_seqs
    # SGLang's pp_max_micro_batch_size (python/sglang/srt/managers/scheduler.py); vLLM bounds all together.
    law[c.LANE_SEQS] = (
        max(1, limits.max_num_seqs // cost.stages) if limits.scheduler == "sglang" else limits.max_num_seqs
    )
    law[c.BUDGET] = limits.budget_tok
    law[c.KV] = limits.kv_blocks
    law[c.BLOCK] = limits.block_tok
    law[c.CHUNKED] = limits.chunked_prefill
    law[c.CACHING] = keeps
    law[c.PREFIX] = limits.prefix_tok
    if to is not None:
        law[c.PREFILL_ONLY] = 1
        law[c.TO_FROM], law[c.TO_UNTIL], law[c.LINK] = to[0].start, to[0].stop, to[1]
    return law


def _check_hand_overs(
    replicas: Sequence[tuple[StepCost, EngineLimits]], hands_to: Sequence[tuple[range, int] | None]
) -> None:
    for to in hands_to:
        if to is not None and not (0 <= to[0].start < to[0].stop <= len(replicas)):
            raise ValueError(
                f"a prefill replica hands over to {to[0]}, must be some of the {len(replicas)} replicas"
            )
        if to is not None and any(hands_to[r] is not None for r in to[0]):
            raise ValueError("a prefill replica must hand over to replicas that decode, not to its own kind")
    if any(limits.scheduler == "llamacpp" for _, limits in replicas):
        raise ValueError("llama.cpp keeps a request's memory in its slot: its replicas cannot hand over")


def fresh_rows(count: int) -> Array:
    """Return rows of requests that are not born yet."""
    rows = np.zeros((count, c.REQ_COLUMNS), np.int64)
    rows[:, [c.BEGUN, c.FIRST, c.END, c.REPLICA, c.AFTER]] = c.NOBODY
    return rows


def fill_rows(
    rows: Array,
    *,
    input_tok: npt.ArrayLike,
    output_tok: npt.ArrayLike,
    max_output_tok: npt.ArrayLike | None,
    ids_from: Array | None,
) -> None:
    """Write what the requests are; `ids_from` holds where each one's prefix ids begin, and their end."""
    rows[:, c.INPUT] = input_tok
    rows[:, c.OUTPUT] = output_tok
    rows[:, c.ASKED] = output_tok if max_output_tok is None else max_output_tok
    if ids_from is not None:
        rows[:, c.IDS_FROM] = ids_from[:-1]
        rows[:, c.IDS] = np.diff(ids_from)


def refuse_misfits(rows: Array, replicas: Sequence[tuple[StepCost, EngineLimits]]) -> None:
    """Raise `ValueError` where a request could never run on one of the replicas."""
    inputs, outputs, asked = rows[:, c.INPUT], rows[:, c.OUTPUT], rows[:, c.ASKED]
    if len(rows) == 0:
        return
    if inputs.min() < 1 or outputs.min() < 1:
        raise ValueError("input and output tokens must be >= 1 in every request")
    if (outputs > asked).any():
        row = int((outputs > asked).argmax())
        raise ValueError(
            f"request {row}: an answer of {outputs[row]} tokens is longer than the {asked[row]} asked for"
        )
    row = int((inputs + asked).argmax())
    for cost, limits in set(replicas):
        # Room to spare: speculation computes past the end, SGLang wants one token more than it needs.
        need = -(-int(inputs[row] + asked[row] + cost.verify_tok + 1) // limits.block_tok)
        have = limits.kv_blocks // (limits.max_num_seqs if limits.scheduler == "llamacpp" else 1)
        if need > have:
            raise ValueError(
                f"request {row}: {inputs[row]} + {asked[row]} tokens need {need} blocks of "
                f"{limits.block_tok}, and a replica has {have} for one request: it would wait forever"
            )
        if not limits.chunked_prefill and int((inputs + outputs).max()) > limits.budget_tok:
            raise ValueError(
                f"a prompt of up to {int((inputs + outputs).max())} tokens does not fit into a step of "
                f"{limits.budget_tok}, and chunked_prefill is off"
            )
