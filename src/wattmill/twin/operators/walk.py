"""A walk through a model: which operators one step runs on one device, how often, and how large each is.

Sizes are those of one device under the deployment's split. Element-wise work (norms, rotations, activations,
sampling) is not walked: no table holds it, and the factor that is fitted on whole runs takes it up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from wattmill.models.architecture import Architecture
from wattmill.models.deployment import Deployment
from wattmill.twin.operators.grid import OffGrid

Part = Literal["products", "attention", "prompts", "experts", "links"]
"""What a step's time is summed by: each part has a factor of its own in the fit."""

PARTS: tuple[Part, ...] = ("products", "attention", "prompts", "experts", "links")

_LATENT, _ROTATED, _VALUES = 512, 64, 128  # the one latent attention that was timed
_QUERY_RANK = 1536  # of the models that have it (DeepSeek-V3, Kimi-K2); the catalogue does not record it
_WIDEST = 8  # devices that share experts; beyond, tables and measured runs are of different kernels
_GATED = 2  # a gated feed-forward has two matrices before its activation
_PER_LAYER = 2  # all-reduces: after attention, after the feed-forward
_SKEWED = ("power_law_1.01", "power_law_1.2", "balanced")  # how tokens fall on experts, as routers do first
_WIDE = {"gemm_dtype": "bfloat16"}


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """One operator of a step on one device."""

    part: Part
    kind: str  # of table, see `sources.KINDS`
    times: float  # how often in the step
    choice: tuple[tuple[str, Any], ...]
    """Column -> value; a tuple: the first alternative that is found; a frozenset: the fastest of them."""
    sizes: tuple[tuple[str, float], ...]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What a step of the whole replica does; means over many steps serve as well."""

    decode_n: float  # sequences that get their next token
    context_tok: float  # cached tokens of each of them
    prompt_n: float = 0.0  # prompts, or chunks of them, computed beside
    prompt_tok: float = 0.0  # tokens of each
    padded: float = 0.0  # tokens computed for nothing, to fill a recorded graph; they attend to nothing


def operators(d: Deployment, step: Step) -> tuple[Operator, ...]:
    """Return the operators of `step` on one device of `d`; both may not be empty.

    Valid for grouped and latent attention with or without sliding windows, dense and with experts, split by
    tensors, experts and attention ranks. A token is spread evenly over the ranks; a rank that decodes has one
    sequence at least.

    Raises:
        OffGrid: the architecture has layers that no table here holds, or runs in pipeline stages.
    """
    _known(d.architecture)
    if d.pp > 1:
        raise OffGrid(f"{d.pp} pipeline stages are not walked")
    prompt_tok = step.prompt_n * step.prompt_tok
    tokens = max((step.decode_n + prompt_tok + step.padded) / d.attn_dp, 1.0)
    return (
        *_attention(d, step, tokens),
        *_feed_forward(d, tokens),
        *_head(d, (step.decode_n + step.prompt_n) / d.attn_dp),
        *_links(d, tokens),
    )


def _known(a: Architecture) -> None:
    if a.linear_layers:
        raise OffGrid(f"{a.name} has {a.linear_layers} layers of linear attention, which is not walked")
    latent = (a.kv_lora_rank, a.qk_rope_dim, a.qk_nope_dim, a.v_head_dim)
    if a.kv_lora_rank and latent != (_LATENT, _ROTATED, _VALUES, _VALUES):
        raise OffGrid(f"{a.name}: latent attention of sizes {latent} was not timed")
    if a.moe_layers < a.layers and not a.ffn_dense:
        raise OffGrid(f"{a.name}: the width of its dense feed-forward is not recorded")
    if a.experts and (not a.ffn_expert or a.expert_width != a.hidden):
        raise OffGrid(f"{a.name}: experts between projections, or of unknown width, are not walked")


def _attention(d: Deployment, step: Step, tokens: float) -> Iterator[Operator]:
    a = d.architecture
    heads = max(a.heads // d.tp, 1)
    # Rows do not say how a cache is kept beside quantised weights, and no engine is run with the slower way.
    cache = frozenset(("fp8", "bfloat16")) if d.kv_bits <= 8.0 else "bfloat16"
    decode_n = max(step.decode_n / d.attn_dp, 1.0) if step.decode_n else 0.0
    prompt_n = max(step.prompt_n / d.attn_dp, 1.0) if step.prompt_n else 0.0
    prompt_tok = max(step.prompt_tok, 1.0)
    if a.kv_lora_rank:
        query = heads * (a.qk_nope_dim + a.qk_rope_dim)
        yield _product(d, a.layers, tokens, _QUERY_RANK + a.kv_lora_rank + a.qk_rope_dim, a.hidden)
        yield _product(d, a.layers, tokens, query, _QUERY_RANK)
        yield _product(d, a.layers, tokens, a.hidden, heads * a.v_head_dim)
        choice = {"num_heads": heads, "kv_cache_dtype": cache}
        if decode_n:
            for name in ("mla_gen_pre", "mla_gen_post"):
                absorbed = {"op_name": name, "bmm_dtype": "bfloat16", "num_heads": heads}
                yield _op("products", "mla_bmm", a.layers, absorbed, num_tokens=decode_n)
            sizes = {"batch_size": decode_n, "step": step.context_tok}
            yield _op("attention", "generation_mla", a.layers, choice, **sizes)
        if prompt_n:
            expanded = heads * (a.qk_nope_dim + a.v_head_dim)
            yield _product(d, a.layers, prompt_n * prompt_tok, expanded, a.kv_lora_rank)
            yield _op("prompts", "context_mla", a.layers, choice, isl=prompt_tok, batch_size=prompt_n)
        return
    kv_heads = max(a.kv_heads // d.tp, 1)
    yield _product(d, a.layers, tokens, (heads + 2 * kv_heads) * a.head_dim, a.hidden)
    yield _product(d, a.layers, tokens, a.hidden, heads * a.head_dim)
    grouped = {
        "num_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": a.head_dim,
        "kv_cache_dtype": cache,
    }
    for layers, window in ((a.growing_layers, 0), (a.window_layers, a.window_tok)):
        seen = {**grouped, "window_size": window}
        if layers and decode_n:
            sizes = {"batch_size": decode_n, "step": step.context_tok}
            yield _op("attention", "generation_attention", layers, seen, **sizes)
        if layers and prompt_n:
            wide = {**seen, "attn_dtype": "bfloat16"}
            yield _op("prompts", "context_attention", layers, wide, isl=prompt_tok, batch_size=prompt_n)


def _feed_forward(d: Deployment, tokens: float) -> Iterator[Operator]:
    a = d.architecture
    dense = a.layers - a.moe_layers
    if dense:
        yield from _gated(d, dense, tokens, a.ffn_dense)
    if not a.moe_layers:
        return
    widest = max(d.ep, d.attn_dp)
    if widest > _WIDEST:
        raise OffGrid(f"experts over {widest} devices: engines then run other kernels than those timed")
    # The router is computed in 16 bits, whole on each device.
    yield _op("products", "gemm", a.moe_layers, _WIDE, n=a.experts, k=a.hidden, m=tokens)
    if a.shared_experts:
        yield from _gated(d, a.moe_layers, tokens, a.shared_experts * a.ffn_expert)
    choice = {
        "moe_dtype": _expert_dtypes(d),
        "hidden_size": a.hidden,
        "inter_size": a.ffn_expert,
        "topk": a.active_experts,
        "num_experts": a.experts,
        "moe_tp_size": d.stage_gpus // d.ep,
        "moe_ep_size": d.ep,
        "distribution": _SKEWED,
    }
    yield _op("experts", "moe", a.moe_layers, choice, num_tokens=tokens * d.attn_dp)


def _gated(d: Deployment, layers: float, tokens: float, width: int) -> Iterator[Operator]:
    share = max(width // d.tp, 1)
    yield _product(d, layers, tokens, _GATED * share, d.architecture.hidden)
    yield _product(d, layers, tokens, d.architecture.hidden, share)


def _head(d: Deployment, sequences: float) -> Iterator[Operator]:
    a = d.architecture
    yield _op("products", "gemm", 1.0, _WIDE, n=a.vocab / d.tp, k=a.hidden, m=max(sequences, 1.0))


def _links(d: Deployment, tokens: float) -> Iterator[Operator]:
    """Yield what devices tell each other: sums over a tensor group, and between attention ranks a gathering
    of all tokens before the experts and a scattering of their sums after, or, beyond a node, all-to-all.
    Message sizes count elements."""
    a = d.architecture
    if d.tp > 1:
        sums = _PER_LAYER * a.layers if d.attn_dp == 1 else a.layers
        yield _op("links", "custom_allreduce", sums, {"num_gpus": d.tp}, message_size=tokens * a.hidden)
    if d.attn_dp == 1 or not a.moe_layers:
        return
    if d.stage_gpus <= d.accelerator.gpus_per_node:
        for name in ("all_gather", "reduce_scatter"):
            gathered = {"op_name": name, "nccl_dtype": "half", "num_gpus": d.stage_gpus}
            yield _op("links", "nccl", a.moe_layers, gathered, message_size=tokens * d.attn_dp * a.hidden)
        return
    for name in ("alltoall_dispatch", "alltoall_combine"):
        sent = {
            "op_name": name,
            "moe_dtype": ("fp8", "bfloat16"),
            "hidden_size": a.hidden,
            "topk": a.active_experts,
            "num_experts": a.experts,
            "moe_ep_size": d.stage_gpus,
        }
        yield _op("links", "trtllm_alltoall", a.moe_layers, sent, num_tokens=tokens)


def _product(d: Deployment, layers: float, tokens: float, n: float, k: float) -> Operator:
    return _op("products", "gemm", layers, {"gemm_dtype": _dense_dtypes(d)}, n=n, k=k, m=tokens)


def _dense_dtypes(d: Deployment) -> tuple[str, ...]:
    """Return the formats of matrices that every token reads, the likeliest first: checkpoints of mixtures
    scale 8 bits by blocks, dense ones by tensors."""
    if d.dense_bits > 8.0:
        return ("bfloat16",)
    if d.weight_only:
        raise OffGrid(f"products with weights that are unpacked from {d.dense_bits:g} bits were not timed")
    if d.dense_bits > 4.0:
        return ("fp8_block", "fp8") if d.architecture.experts else ("fp8", "fp8_block")
    return ("nvfp4",)


def _expert_dtypes(d: Deployment) -> tuple[str, ...]:
    if d.weight_bits > 8.0:
        return ("bfloat16",)
    if d.weight_bits > 4.0:
        if d.weight_only:
            raise OffGrid(f"experts that are unpacked from {d.weight_bits:g} bits were not timed")
        return ("fp8_block", "fp8")
    if "gpt-oss" in d.architecture.name:
        return ("w4a8_mxfp4_mxfp8", "w4a16_mxfp4")
    return ("int4_wo",) if d.flop_bits == 16.0 else ("nvfp4", "int4_wo")


def _op(part: Part, kind: str, times: float, choice: Mapping[str, Any], **sizes: float) -> Operator:
    return Operator(
        part=part, kind=kind, times=times, choice=tuple(choice.items()), sizes=tuple(sizes.items())
    )
