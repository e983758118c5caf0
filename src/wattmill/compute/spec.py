"""What an accelerator is: the figures of one part, per device, dense (no structured sparsity)."""

from __future__ import annotations

import msgspec


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """One device as its maker sells it. Absent figures are `None`: not published, or no such unit.

    Where sources disagree, the figure used stands in the field (the lower one) and all of them in `notes`;
    nothing is averaged.
    """

    name: str
    vendor: str
    part: str  # the maker's words
    bf16_flop_per_s: float | None
    fp8_flop_per_s: float | None
    fp4_flop_per_s: float | None
    memory_bytes: float  # usable, where two capacities are known
    bandwidth_bytes_per_s: float
    link_bytes_per_s: float | None  # scale-up fabric, one direction, per device
    gpus_per_node: int
    scale_up_gpus: int  # devices that reach each other over that fabric
    tdp_w: float | None
    predicted: bool  # False: listed only; the step-time law refuses it
    verified: bool  # False: a press page, a third party or memory says so
    source: str
    as_of: str
    notes: str = ""

    def flop_per_s(self, bits: float) -> float:
        """Return the dense peak for operands of `bits`; a width without its own unit runs on the next wider.

        Raises:
            ValueError: the part has no figure at all for 16 bits and above.
        """
        if bits <= 4 and self.fp4_flop_per_s is not None:
            return self.fp4_flop_per_s
        if bits <= 8 and self.fp8_flop_per_s is not None:
            return self.fp8_flop_per_s
        if self.bf16_flop_per_s is None:
            raise ValueError(
                f"{self.name} has no published dense figure at {bits:g} bits ({self.notes}); "
                "declare one in the catalogue, or choose another accelerator"
            )
        return self.bf16_flop_per_s
