"""A whole trace on simulated replicas: arrays in, arrays out; the same arguments give the same run.

cost = StepCost(step_ps=(8_000_000_000,), context_ps_per_tok=700, prefill_ps_per_tok=30_000_000)
limits = EngineLimits(max_num_seqs=64, budget_tok=2_048, kv_blocks=4_096)
run = simulate([(cost, limits)], Requests(input_tok=[512] * 100, output_tok=[128] * 100),
               clients=Clients(concurrency=8))
run.first_ps - run.at_ps      # times to first token
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from wattmill.twin.engine import build, failing, run
from wattmill.twin.engine import layout as c
from wattmill.twin.engine.compiled import Array
from wattmill.twin.engine.conservation import check_conserved
from wattmill.twin.engine.layout import State
from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.units import NS_PER_MS, PS_PER_MS, PS_PER_NS, US_PER_S

Dispatch = Literal["least-loaded", "two-choices", "round-robin", "given"]

_RULES = {
    "given": run.AS_GIVEN,
    "round-robin": run.ROUND_ROBIN,
    "least-loaded": run.LEAST_LOADED,
    "two-choices": run.TWO_CHOICES,
}


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What is asked, one entry a request."""

    input_tok: npt.ArrayLike
    output_tok: npt.ArrayLike  # what the engine produces, at least 1
    at_ps: npt.ArrayLike | None = None  # arrivals, not falling; None: the clients decide
    max_output_tok: npt.ArrayLike | None = None  # what is asked for; None: what is produced
    replica: npt.ArrayLike | None = None  # for dispatch "given"
    prefix_ids: npt.ArrayLike | None = None  # all requests' ids, one after the other; equal id, equal start
    prefix_from: npt.ArrayLike | None = None  # where each request's ids begin, and the end of the last
    after: npt.ArrayLike | None = None  # the request whose end lets this one come, -1: at_ps holds
    think_ps: npt.ArrayLike | None = None  # how long after that end


@dataclass(frozen=True, kw_only=True)
class Clients:
    """A benchmark client: `concurrency` requests at once from t = 0 on, the next when one ends.

    The first `warm_ups` requests run alone; the rest begins, all places at once, when the last of them ends.
    """

    concurrency: int
    warm_ups: int = 0
    gap_ps: int = 0  # from an end to the client's next request


@dataclass(frozen=True, kw_only=True)
class Failures:
    """Machines that fail: exponential times, the same means for each replica, drawn by `seed`.

    What a machine was at when it died is sent anew, from its beginning, to one that is up; after `tries`
    machines have died with it, a request is lost (`wattmill.twin.engine.failing`).
    """

    mtbf_s: float  # from repair to failure, in the mean
    mttr_s: float  # of a repair
    tries: int = 3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """Prefill and decode on replicas of their own (`wattmill.twin.engine.handover`).

    The first `prefill` replicas take what comes, compute prompts and hand over to the others; how long one
    takes on the link stands in their `StepCost.handover_ps` and `handover_ps_per_tok`.
    """

    prefill: int
    shared_link: bool = False  # one link for all; false: each prefill replica has its own


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of each request, and what each replica did. Instants in picoseconds, -1: never."""

    at_ps: Array
    begun_ps: Array  # the engine first computed it
    first_ps: Array
    end_ps: Array
    cached_tok: Array  # of the prompt, when it was first admitted
    preemptions: Array
    replica: Array
    energy_uj: Array  # its share of the energy of the steps that it took part in
    steps: Array  # by replica, from here on
    busy_ps: Array
    busy_uj: Array
    idle_uj: Array  # until the last end anywhere
    computed_tok: Array  # prompt tokens, recomputed ones too
    reused_tok: Array
    lost_tok: Array
    draws: Array  # steps in which a request's tokens were drawn, one for each request
    drawn_tok: Array  # what came of them, past ends of answers too
    broke: Array  # by request: how many machines died with it
    lost: Array  # by request, 1: given up; its `end_ps` is -1
    failures: Array  # by replica, as what follows
    down_ps: Array  # until the last end
    void_tok: Array  # given to readers of answers that broke off
    void_uj: Array  # joules of requests and of steps that broke off
    handed: Array  # by link, as what follows: hand-overs
    handed_tok: Array  # tokens whose memory went over
    link_busy_ps: Array
    link_wait_ps: Array  # for the link, over all hand-overs


def simulate(
    replicas: Sequence[tuple[StepCost, EngineLimits]],
    requests: Requests,
    *,
    dispatch: Dispatch = "least-loaded",
    seed: int = 0,
    clients: Clients | None = None,
    failures: Failures | None = None,
    hand_over: HandOver | None = None,
) -> Outcome:
    """Play `requests` to their end and check that nothing was lost or made up on the way.

    Raises `ValueError` for requests or replicas that could never work, `AssertionError` where conservation of
    tokens, memory or joules is broken, which is an error of the simulator.
    """
    s = _state(
        replicas,
        requests,
        coupled=requests.after is not None
        or requests.at_ps is None
        or failures is not None
        or hand_over is not None,
        hand_over=hand_over,
    )
    given = np.zeros(1, np.int64) if requests.replica is None else _whole(requests.replica)
    if dispatch == "given" and requests.replica is None:
        raise ValueError('dispatch is "given", so requests need `replica`')
    takers = int(s.common[c.TAKERS])
    if len(s.req) and (given.min() < 0 or given.max() >= takers):
        raise ValueError(f"replica must be between 0 and {takers - 1}")
    rule = _RULES[dispatch]
    fate = np.zeros((len(replicas) if failures is not None else 0, failing.FATES), np.int64)
    if clients is None and requests.after is None and failures is None and hand_over is None:
        if requests.at_ps is None:
            raise ValueError("requests need `at_ps`, or clients that decide when they come")
        run.open_loop(s, given, rule, seed)
    else:
        _coupled(s, requests, clients, given, np.array([rule, seed], np.int64), fate, _fails(failures))
    check_conserved(s)
    return _outcome(s, replicas, fate)


def _fails(failures: Failures | None) -> Array:
    law = np.zeros(4, np.int64)
    if failures is not None:
        if failures.mtbf_s <= 0 or failures.mttr_s <= 0:
            raise ValueError(
                f"mtbf_s is {failures.mtbf_s}, mttr_s is {failures.mttr_s}: both must be > 0, they are means"
            )
        if failures.tries < 1:
            raise ValueError(f"tries is {failures.tries}, must be >= 1: a request is sent at least once")
        law[failing.MTBF_US] = max(1, round(failures.mtbf_s * US_PER_S))
        law[failing.MTTR_US] = max(1, round(failures.mttr_s * US_PER_S))
        law[failing.TRIES] = failures.tries
        law[failing.SEED] = failures.seed
    return law


def _state(
    replicas: Sequence[tuple[StepCost, EngineLimits]],
    requests: Requests,
    *,
    coupled: bool,
    hand_over: HandOver | None,
) -> State:
    hands_to: list[tuple[range, int] | None] | None = None
    if hand_over is not None:
        if not 0 < hand_over.prefill < len(replicas):
            raise ValueError(
                f"prefill is {hand_over.prefill}, must be between 1 and {len(replicas) - 1}: some of the "
                f"{len(replicas)} replicas prefill, and some decode"
            )
        to = range(hand_over.prefill, len(replicas))
        hands_to = [
            (to, 0 if hand_over.shared_link else r) if r < hand_over.prefill else None
            for r in range(len(replicas))
        ]
    inputs = _whole(requests.input_tok)
    ids = None if requests.prefix_ids is None else _whole(requests.prefix_ids)
    ids_from = None if requests.prefix_from is None else _whole(requests.prefix_from)
    s = build.state(
        replicas,
        requests=len(inputs),
        ids=ids,
        events=3 * len(inputs) if coupled else 0,
        hands_to=hands_to,
        hand_overs=0 if hands_to is None else len(inputs),
    )
    if hand_over is not None:
        s.common[c.TAKERS] = hand_over.prefill
    build.fill_rows(
        s.req,
        input_tok=inputs,
        output_tok=_whole(requests.output_tok),
        max_output_tok=None if requests.max_output_tok is None else _whole(requests.max_output_tok),
        ids_from=ids_from if ids is not None else None,
    )
    if any(cost.accept for cost, _ in replicas):
        s.req[:, c.TAG] = np.arange(len(s.req))  # whose draws they are; a million rows take a while
    build.refuse_misfits(s.req, replicas)
    if requests.at_ps is not None:
        at_ps = _whole(requests.at_ps)
        if requests.after is None and len(at_ps) and (np.diff(at_ps) < 0).any():
            raise ValueError("at_ps must not fall: sort the requests by arrival")
        s.req[:, c.AT] = at_ps
    return s


def _coupled(
    s: State,
    requests: Requests,
    clients: Clients | None,
    given: Array,
    rule: Array,
    fate: Array,
    fails: Array,
) -> None:
    rows = len(s.req)
    order = np.zeros(0, np.int64)
    if requests.after is not None:
        if clients is not None:
            raise ValueError("requests have `after`, so no clients can decide when they come")
        after = _whole(requests.after)
        later = np.flatnonzero(after >= 0)
        if (after >= rows).any() or len(np.unique(after[later])) != len(later):
            raise ValueError("`after` must name requests of the trace, each at most once")
        s.req[after[later], c.AFTER] = later
        if requests.think_ps is not None:
            s.req[after[later], c.THINK] = _whole(requests.think_ps)[later]
        order = np.flatnonzero(after < 0)
        order = order[np.argsort(s.req[order, c.AT], kind="stable")]
    elif clients is not None and clients.concurrency < 1:
        raise ValueError(f"concurrency is {clients.concurrency}, must be >= 1")
    elif clients is None:
        if requests.at_ps is None:
            raise ValueError("requests need `at_ps`, or clients that decide when they come")
        order = np.arange(rows)
    client = np.zeros(run.CLIENTS, np.int64)
    if clients is not None:
        if not 0 <= clients.warm_ups <= rows:
            raise ValueError(f"warm_ups is {clients.warm_ups}, must be between 0 and the {rows} requests")
        client[run.CONCURRENCY] = clients.concurrency
        client[run.WARM_UPS] = clients.warm_ups
        client[run.GAP_PS] = clients.gap_ps
    s.common[c.TELL] = 1
    run.coupled(s, given, order, np.zeros((rows + 1, 2), np.int64), client, rule, fate, fails)


def _outcome(s: State, replicas: Sequence[tuple[StepCost, EngineLimits]], fate: Array) -> Outcome:
    rep = s.rep[: len(replicas)]  # what follows are lanes of pipelines
    end_ps = max(0, int(s.req[:, c.END].max())) if len(s.req) else 0
    down_ps = np.zeros(len(replicas), np.int64)
    lost = np.zeros(len(s.req), np.int64)
    if len(fate):
        lost[s.req[:, c.STATE] == c.GIVEN_UP] = 1
        # Of a repair that is under way, or of failures after the last end, what lies before it.
        ahead_ps = np.maximum(fate[:, failing.CHANGES] - end_ps, 0) * fate[:, failing.IS_DOWN]
        down_ps = np.maximum(fate[:, failing.DOWN_PS] - ahead_ps, 0)
    idle_ps = end_ps - rep[:, c.BUSY] - down_ps
    idle_mw = np.array([cost.idle_mw for cost, _ in replicas], np.int64)
    return Outcome(
        at_ps=s.req[:, c.AT].copy(),
        begun_ps=s.req[:, c.BEGUN].copy(),
        first_ps=s.req[:, c.FIRST].copy(),
        end_ps=np.where(lost, -1, s.req[:, c.END]) if len(fate) else s.req[:, c.END].copy(),
        cached_tok=s.req[:, c.CACHED].copy(),
        preemptions=s.req[:, c.PREEMPTIONS].copy(),
        replica=s.req[:, c.REPLICA].copy(),
        energy_uj=s.req[:, c.JOULES].copy(),
        steps=rep[:, c.STEPS].copy(),
        busy_ps=rep[:, c.BUSY].copy(),
        busy_uj=rep[:, c.ENERGY].copy(),
        # mW x ms are µJ; in nanoseconds some hours would not fit into 64 bits.
        idle_uj=idle_mw * (idle_ps // PS_PER_MS) + idle_mw * (idle_ps % PS_PER_MS // PS_PER_NS) // NS_PER_MS,
        computed_tok=rep[:, c.COMPUTED].copy(),
        reused_tok=rep[:, c.REUSED].copy(),
        lost_tok=rep[:, c.LOST].copy(),
        draws=rep[:, c.DRAWS].copy(),
        drawn_tok=rep[:, c.DRAWN].copy(),
        broke=s.req[:, c.BROKE].copy() if len(fate) else np.zeros(len(s.req), np.int64),
        lost=lost,
        failures=fate[:, failing.FAILED].copy() if len(fate) else np.zeros(len(replicas), np.int64),
        down_ps=down_ps,
        void_tok=rep[:, c.UNDONE].copy(),
        void_uj=rep[:, c.VOID_UJ].copy(),
        handed=s.link[:, c.LINK_SENT].copy(),
        handed_tok=s.link[:, c.LINK_TOK].copy(),
        link_busy_ps=s.link[:, c.LINK_BUSY].copy(),
        link_wait_ps=s.link[:, c.LINK_WAIT].copy(),
    )


def _whole(values: npt.ArrayLike) -> Array:
    return np.ascontiguousarray(values, dtype=np.int64)
