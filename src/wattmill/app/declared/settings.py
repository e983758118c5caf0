"""What a factory is: the declaration `wattmill.toml`, decoded once into frozen values.

Each field carries its unit in its name, its default, its rule and its description; the JSON schema and the
reference page are made from here. `app.declaration` reads files, `app.plan` turns settings into the values
that a worker needs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.app.batches.spec import BatchSettings
from wattmill.app.declared.budget_settings import Budgets, LimitWords
from wattmill.app.declared.electricity_settings import Electricity
from wattmill.app.declared.flex_settings import FlexSettings
from wattmill.app.declared.kept_settings import Cache, Idempotency
from wattmill.app.declared.meter_settings import MeterSettings
from wattmill.app.declared.policy_named import NAME
from wattmill.app.declared.pool_settings import ModelName, Name, Pool, Privacy, Rates, Usd
from wattmill.app.declared.privacy_settings import PrivacySettings, Region
from wattmill.app.declared.tier_settings import AdmissionSettings, TierSettings
from wattmill.app.doors.spec import ResponseLimits
from wattmill.app.kept.spec import KeptLimits
from wattmill.app.runs.settings import RunawaySettings, RunSettings
from wattmill.distribution.resilience import Resilience
from wattmill.distribution.spec import Limits
from wattmill.models.spec import ModelCard, TokenizerBound
from wattmill.scheduling.cascade import Signals

Port = Annotated[int, Meta(ge=0, le=65_535)]
"""0 lets the kernel choose; the port that it chose is printed and stands in the data folder."""


PolicyName = Annotated[str, Meta(pattern=NAME)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Factory(_Section, frozen=True, kw_only=True):
    """The factory as a whole. All money is US dollars."""

    name: Annotated[str, Meta(min_length=1, max_length=64, description="What people call it.")] = "wattmill"
    console_team: Annotated[
        Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}/[a-z][a-z0-9_-]{0,31}$")] | None,
        Meta(
            description="`ORG/TEAM` for which `wattmill up` makes and prints a first key. Absent: none.",
            examples=["demo/first-light"],
        ),
    ] = None


class Tls(_Section, frozen=True, kw_only=True):
    """TLS on the data port: give both files, or neither."""

    cert_file: Annotated[str | None, Meta(description="PEM file with the certificate and its chain.")] = None
    key_file: Annotated[str | None, Meta(description="PEM file with the private key.")] = None


class Gateway(_Section, frozen=True, kw_only=True):
    """The data port: where clients send their requests."""

    host: Annotated[str, Meta(description="Address to listen on; 127.0.0.1 is this machine only.")] = (
        "127.0.0.1"
    )
    port: Annotated[Port, Meta(description="Port; 0 lets the kernel choose.")] = 8686
    workers: Annotated[int, Meta(ge=1, le=256, description="Gateway processes that share the port.")] = 1
    drain_s: Annotated[
        float, Meta(ge=0, le=3600, description="How long a stopping worker lets running answers finish.")
    ] = 30.0
    limits: Annotated[Limits, Meta(description="What one client may take.")] = Limits()
    tls: Annotated[Tls, Meta(description="TLS on this port.")] = Tls()


class Admin(_Section, frozen=True, kw_only=True):
    """The admin listener: API, board, metrics. Keep it on loopback; it needs the admin token in any case."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port; 0 lets the kernel choose.")] = 8687


class Journal(_Section, frozen=True, kw_only=True):
    """The append-only record that each worker writes before a request leaves."""

    sync_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="Longest time between a write and its fdatasync: what the death of the machine "
            "(not of a process) can lose, in milliseconds.",
        ),
    ] = 200
    segment_mib: Annotated[int, Meta(ge=1, le=4096, description="Size of one segment file, in MiB.")] = 64
    retention_h: Annotated[
        float,
        Meta(
            ge=0,
            description="How long a booked segment is kept, in hours; longer if `keep_decisions_days` says "
            "so. A segment that is not booked is never deleted.",
        ),
    ] = 72.0
    keep_decisions_days: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(
            description="How long routing decisions can be explained and replayed, in days, if longer than "
            "`retention_h`. They stand in the journal, some 0.5 kB a request, and are kept with it.",
            examples=[30],
        ),
    ] = None


class Ledger(_Section, frozen=True, kw_only=True):
    """The books and how far they may lag behind the journal."""

    alarm_backlog_records: Annotated[
        int, Meta(ge=1, description="Unbooked records from which an alarm is raised.")
    ] = 100_000
    refuse_backlog_records: Annotated[
        int, Meta(ge=1, description="Unbooked records from which new requests get 503 `ledger_backlog`.")
    ] = 1_000_000


class Host(_Section, frozen=True, kw_only=True):
    """Power model of this machine, for want of a meter: idle_w + (max_w - idle_w) x busy ** alpha.

    Declared, not measured: every figure made from it is labelled `modelled` with these parameters."""

    idle_w: Annotated[float, Meta(ge=0, description="Power when nothing runs, in watts.")] = 20.0
    max_w: Annotated[float, Meta(gt=0, description="Power when all cores are busy, in watts.")] = 65.0
    alpha: Annotated[float, Meta(gt=0, le=4, description="Shape between the two; 1 is a straight line.")] = (
        1.0
    )
    tariff_usd_per_kwh: Annotated[Usd, Meta(description="What a kilowatt-hour costs.", examples=["0.25"])] = (
        "0.25"
    )
    electricity: Annotated[
        Name | None,
        Meta(description="The `[electricity]` that this machine draws: its grams follow the joules."),
    ] = None
    idle_cost: Annotated[
        Literal["unallocated", "by_energy", "by_tokens"],
        Meta(
            description="Who bears idle joules in the attributional view: nobody, or the requests of that "
            "time by their own joules or their tokens. The marginal view leaves them out, and the books keep "
            "them apart."
        ),
    ] = "unallocated"
    region: Annotated[
        Region | None,
        Meta(description="Where this machine stands: the region of embedded engines.", examples=["eu"]),
    ] = None
    operator: Annotated[
        Region | None, Meta(description="Who runs this machine: the operator of embedded engines.")
    ] = None


class Model(_Section, frozen=True, kw_only=True):
    """What routing, reservation and pricing know of a model."""

    context_tok: Annotated[
        int, Meta(ge=64, description="Longest context that it was trained for, in tokens.")
    ]
    params: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="Number of parameters.")] = None
    kv_bytes_per_tok: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Size of the KV cache of one token, in bytes.")
    ] = None
    license: Annotated[str | None, Meta(description="Licence of the weights.")] = None
    source: Annotated[str, Meta(description="Where it comes from.")] = ""
    bound: Annotated[
        TokenizerBound, Meta(description="Upper bound on the tokens that a prompt can become.")
    ] = TokenizerBound()

    def card(self, name: str) -> ModelCard:
        """Return the card of this model under the name that clients use."""
        return ModelCard(
            name=name,
            context_tok=self.context_tok,
            params=self.params,
            kv_bytes_per_tok=self.kv_bytes_per_tok,
            license=self.license,
            source=self.source,
            bound=self.bound,
        )


class Routing(_Section, frozen=True, kw_only=True):
    """How a place is chosen among those that pass every hard rule."""

    policy: Annotated[
        PolicyName,
        Meta(
            description="`cheapest-adequate`: least expected dollars plus what the weights below value. "
            "`fastest`, `greenest`, `cascade` (the smallest model first, see `[routing.cascade]`), "
            "`round-robin`, `least-loaded`; or `package.module:function`, a policy of your own."
        ),
    ] = "cheapest-adequate"
    money: Annotated[
        Literal["charge", "cost"],
        Meta(
            description="Whose dollars count: `charge` is what the tenant pays, `cost` what the factory "
            "does. Where tiers pay the same price everywhere, only `cost` can tell places apart."
        ),
    ] = "charge"
    usd_per_s: Annotated[
        float,
        Meta(ge=0, description="What a second of waiting is worth, in dollars. Steers, is never booked."),
    ] = 0.00005
    expected_output_tok: Annotated[
        int, Meta(ge=1, description="Output length that is expected where a request allows at least so much.")
    ] = 128
    bound_tok_per_tok: Annotated[
        float,
        Meta(
            ge=1,
            description="How far the upper bound of a prompt lies above its real length. The bound counts "
            "bytes (it decides what is reserved); text has about 4 of them in a token (that steers).",
        ),
    ] = 4.0
    default_output_tok: Annotated[
        int,
        Meta(
            ge=1,
            description="Longest answer of a request that names no limit; reserved in full, then settled.",
        ),
    ] = 512
    usd_per_kg_co2: Annotated[
        float, Meta(ge=0, description="What a kilogram of CO2 that is not emitted is worth, in dollars.")
    ] = 0.0
    energy: Annotated[
        float,
        Meta(
            ge=0,
            description="What a dollar of electricity at this hour counts, beside the money above: 0 not at "
            "all. For where the money does not know the hour, as what tenants pay does not; with `cost` an "
            "owned place's own electricity is inside already.",
        ),
    ] = 0.0
    usd_per_quality: Annotated[
        float,
        Meta(ge=0, description="What quality 1 is worth against quality 0, for one request, in dollars."),
    ] = 0.0
    usd_per_tok_per_s: Annotated[
        float,
        Meta(ge=0, description="What one token per second more is worth to a reader, in dollars a request."),
    ] = 0.0
    others: Annotated[
        float,
        Meta(
            ge=0,
            description="What a second counts that others wait because of a request, against a second of its "
            "own, and what the learned worth of a slot to others counts: 1 keeps all waits together short, 0 "
            "lets each request look at itself only.",
        ),
    ] = 1.0
    refusal_usd: Annotated[
        float | None,
        Meta(
            description="What a refusal costs, in dollars. A request that would cost, and cost others, more "
            "than this at its best place is refused before the queues are full. Unset: nothing is refused "
            "while there is room.",
        ),
    ] = None
    explore: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            description="Share of requests that go to another allowed place than the best, so that the speed "
            "of all stays known. Which ones follows from the seed, and is recorded.",
        ),
    ] = 0.0
    seed: Annotated[
        Annotated[int, Meta(ge=0, le=2**53)] | None,
        Meta(description="Seed of the exploration. Absent: a new one for each worker's life, recorded."),
    ] = None
    prefix_affinity: Annotated[
        bool,
        Meta(
            description="Expect a place that was sent the same beginning of a prompt before to have it in "
            "its cache, at the rate of cached tokens and the share that its engine was seen to reuse."
        ),
    ] = True
    cascade: Annotated[Signals, Meta(description="When policy `cascade` goes on to a larger model.")] = (
        Signals()
    )


class Team(_Section, frozen=True, kw_only=True):
    """A team of an organisation; its keys are made with `wattmill keys create`."""

    cap_usd: Annotated[
        Usd | None, Meta(description="Hard cap on all that the team is charged. Absent: no cap of its own.")
    ] = None
    limits: Annotated[
        tuple[LimitWords, ...], Meta(description="Further limits, in any unit and period.")
    ] = ()
    tier: Annotated[
        Name | None, Meta(description="Tier of its keys that have none. Absent: that of the organisation.")
    ] = None
    policy: Annotated[
        PolicyName | None, Meta(description="Routing policy of its keys. Absent: that of the organisation.")
    ] = None
    privacy: Annotated[
        Privacy | None,
        Meta(description="Class of its data, unless a key, a header or a pattern says more."),
    ] = None
    residency: Annotated[
        tuple[Region, ...] | None, Meta(description="Regions that its data may go to. Absent: no rule.")
    ] = None
    operators: Annotated[
        tuple[Region, ...] | None,
        Meta(description="Who may run a place that sees its data. Absent: no rule."),
    ] = None


class Org(_Section, frozen=True, kw_only=True):
    """An organisation: a customer, or a part of your own house."""

    cap_usd: Annotated[
        Usd | None, Meta(description="Hard cap on all that the organisation is charged. Absent: no cap.")
    ] = None
    limits: Annotated[
        tuple[LimitWords, ...], Meta(description="Further limits, in any unit and period.")
    ] = ()
    tier: Annotated[
        Name | None, Meta(description="Tier of its teams that have none. Absent: `admission.default_tier`.")
    ] = None
    policy: Annotated[
        PolicyName | None, Meta(description="Routing policy of its teams. Absent: that of `[routing]`.")
    ] = None
    privacy: Annotated[
        Privacy | None,
        Meta(description="Class of its teams' data, unless a key, a header or a pattern says more."),
    ] = None
    residency: Annotated[
        tuple[Region, ...] | None,
        Meta(description="Regions that its teams' data may go to. Absent: no rule."),
    ] = None
    operators: Annotated[
        tuple[Region, ...] | None,
        Meta(description="Who may run a place that sees its teams' data. Absent: no rule."),
    ] = None
    teams: Annotated[dict[Name, Team], Meta(description="Its teams.")] = {}


class Load(_Section, frozen=True, kw_only=True):
    """The scripted workload of `wattmill up --load`."""

    team: Annotated[
        Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}/[a-z][a-z0-9_-]{0,31}$")] | None,
        Meta(description="`ORG/TEAM` that pays for it.", examples=["demo/load"]),
    ] = None
    model: Annotated[
        ModelName | None, Meta(description="Model that it asks for. Absent: the first model declared.")
    ] = None
    requests_per_s: Annotated[float, Meta(gt=0, le=10_000, description="Mean rate of arrivals.")] = 0.5
    duration_s: Annotated[float, Meta(gt=0, description="When it stops by itself.")] = 60.0
    seed: Annotated[int, Meta(ge=0, description="Same seed, same workload.")] = 1


class Settings(_Section, frozen=True, kw_only=True):
    """The whole declaration."""

    factory: Annotated[Factory, Meta(description="The factory as a whole.")] = Factory()
    gateway: Annotated[Gateway, Meta(description="The data port.")] = Gateway()
    admin: Annotated[Admin, Meta(description="The admin listener.")] = Admin()
    journal: Annotated[Journal, Meta(description="The record written before anything leaves.")] = Journal()
    ledger: Annotated[Ledger, Meta(description="The books.")] = Ledger()
    host: Annotated[Host, Meta(description="Power model of this machine.")] = Host()
    meters: Annotated[
        dict[Name, MeterSettings], Meta(description="Meters of power; without any, the model of `[host]`.")
    ] = {}
    electricity: Annotated[
        dict[Name, Electricity], Meta(description="What power costs and emits, by the hour.")
    ] = {}
    flex: Annotated[FlexSettings, Meta(description="What a power limit may change.")] = FlexSettings()
    routing: Annotated[Routing, Meta(description="How a place is chosen.")] = Routing()
    models: Annotated[dict[ModelName, Model], Meta(description="Models by the name that clients use.")] = {}
    pools: Annotated[
        dict[Name, Pool],
        Meta(min_length=1, description="Places that serve models, in the order of preference."),
    ]
    prices: Annotated[
        dict[Name, dict[ModelName, Rates]], Meta(description="Price books for tenants: rates by model.")
    ] = {}
    tiers: Annotated[
        dict[Name, TierSettings],
        Meta(
            description="Tiers: a price and a promise. Absent: no tiers, and places queue by themselves.",
            max_length=32,
        ),
    ] = {}
    admission: Annotated[
        AdmissionSettings, Meta(description="How requests wait, where tiers are declared.")
    ] = AdmissionSettings()
    budgets: Annotated[Budgets, Meta(description="Limits and where their leases are kept.")] = Budgets()
    tenants: Annotated[dict[Name, Org], Meta(description="Organisations, by name.")] = {}
    privacy: Annotated[PrivacySettings, Meta(description="What may leave, and where to.")] = PrivacySettings()
    resilience: Annotated[Resilience, Meta(description="What happens when a place fails or is slow.")] = (
        Resilience()
    )
    cache: Annotated[Cache, Meta(description="Answers that are given again.")] = Cache()
    idempotency: Annotated[Idempotency, Meta(description="Requests that are made once.")] = Idempotency()
    responses: Annotated[ResponseLimits, Meta(description="Responses that clients want stored.")] = (
        ResponseLimits()
    )
    kept: Annotated[KeptLimits, Meta(description="How much may be kept.")] = KeptLimits()
    batches: Annotated[BatchSettings, Meta(description="Files and batches of clients.")] = BatchSettings()
    runs: Annotated[RunSettings, Meta(description="Spenders that keys open for themselves.")] = RunSettings()
    runaway: Annotated[RunawaySettings, Meta(description="What is done about agents that got lost.")] = (
        RunawaySettings()
    )
    load: Annotated[Load, Meta(description="The scripted workload.")] = Load()
