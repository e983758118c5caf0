"""How a pool behaves in `wattmill simulate`: a law of its engine, or of its provider, and its machines.

Without `[pools.NAME.twin]` the law follows from the pool's declared speed and cost. Nothing here concerns a
factory that runs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.models.graphs import Declared
from wattmill.scheduling.scaling.spec import ScalingRules

Source = Annotated[str, Meta(min_length=1, description="Where the figures come from, with a date.")]


class StepTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of the engine's continuous batch, as a sum. Measured or declared; `source` says which.

    step = step_ms + decode_us x decoding requests + kv_ns_per_tok x context tokens read
         + prefill_us_per_tok x prompt tokens + attention_us_per_ktok x their thousands of tokens before them
    """

    step_ms: Annotated[float, Meta(gt=0, description="A step, whatever is in it, in milliseconds.")]
    decode_us: Annotated[float, Meta(ge=0, description="Each request that gets a token, in microseconds.")]
    kv_ns_per_tok: Annotated[
        float, Meta(ge=0, description="Each token of context that is read, in nanoseconds.")
    ] = 0.0
    prefill_us_per_tok: Annotated[float, Meta(gt=0, description="Each prompt token, in microseconds.")]
    attention_us_per_ktok: Annotated[
        float,
        Meta(ge=0, description="Each prompt token for each 1,024 tokens before it, in microseconds."),
    ] = 0.0
    budget_tok: Annotated[
        int, Meta(ge=2, description="Tokens in one step, prompt chunks and decoding ones together.")
    ] = 2_048
    kv_tok: Annotated[
        Annotated[int, Meta(ge=64)] | None,
        Meta(description="Tokens of context that fit into memory. Absent: the context of every slot."),
    ] = None
    measured: Annotated[bool, Meta(description="The figures were measured, not declared.")] = False
    error: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Median relative error on held-out measurements; shown beside every prediction."),
    ] = None
    source: Source


class DeploymentTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model on an engine on accelerators, by the step-time law that was fitted on public measurements.

    Steps, memory and watts follow from the catalogues; how far off the law was on measurements that were held
    out stands beside every figure."""

    accelerator: Annotated[str, Meta(description="Name in the catalogue.", examples=["H100-SXM"])]
    model: Annotated[
        str, Meta(description="Architecture, by any serving name.", examples=["Llama-3.1-70B-Instruct"])
    ]
    engine: Annotated[
        Literal["vllm", "sglang", "trtllm"], Meta(description="Whose scheduler and efficiency it has.")
    ] = "vllm"
    weight_bits: Annotated[float, Meta(ge=1, le=32, description="Bits of a weight.")] = 16.0
    kv_bits: Annotated[float, Meta(ge=1, le=32, description="Bits of a cache element.")] = 16.0
    tp: Annotated[int, Meta(ge=1, description="Devices that share each layer.")] = 1
    ep: Annotated[int, Meta(ge=1, description="Devices that experts are spread over.")] = 1
    attn_dp: Annotated[int, Meta(ge=1, description="Attention ranks with sequences of their own.")] = 1
    pp: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Pipeline stages: as many batches are in flight, and each request is in one.",
        ),
    ] = 1
    stage_gb_per_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Between stages, 10^9 bytes per second a device. Absent: it takes no time."),
    ] = None
    graph_sizes: Annotated[
        Declared | None,
        Meta(
            description="Steps that the engine recorded as graphs, in tokens, rising: one of fewer tokens "
            'than the largest is computed as the next. "shipped": those that it records by default (vLLM: '
            "1, 2, 4, 8, 16, 24 … 512). Absent: nothing is padded.",
            examples=[[1, 2, 4, 8, 16, 32]],
        ),
    ] = None
    input_tok: Annotated[int, Meta(ge=1, description="A typical prompt, for the law's mixing of steps.")] = (
        1_024
    )
    operators: Annotated[
        bool,
        Meta(
            description="Where the model or the accelerator was never measured on the engine, bring the law "
            "to the level of operator tables at a full batch of typical prompts (the extra `twin-operators`)."
        ),
    ] = False
    idle_w: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Of one replica. Absent: the device's idle share of its limit, declared."),
    ] = None


class SpeculationTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An owned engine drafts tokens and verifies them in one step, each request by its own luck.

    A drafted token is accepted with probability a if those before it were, and a step gives one more: in the
    mean 1 + a + a^2 + ... + a^drafted_tok. What drafting itself takes belongs into the declared step."""

    drafted_tok: Annotated[
        int, Meta(ge=1, le=64, description="Tokens drafted for each request in each step.")
    ]
    acceptance: Annotated[
        float, Meta(gt=0, le=1, description="Probability that one is accepted, if those before it were.")
    ]
    draws: Annotated[
        bool,
        Meta(description="Draw it by the run's seed. False: each step gives what is expected, in the mean."),
    ] = True
    source: Source


class DisaggregationTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some replicas compute prompts, the others decode; a prompt's cache goes from one to the other by link.

    One hand-over takes latency_ms + input tokens x kv_bytes_per_tok / link_gb_per_s; hand-overs take turns,
    first come, first served. The pool's own `scaling` says how many replicas there are of both kinds
    together, in the proportion declared; with a `scaling` here, both kinds scale apart, and that one is for
    those that decode."""

    prefill_replicas: Annotated[
        int, Meta(ge=1, description="So many of the pool's `replicas` compute prompts; the others decode.")
    ]
    link_gb_per_s: Annotated[float, Meta(gt=0, description="Speed of a link, in 10^9 bytes per second.")]
    kv_bytes_per_tok: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Cache of one prompt token. Absent: as the `deployment` has it."),
    ] = None
    latency_ms: Annotated[float, Meta(ge=0, description="Of each hand-over, whatever its size.")] = 0.0
    shared_link: Annotated[
        bool, Meta(description="One link for all. False: each replica that computes prompts has its own.")
    ] = False
    scaling: Annotated[
        ScalingRules | None,
        Meta(
            description="Those that compute prompts come and go with the requests that wait for or are in "
            "their prompt. Absent: with the others, or not at all."
        ),
    ] = None
    source: Source


class ProviderTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bought place: how its times scatter, and the limits of its contract."""

    spread: Annotated[
        float,
        Meta(
            ge=0,
            le=3,
            description="Times are those of `speed` times a factor drawn for each request: log-normal, with "
            "this standard deviation of its logarithm.",
        ),
    ] = 0.0
    requests_per_min: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Beyond it the provider answers 429.")
    ] = None
    tokens_per_min: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Prompt and asked maximum together; beyond it the provider answers 429."),
    ] = None
    concurrent: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Requests at once; beyond it 429.")
    ] = None
    source: Source


class ColdStartTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new replica goes through before it serves, one after the other."""

    provisioning_s: Annotated[float, Meta(ge=0, description="Until a machine is there.")] = 60.0
    image_gb: Annotated[float, Meta(ge=0, description="Container image, in 10^9 bytes.")] = 10.0
    image_gb_per_s: Annotated[float, Meta(gt=0, description="Speed of pulling it.")] = 0.5
    weights_gb: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Weights, in 10^9 bytes. Absent: two bytes for each declared parameter."),
    ] = None
    storage_gb_per_s: Annotated[float, Meta(gt=0, description="Speed at which weights are loaded.")] = 2.0
    compile_s: Annotated[float, Meta(ge=0, description="Kernels and captured graphs.")] = 30.0
    warm_up_s: Annotated[float, Meta(ge=0, description="First requests, caches.")] = 5.0
    source: Source


class OutageTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When machines fail. What they were at is lost; the gateway tries elsewhere."""

    down_s: Annotated[
        tuple[tuple[float, float], ...],
        Meta(
            description="The whole pool is down from so many seconds to so many after the start.",
            examples=[[[600.0, 900.0]]],
        ),
    ] = ()
    mtbf_h: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Mean hours of one replica between repair and failure. Absent: it does not fail."),
    ] = None
    mttr_s: Annotated[float, Meta(gt=0, description="Mean seconds until it serves again.")] = 600.0


class PoolTwin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The pool in `wattmill simulate`."""

    replicas: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Machines behind the pool's one address. Its slots, its cost of an hour and its "
            "power are those of all of them together.",
        ),
    ] = 1
    step: Annotated[
        StepTimes | None,
        Meta(description="Law of its engine. Absent: from `speed` and `cost`, as declared."),
    ] = None
    deployment: Annotated[
        DeploymentTimes | None, Meta(description="Or a deployment, whose law and memory are worked out.")
    ] = None
    calibration: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="Or the file of a calibration, meant from this file's folder: the engine that "
            "`wattmill twin calibrate` fitted, with the error of its last check.",
            examples=[".wattmill/twin/own%2Fm.json"],
        ),
    ] = None
    provider: Annotated[
        ProviderTimes | None, Meta(description="It is bought: scatter and limits of the provider.")
    ] = None
    speculation: Annotated[
        SpeculationTimes | None, Meta(description="Its engine drafts tokens. Absent: one token a step.")
    ] = None
    disaggregation: Annotated[
        DisaggregationTimes | None,
        Meta(description="Prompts are computed on replicas of their own. Absent: each does both."),
    ] = None
    cold_start: Annotated[
        ColdStartTimes | None,
        Meta(description="What a new replica goes through. Absent: it is there at once."),
    ] = None
    scaling: Annotated[
        ScalingRules | None, Meta(description="Replicas come and go with the load. Absent: they stay.")
    ] = None
    outages: Annotated[OutageTimes | None, Meta(description="When machines fail. Absent: never.")] = None
