"""What a declared deployment could do at most: peaks and sizes from the catalogues, for MFU and MBU."""

from __future__ import annotations

import msgspec

from wattmill.app.declared.plan import Place
from wattmill.app.declared.twin_settings import DeploymentTimes
from wattmill.app.efficiency.spec import PlaceSeen
from wattmill.compute.catalogue import accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment

_BITS_PER_BYTE = 8.0


def with_hardware(seen: PlaceSeen, place: Place, declared: DeploymentTimes, *, replicas: int) -> PlaceSeen:
    """Return `seen` with its devices and their peaks; unchanged where the catalogues do not know them."""
    try:
        device, sizes = accelerator(declared.accelerator), architecture(declared.model)
        deployment = Deployment(
            architecture=sizes,
            accelerator=device,
            engine=declared.engine,
            weight_bits=declared.weight_bits,
            kv_bits=declared.kv_bits,
            tp=declared.tp,
            ep=declared.ep,
            attn_dp=declared.attn_dp,
        )
        flop_per_s = device.flop_per_s(deployment.flop_bits)
    except (LookupError, ValueError):
        return seen
    devices = deployment.gpus * replicas
    elements = sizes.kv_elements_per_layer * sizes.growing_layers
    return msgspec.structs.replace(
        seen,
        accelerators=devices,
        peak_flop_per_s=flop_per_s * devices,
        peak_bytes_per_s=device.bandwidth_bytes_per_s * devices,
        flop_per_tok=2.0 * sizes.active_params,
        weight_bytes=sizes.params * declared.weight_bits / _BITS_PER_BYTE,
        kv_bytes_per_tok=elements * declared.kv_bits / _BITS_PER_BYTE,
    )
