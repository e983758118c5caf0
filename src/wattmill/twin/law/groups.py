"""Which groups a configuration belongs to: whose deviations it takes, and whose scatter."""

from __future__ import annotations

from math import log2

from wattmill.models.architecture import Architecture
from wattmill.models.deployment import Deployment
from wattmill.twin.law.rows import Configuration


def kind(a: Architecture) -> str:
    """Return what sort of kernels a model runs: `dense`, `moe`, or `latent` (both mostly with experts)."""
    if a.kv_lora_rank:
        return "latent"
    return "moe" if a.experts else "dense"


def deployment_groups(d: Deployment) -> tuple[str, ...]:
    """Return the levels of the law, from what is shared by many to what is shared by few.

    An accelerator or a model that was never seen still belongs to its engine, kind and number format.
    """
    model, gpu, engine, bits = d.architecture.name, d.accelerator.name, d.engine, f"{d.weight_bits:g}"
    sort = kind(d.architecture)
    return (
        f"gpu={gpu}",
        f"engine={engine}",
        f"gpu={gpu} engine={engine}",
        f"kind={sort}",
        f"kind={sort} engine={engine}",
        f"bits={bits}",
        f"gpu={gpu} bits={bits}",
        f"engine={engine} bits={bits}",
        f"model={model} engine={engine}",
        f"model={model} engine={engine} bits={bits}",
    )


def law_groups(c: Configuration) -> tuple[str, ...]:
    """Return the deployment's groups, and what its version, disaggregation or a guess at its workers add."""
    groups = deployment_groups(c.deployment(c.decode))
    if c.version:
        groups = (*groups, f"model={c.architecture.name} engine={c.engine} version={c.version}")
    if {"workers", "tp"} & set(c.missing):
        return (*groups, "workers=unknown", f"workers=unknown engine={c.engine}")
    if c.disaggregated:
        return (*groups, "mode=disagg", f"mode=disagg engine={c.engine}")
    return groups


def scatter_groups(c: Configuration) -> tuple[str, ...]:
    """Return the groups whose errors differ in size: the interval of a row is made from them."""
    return (
        f"engine={c.engine}",
        f"model={c.architecture.name}",
        f"gpu={c.accelerator.name}",
        f"model={c.architecture.name} engine={c.engine}",
        f"gpu={c.accelerator.name} engine={c.engine}",
        f"bits={c.weight_bits:g}",
        f"isl={round(log2(c.isl))}",
        f"osl={round(log2(c.osl))}",
        f"concurrency={round(log2(max(c.concurrency, 1)))}",
        f"engine={c.engine} concurrency={round(log2(max(c.concurrency, 1)) / 2)}",
        f"split={c.decode.tp}/{c.decode.ep}/{c.decode.attn_dp}",
        f"disagg={c.disaggregated}",
        f"client={c.known_client}",
    )
