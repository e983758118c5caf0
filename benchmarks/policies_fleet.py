"""The declared factory on which `policies.py` compares policies: six places that serve one model,
gpt-oss-120b.

Three are owned: continuous batches whose step law was set by hand so that it lies near public measurements
(InferenceX dumps, concurrency 4 to 128, 1,024 and 8,192 prompt tokens; Apache-2.0, ai-dynamo/aiconfigurator):

| place | law at context 1,536: TPOT ms at batch 8 / 32 / 64 | measured, 1k in, 1k out | prompt µs/token |
|---|---|---|---|
| owned-h100x2 (TP 2) | 5.9 / 9.8 / 15.0 | 8k in: 7.4 / 16.5 / - (prompts of others included) | 30 |
| owned-h200 (TP 1) | 8.0 / 14.0 / 22.1 | 8.5 / 15.3 / 20.5 | 38 |
| owned-b200 (TP 1) | 4.6 / 6.8 / 9.7 | 4.4 / 7.9 / 10.5 | 12 |

Three are bought: their prices are list prices of November 2026 (genai-prices 0.2.3: novita; groq, fireworks;
cerebras), their speeds and limits of concurrency are declared, not measured. Owned prices are the rent of the
GPUs (H100 1.30, H200 1.41, B200 1.95 USD an hour, SemiAnalysis InferenceX, April 2026) over what the law can
serve of Azure's conversations at 60 % use. Carbon is Google's yearly grid figure of 2024 of the region
(GoogleCloudPlatform/region-carbon-info, Apache-2.0); joules per token are all-in kilowatts (1.73 and 2.17 a
GPU, same source) over the law's own speed; bought places declare neither, so nobody knows their grams.
"""

from __future__ import annotations

from wattmill.scheduling.spec import Pool, Weights
from wattmill.twin.spec import Place, StepLaw, StreamLaw
from wattmill.units import NUSD_PER_USD, PS_PER_S, PS_PER_US

MODEL = "gpt-oss-120b"
CONTEXT_TOK = 131_072
_PS_PER_MS = 1_000 * PS_PER_US
_PS_PER_NS = PS_PER_US // 1_000


def _pool(
    name: str,
    *,
    privacy: str,
    region: str,
    slots: int,
    queue: int,
    usd_in: float,
    usd_cached: float | None,
    usd_out: float,
    prefill_tok_per_s: float,
    decode_tok_per_s: float,
    overhead_s: float,
    carbon_g_per_kwh: float | None = None,
    energy_j_per_in_tok: float | None = None,
    energy_j_per_tok: float | None = None,
) -> Pool:
    cached = {} if usd_cached is None else {MODEL: round(usd_cached * NUSD_PER_USD)}
    return Pool(
        name=name,
        models=frozenset([MODEL]),
        capabilities=frozenset(["chat"]),
        context_tok=CONTEXT_TOK,
        privacy=privacy,
        region=region,
        slots=slots,
        queue=queue,
        charge_in_nusd_per_mtok={MODEL: round(usd_in * NUSD_PER_USD)},
        charge_cached_nusd_per_mtok=cached,
        charge_out_nusd_per_mtok={MODEL: round(usd_out * NUSD_PER_USD)},
        prefill_tok_per_s=prefill_tok_per_s,
        decode_tok_per_s=decode_tok_per_s,
        overhead_s=overhead_s,
        carbon_g_per_kwh=carbon_g_per_kwh,
        energy_j_per_in_tok=energy_j_per_in_tok,
        energy_j_per_tok=energy_j_per_tok,
    )


def _owned(
    name: str,
    *,
    region: str,
    slots: int,
    usd_in: float,
    usd_cached: float,
    usd_out: float,
    step_ms: float,
    decode_us: int,
    kv_ns: int,
    prefill_us: int,
    attention_ps: int,
    kv_tok: int,
    cache_blocks: int,
    overhead_s: float,
    watts: float,
    carbon_g_per_kwh: float,
) -> Place:
    alone_s = step_ms / 1_000 + decode_us / 1e6
    full_tok_per_s = slots / (step_ms / 1_000 + slots * decode_us / 1e6)
    pool = _pool(
        name,
        privacy="private",
        region=region,
        slots=slots,
        queue=slots,
        usd_in=usd_in,
        usd_cached=usd_cached,
        usd_out=usd_out,
        prefill_tok_per_s=round(1e6 / prefill_us),
        decode_tok_per_s=round(1 / alone_s),
        overhead_s=overhead_s,
        carbon_g_per_kwh=carbon_g_per_kwh,
        energy_j_per_in_tok=watts * prefill_us / 1e6,
        energy_j_per_tok=watts / full_tok_per_s,
    )
    law = StepLaw(
        step_ps=round(step_ms * _PS_PER_MS),
        decode_ps=decode_us * PS_PER_US,
        kv_ps_per_tok=kv_ns * _PS_PER_NS,
        prefill_ps_per_tok=prefill_us * PS_PER_US,
        attention_ps_per_ktok=attention_ps,
        kv_tok=kv_tok,
        cache_blocks=cache_blocks,
    )
    return Place(pool=pool, law=law, overhead_ps=round(overhead_s * PS_PER_S))


def _bought(
    name: str,
    *,
    privacy: str,
    slots: int,
    usd_in: float,
    usd_out: float,
    prefill_tok_per_s: int,
    decode_tok_per_s: int,
    overhead_s: float,
) -> Place:
    pool = _pool(
        name,
        privacy=privacy,
        region="",
        slots=slots,
        queue=slots,
        usd_in=usd_in,
        usd_cached=None,
        usd_out=usd_out,
        prefill_tok_per_s=prefill_tok_per_s,
        decode_tok_per_s=decode_tok_per_s,
        overhead_s=overhead_s,
    )
    law = StreamLaw(prefill_ps_per_tok=PS_PER_S // prefill_tok_per_s, decode_ps=PS_PER_S // decode_tok_per_s)
    return Place(pool=pool, law=law, overhead_ps=round(overhead_s * PS_PER_S))


PLACES: tuple[Place, ...] = (
    _owned(
        "owned-h100x2",
        region="us-east4",
        slots=64,
        usd_in=0.04,
        usd_cached=0.004,
        usd_out=0.27,
        step_ms=4.2,
        decode_us=155,
        kv_ns=9,
        prefill_us=30,
        attention_ps=400_000,
        kv_tok=1_000_000,
        cache_blocks=600,
        overhead_s=0.03,
        watts=2 * 1_730.0,
        carbon_g_per_kwh=323.05,
    ),
    _owned(
        "owned-h200",
        region="us-central1",
        slots=64,
        usd_in=0.03,
        usd_cached=0.003,
        usd_out=0.20,
        step_ms=6.0,
        decode_us=232,
        kv_ns=12,
        prefill_us=38,
        attention_ps=500_000,
        kv_tok=800_000,
        cache_blocks=400,
        overhead_s=0.05,
        watts=1_730.0,
        carbon_g_per_kwh=412.72,
    ),
    _owned(
        "owned-b200",
        region="europe-north1",
        slots=128,
        usd_in=0.013,
        usd_cached=0.0013,
        usd_out=0.085,
        step_ms=3.9,
        decode_us=80,
        kv_ns=7,
        prefill_us=12,
        attention_ps=220_000,
        kv_tok=1_400_000,
        cache_blocks=800,
        overhead_s=0.12,
        watts=2_170.0,
        carbon_g_per_kwh=39.32,
    ),
    _bought(
        "bought-budget",
        privacy="public",
        slots=16,
        usd_in=0.05,
        usd_out=0.25,
        prefill_tok_per_s=8_000,
        decode_tok_per_s=80,
        overhead_s=0.35,
    ),
    _bought(
        "bought-standard",
        privacy="internal",
        slots=16,
        usd_in=0.15,
        usd_out=0.60,
        prefill_tok_per_s=25_000,
        decode_tok_per_s=300,
        overhead_s=0.20,
    ),
    _bought(
        "bought-fast",
        privacy="internal",
        slots=8,
        usd_in=0.35,
        usd_out=0.75,
        prefill_tok_per_s=50_000,
        decode_tok_per_s=1_500,
        overhead_s=0.15,
    ),
)

REFUSED_USD = 0.05
"""What a refused request costs in the comparison: more than serving the longest one at the dearest place."""

WEIGHTS = Weights(others=1.0, refusal_usd=REFUSED_USD)
"""What the comparison counts, declared: a second is worth 0.0001 USD, of others as of its own, and a refusal
costs what the score counts for one. All else is as the gateway has it."""


PRIVACY_SHARES = {"public": 0.25, "internal": 0.60, "private": 0.15}
"""Declared; the traces do not say. Private work may only go to owned places."""
