"""The deployment that a pool declares, as the layers below have it: sizes and peaks looked up by name."""

from __future__ import annotations

from wattmill.app.declared.twin_settings import DeploymentTimes
from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.models.graphs import sizes_of
from wattmill.units import B_PER_GB


def deployment_of(declared: DeploymentTimes, *, max_num_seqs: int = 256) -> Deployment:
    """Return the deployment that is declared, whose engine runs `max_num_seqs` requests at once.

    Raises:
        LookupError: the catalogues do not know the accelerator or the model.
        ValueError: the parts do not fit together.
    """
    stage = declared.stage_gb_per_s
    return Deployment(
        architecture=architecture(declared.model),
        accelerator=accelerator(declared.accelerator),
        engine=declared.engine,
        weight_bits=declared.weight_bits,
        kv_bits=declared.kv_bits,
        tp=declared.tp,
        ep=declared.ep,
        attn_dp=declared.attn_dp,
        pp=declared.pp,
        graph_sizes=sizes_of(declared.graph_sizes, declared.engine, max_num_seqs=max_num_seqs),
        stage_link_bytes_per_s=None if stage is None else stage * B_PER_GB,
    )
