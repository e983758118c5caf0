"""A meter as it is declared: where it is read, what it stands for, what it draws at rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.app.declared.pool_settings import Name
from wattmill.power import tree
from wattmill.power.spec import MeterConfig

Unit = Literal["J", "mJ", "uJ", "kWh", "W", "mW"]


class MeterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One meter of power. Without any, joules come from the model under `[host]` and say so.

    Meters form a tree: name under `parent` the meter that sees these joules too. What a meter sees beyond
    those below it is the host's share (a node around its chips) or overhead (a rack, a site)."""

    source: Annotated[
        str,
        Meta(
            min_length=1,
            description="How it is read: `rapl` (CPU packages), `nvml` (NVIDIA chips), `zeus` (NVIDIA, AMD, "
            "Apple; extra `meters`), `redfish`, `dcmi` (ipmitool), `exporter` (a Prometheus page: DCGM, "
            "Kepler, any), `promql` (a Prometheus server), `replay` (a CSV file), or an installed package's "
            "entry point in the group `wattmill.meters`.",
            examples=["rapl"],
        ),
    ]
    level: Annotated[Literal["chip", "node", "rack", "site"], Meta(description="How much it stands for.")] = (
        "node"
    )
    parent: Annotated[Name | None, Meta(description="The meter that contains it.")] = None
    pools: Annotated[
        list[Name],
        Meta(
            description="Pools whose engines it feeds. Empty, and no meter below it: its joules go by CPU "
            "time to the engines of this machine.",
            examples=[["local"]],
        ),
    ] = []
    at: Annotated[
        str,
        Meta(
            description="URL (redfish, exporter, promql), file (replay), folder (rapl), library (nvml) or "
            "program (dcmi). Empty: the usual one of this machine."
        ),
    ] = ""
    query: Annotated[
        str,
        Meta(
            description="exporter: a series with labels, or `dcgm`, `dcgm-power`, `kepler`. promql: an "
            "expression. nvml, zeus: chips by index. dcmi: arguments of ipmitool.",
            examples=["dcgm"],
        ),
    ] = ""
    unit: Annotated[Unit | None, Meta(description="Of what a series or query says.")] = None
    authorization_env: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None,
        Meta(description="Environment variable with the whole `authorization` header of an HTTP meter."),
    ] = None
    ca_file: Annotated[
        str | None,
        Meta(
            description="PEM file of authorities to trust over https, or the certificate of a controller "
            "that signed its own. Absent: the system's."
        ),
    ] = None
    idle_w: Annotated[
        float,
        Meta(
            ge=0,
            description="What it shows while nobody is served, meters below it included: measure it with "
            "`wattmill meters idle`. It is booked to an account of its own.",
        ),
    ] = 0.0
    max_w: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="More is not believed: tells a counter that ran over from one that began again."),
    ] = None
    period_s: Annotated[float, Meta(ge=0.1, le=3600, description="How often it is read.")] = 1.0
    timeout_s: Annotated[float, Meta(gt=0, le=60, description="How long an answer may take.")] = 2.0

    def config(self, name: str, env: Mapping[str, str]) -> MeterConfig:
        """Return what its source needs; the value of a secret comes from the environment, never from here."""
        secret = env.get(self.authorization_env, "") if self.authorization_env else ""
        return MeterConfig(
            name=name, source=self.source, level=self.level, parent=self.parent, pools=tuple(self.pools),
            at=self.at, query=self.query, unit=self.unit or "", idle_w=self.idle_w, max_w=self.max_w,
            headers={"authorization": secret} if secret else {}, period_s=self.period_s,
            timeout_s=self.timeout_s, ca_file=self.ca_file,
        )  # fmt: skip

    @property
    def is_remote(self) -> bool:
        """Whether reading it may take long: it is asked by a thread of its own."""
        return self.source == "dcmi" or self.at.startswith(("http://", "https://"))


def configs(meters: Mapping[str, MeterSettings], env: Mapping[str, str]) -> list[MeterConfig]:
    return [meter.config(name, env) for name, meter in meters.items()]


def faults(
    meters: Mapping[str, MeterSettings], pools: Mapping[str, object]
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield (place in the declaration, rule, value) of what cannot hold."""
    if "host" in meters:
        yield ("meters", "host"), "must have another name: the model under `[host]` has it", '"host"'
    for name, field, rule in tree.faults(configs(meters, {})):
        yield ("meters", name, field), rule, repr(getattr(meters[name], field))
    for name, meter in meters.items():
        for pool in meter.pools:
            if pool not in pools:
                yield ("meters", name, "pools"), f"must be declared pools: {', '.join(pools)}", f'"{pool}"'
