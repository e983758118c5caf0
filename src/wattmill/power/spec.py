"""What a host is, as far as its power goes."""

from __future__ import annotations

import msgspec


class HostPower(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the host model, declared and not measured: P = idle + (max - idle) x u ** alpha.

    `u` is the busy share of all cores, 0 to 1. The last step of the ladder of meters: used where no counter
    can be read, and labelled `modelled` with these parameters wherever a number from it is shown.
    """

    idle_w: float = 20.0
    max_w: float = 65.0
    alpha: float = 1.0
    cores: int = 1
