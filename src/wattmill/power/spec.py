"""What a host is, as far as its power goes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from wattmill.vocab.meter import Level, MeterSpec
from wattmill.vocab.usage import Provenance


class HostPower(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the host model, declared and not measured: P = idle + (max - idle) x u ** alpha.

    `u` is the busy share of all cores, 0 to 1. The last step of the ladder of meters: used where no counter
    can be read, and labelled `modelled` with these parameters wherever a number from it is shown.
    """

    idle_w: float = 20.0
    max_w: float = 65.0
    alpha: float = 1.0
    cores: int = 1


class MeterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One meter as it is declared: where it is read, what it stands for, and what it draws at rest."""

    name: str
    source: str  # name of an entry point of `wattmill.meters`
    level: Level = "node"
    parent: str | None = None
    pools: tuple[str, ...] = ()  # whose engines it feeds; none: the CPU's, split by CPU time
    at: str = ""  # URL, file or folder, as the source asks
    query: str = ""
    unit: str = ""  # of what a query or a file says: W, J, mJ, ...; "": as the source says by itself
    headers: Mapping[str, str] = {}
    idle_w: float = 0.0  # measured beforehand, with nobody served: `wattmill meters idle`
    max_w: float | None = None
    period_s: float = 1.0
    timeout_s: float = 2.0
    ca_file: str | None = None  # authorities to trust over https; None: the system's

    def spec(
        self, source: str, *, provenance: Provenance = "measured", resolution_uj: int | None = None
    ) -> MeterSpec:
        return MeterSpec(
            name=self.name,
            level=self.level,
            parent=self.parent,
            provenance=provenance,
            source=source,
            resolution_uj=resolution_uj,
            period_s=self.period_s,
            max_w=self.max_w,
        )
