"""What a declared deployment could do at most: peaks and sizes from the catalogues, for MFU and MBU."""

from __future__ import annotations

import msgspec

from wattmill.app.declared.deployment import deployment_of
from wattmill.app.declared.plan import Place
from wattmill.app.declared.twin_settings import DeploymentTimes
from wattmill.app.efficiency.spec import PlaceSeen

_BITS_PER_BYTE = 8.0


def with_hardware(seen: PlaceSeen, place: Place, declared: DeploymentTimes, *, replicas: int) -> PlaceSeen:
    """Return `seen` with its devices and their peaks; unchanged where the catalogues do not know them."""
    try:
        deployment = deployment_of(declared)
        flop_per_s = deployment.accelerator.flop_per_s(deployment.flop_bits)
    except (LookupError, ValueError):
        return seen
    devices = deployment.gpus * replicas
    sizes = deployment.architecture
    return msgspec.structs.replace(
        seen,
        accelerators=devices,
        peak_flop_per_s=flop_per_s * devices,
        peak_bytes_per_s=deployment.accelerator.bandwidth_bytes_per_s * devices,
        flop_per_tok=sizes.linear_flop_per_tok,
        weight_bytes=sizes.params * declared.weight_bits / _BITS_PER_BYTE,
        kv_bytes_per_tok=deployment.distinct_kv_bytes_per_tok,
    )
