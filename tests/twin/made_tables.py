"""A made-up wheel: the tables' columns, with times that are powers of their sizes: sums come out by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wattmill.twin.operators.sources import KINDS, LATENCY, Wheel, table

SYSTEM, ENGINE = "h100_sxm", "vllm"

MS = {
    "gemm": lambda n, k, m: 1e-12 * n * k * max(m, 1.0) ** 0.5,
    "generation_attention": lambda b, s: 1e-6 * b * (s + 1.0) ** 0.5,
    "context_attention": lambda isl, b: 1e-8 * b * isl**1.5,
    "generation_mla": lambda b, s: 2e-6 * b * (s + 1.0) ** 0.5,
    "context_mla": lambda isl, b: 2e-8 * b * isl**1.5,
    "mla_bmm": lambda t: 1e-6 * t,
    "moe": lambda t: 1e-4 * t**0.5,
    "custom_allreduce": lambda x: 1e-9 * x,
    "nccl": lambda x: 2e-9 * x,
}
"""Milliseconds by sizes, in the order of the kind's axes. Powers are straight lines in logarithms: what lies
between two measured points is then exact (the step is shifted by one, see `tables`)."""

SIZES = {
    "n": (32, 1024, 65536),
    "k": (32, 1024, 65536),
    "m": (1, 64, 32768),
    "batch_size": (1, 16, 2048),
    "step": (1, 1023, 131071),
    "isl": (1, 128, 16384),
    "num_tokens": (1, 64, 16384),
    "message_size": (128, 1048576, 268435456),
}

CHOICES: dict[str, list[dict[str, Any]]] = {
    "gemm": [{"gemm_dtype": name} for name in ("bfloat16", "fp8", "fp8_block")],
    "generation_attention": [
        {"num_heads": h, "num_key_value_heads": k, "head_dim": 128, "kv_cache_dtype": "fp8", "window_size": 0}
        for h, k in ((8, 1), (64, 8), (32, 8))
    ],
    "context_attention": [
        {
            "num_heads": h,
            "num_key_value_heads": k,
            "head_dim": 128,
            "kv_cache_dtype": "fp8",
            "attn_dtype": "bfloat16",
            "window_size": 0,
        }
        for h, k in ((8, 1), (64, 8), (32, 8))
    ],
    "generation_mla": [{"num_heads": 16, "kv_cache_dtype": "fp8"}],
    "context_mla": [{"num_heads": 16, "kv_cache_dtype": "fp8"}],
    "mla_bmm": [
        {"op_name": name, "bmm_dtype": "bfloat16", "num_heads": 16}
        for name in ("mla_gen_pre", "mla_gen_post")
    ],
    "moe": [
        {
            "moe_dtype": "fp8_block",
            "hidden_size": 7168,
            "inter_size": 2048,
            "topk": 8,
            "num_experts": 256,
            "moe_tp_size": tp,
            "moe_ep_size": ep,
            "distribution": "power_law_1.01",
        }
        for tp, ep in ((8, 1), (1, 8))
    ],
    "custom_allreduce": [{"num_gpus": 8}],
    "nccl": [
        {"op_name": name, "nccl_dtype": "half", "num_gpus": 8} for name in ("all_gather", "reduce_scatter")
    ],
}


def columns_of(kind: str) -> dict[str, list[Any]]:
    """Return one made table: every choice at every size."""
    axes = KINDS[kind].axes
    rows = []
    for choice in CHOICES[kind]:
        for sizes in itertools.product(*(SIZES[axis] for axis in axes)):
            rows.append({**choice, **dict(zip(axes, sizes, strict=True)), LATENCY: MS[kind](*sizes)})
    return {name: [row[name] for row in rows] for name in (*KINDS[kind].choices, *axes, LATENCY)}


def read(file: Path, names: Sequence[str]) -> Mapping[str, Any]:
    """Read what `made` wrote: the schema of the wheel, in JSON in the place of parquet."""
    with file.open(encoding="utf-8") as opened:
        found = json.load(opened)
    return {name: np.array(found[name]) for name in names}


def made(folder: Path) -> Wheel:
    """Write a wheel's folder with one system's tables, and beside them what must never be opened."""
    data = folder / "systems" / "data"
    for kind in CHOICES:
        path = table(kind, SYSTEM, ENGINE)
        assert path is not None
        file = data / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(columns_of(kind)), encoding="utf-8")
        (file.parent / "silicon_sample.csv").write_text("model,value\nsecret,1\n", encoding="utf-8")
    (folder / "systems" / "silicon_sample.csv").write_text("model,value\nsecret,1\n", encoding="utf-8")
    return Wheel(data, read)
