"""What happened: the records of the journal. Layers emit them; the ledger books them.

Records are stored as MessagePack arrays in field order with a leading tag, so a field may be appended with
a default, and nothing may be reordered or removed: what was written once is read forever
(`tests/unit/test_frozen_formats.py`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from wattmill.vocab.request import Terms
from wattmill.vocab.route import Route
from wattmill.vocab.usage import Usage

Status = Literal["finished", "aborted", "failed", "cut"]
"""finished: the engine ended by itself. aborted: the client left. failed: the engine or the way to it broke.
cut: wattmill ended it, because it passed its clamp."""

UsageSource = Literal["measured", "estimated", "unmetered", "none"]
"""measured: the engine's own count. estimated: partial counts or a bound. unmetered: produced, not countable.
none: nothing was produced (the attempt failed before the engine worked)."""


class _Fact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class Intent(_Fact, frozen=True, array_like=True, gc=False, tag=1):
    """One attempt is about to leave: its worst case is reserved at every node of `path`."""

    seq: int  # of this attempt, unique in its epoch
    request: int  # seq of the request's first attempt: attempts of one request share it
    attempt: int  # 0, 1, 2 ...
    at_us: int  # wall clock
    path: tuple[int, ...]  # node ids, organisation first; the key last, or the run or step below it
    pool: str
    model: str  # as asked
    endpoint: str
    stream: bool
    input_bound_tok: int
    output_clamp_tok: int  # over all choices
    reserved_nusd: int  # charge leg, worst case
    cost_price: int  # price version ids
    charge_price: int
    asked_output_tok: int | None = None
    route: Route | None = None  # on the first attempt
    label: str | None = None  # the client's own id, never trusted
    privacy: str = "internal"
    reserved_cost_nusd: int = 0  # cost leg, worst case: what is at stake with the provider
    choices: int = 1
    needs: tuple[str, ...] = ()
    pinned: bool = False  # the client asked for this place by name
    terms: Terms | None = None  # what else the policy was told of the request
    queued_us: int = 0  # how long it waited at the gate before it was routed
    below: int = 0  # nodes of `path` below the key: agent, run, step
    held: tuple[int, ...] = ()  # gauges of limits and what is reserved of each: gauge, amount, gauge, ...
    evidence: tuple[str, ...] = ()  # which privacy rules matched and how often, never what

    @property
    def key(self) -> int:
        return self.path[-1 - self.below]


class Progress(_Fact, frozen=True, array_like=True, gc=False, tag=2):
    """About once a second of a stream: what had been produced so far, so that a crash leaves little doubt."""

    seq: int
    at_us: int
    output_tok: int


class End(_Fact, frozen=True, array_like=True, gc=False, tag=3):
    """One attempt is over. Money is what the client was told, and what the books will say."""

    seq: int
    at_us: int
    status: Status
    usage: Usage | None  # None only with source "unmetered" or "none"
    usage_source: UsageSource
    cost_nusd: int
    charge_nusd: int  # never above the reservation
    overrun_nusd: int = 0  # charge leg beyond the reservation: the operator's
    http_status: int = 0
    ttft_us: int | None = None  # from the request's arrival to the first content
    duration_us: int = 0  # from the request's arrival to the end
    started_us: int = 0  # wall clock at which this attempt left
    queue_us: int | None = None  # engine's own figures, where it gives them
    prefill_us: int | None = None
    decode_us: int | None = None
    finish_reason: str | None = None
    error: str | None = None  # refusal code or a short cause
    engine_id: str | None = None  # the engine's id of the answer
    kept_nusd: int = 0  # counted against caps beyond the charge: nobody saw what was produced
    took: tuple[int, ...] = ()  # gauges of limits and what was used of each, like `held` of its intent
    saved_nusd: int = 0  # of an answer from the cache: its price at a place, less the charge
    told_uj: int | None = None  # the estimate of its joules that its client was told; settled ones differ


class Refused(_Fact, frozen=True, array_like=True, gc=False, tag=4):
    """An identified caller was told no; nothing left, nothing is owed."""

    seq: int
    at_us: int
    path: tuple[int, ...]
    endpoint: str
    model: str
    code: str
    message: str
    label: str | None = None
    ask: bytes = b""  # MessagePack of vocab.request.Request, where a policy was asked
    route: Route | None = None  # what it decided, or without candidates what it looked at
    tier: str = ""  # of the request; "" is no tier
    queued_us: int = 0  # how long it had waited at the gate
    below: int = 0  # nodes of `path` below the key: agent, run, step

    @property
    def key(self) -> int:
        return self.path[-1 - self.below] if self.path else 0


class Snapshot(_Fact, frozen=True, array_like=True, gc=False, tag=5):
    """The fleet as the policy saw it from this moment on; decisions name its id."""

    id: int
    at_us: int
    fleet: bytes  # MessagePack of scheduling.spec.Fleet
    policy: str = ""  # the factory's own; a key may have another
    weights: bytes = b""  # MessagePack of scheduling.spec.Weights
    seed: int = 0  # of this worker's draws
    version: str = ""  # of the wattmill that decided


class MeterWindow(_Fact, frozen=True, array_like=True, gc=False, tag=6):
    """One window of one meter, in whole microjoules. What meters below it have seen is not in it, so that
    windows of different meters may be added.

    total = idle + sum(shares) + service + foreign + overhead + other."""

    meter: str
    start_us: int
    end_us: int
    total_uj: int
    idle_uj: int
    shares_uj: dict[str, int]  # dynamic energy by pool; "a|b": of two that one meter cannot tell apart
    other_uj: int  # dynamic energy that nobody can be named for: unattributed
    provenance: str  # "measured", "modelled" or "estimated"
    source: str  # e.g. "host model idle=20W max=65W alpha=1.0 on 2 cores"
    service_uj: int = 0  # of the factory's own processes and of the host around its chips
    foreign_uj: int = 0  # of programs that are not the factory's
    overhead_uj: int = 0  # of what feeds and cools: conversion, cooling
    parent: str = ""
    resolution_uj: int = 0  # 0: not told
    event: str = ""  # vocab.meter.Event
    carbon_ug_per_kwh: int | None = None  # of the power that it drew; None: nobody said
    carbon_source: str = ""


class EngineCount(_Fact, frozen=True, array_like=True, gc=False, tag=7):
    """What an engine's own counters say since it started: the witness against which the books are held."""

    pool: str
    instance: str  # changes when the engine restarts
    at_us: int
    prompt_tok: int  # computed (not cached) prompt tokens, cumulative
    output_tok: int  # cumulative
    idle: bool  # nothing was running when this was read
    since_us: int = 0  # when this life of the engine began; 0: not told


class EngineAbort(_Fact, frozen=True, array_like=True, gc=False, tag=8):
    """The engine's word on an attempt whose end nobody else saw (aborted, in doubt)."""

    seq: int
    epoch: str
    at_us: int
    usage: Usage


class Asker(_Fact, frozen=True, array_like=True, gc=False, tag=20):
    """A caller as the policy knew it from this moment on; decisions name its id."""

    id: int
    at_us: int
    caller: bytes  # MessagePack of vocab.caller.Caller


class RunawaySeen(_Fact, frozen=True, array_like=True, gc=False, tag=24):
    """A request looked like a runaway's, and what was done about it by the declared policy."""

    seq: int  # of the request
    at_us: int
    path: tuple[int, ...]
    kind: str  # agents.runaway.spec.Kind
    rule: str
    count: int
    action: str  # agents.runaway.spec.Action
    reason: str
    below: int = 0


class Replayed(_Fact, frozen=True, array_like=True, gc=False, tag=25):
    """A client repeated a request under its idempotency key and was told the first answer again: nothing
    left, nothing is owed."""

    seq: int
    at_us: int
    path: tuple[int, ...]
    endpoint: str
    model: str
    of: str  # id of the request whose answer it is
    label: str | None = None
    below: int = 0

    @property
    def key(self) -> int:
        return self.path[-1 - self.below] if self.path else 0


Fact = (
    Intent
    | Progress
    | End
    | Refused
    | Snapshot
    | MeterWindow
    | EngineCount
    | EngineAbort
    | Asker
    | RunawaySeen
    | Replayed
)
