"""How a pool is declared: a model on an engine at a place, what it costs, and what the tenant pays for it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.app.declared.budget_settings import Ceilings
from wattmill.app.declared.twin_settings import PoolTwin

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
"""Names of pools, price books, organisations and teams: they become labels of metrics and headers."""

ModelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]

Usd = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]{1,9})?$")]
"""Money that is booked is text, so that it stays exact: 0.15 is no number in binary. Books count whole
nano-dollars: a finer fraction would be rounded unseen, to nothing where it stands alone."""

Privacy = Literal["public", "internal", "private"]


class Rates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dollars per million tokens, by token class. A class without a rate is refused, never free."""

    input_usd_per_mtok: Annotated[Usd, Meta(description="Computed prompt tokens.", examples=["0.15"])]
    output_usd_per_mtok: Annotated[Usd, Meta(description="Visible output tokens.", examples=["0.60"])]
    cached_input_usd_per_mtok: Annotated[
        Usd | None,
        Meta(description="Prompt tokens read from the engine's prefix cache. Absent: the rate of input."),
    ] = None
    cache_write_usd_per_mtok: Annotated[
        Usd | None, Meta(description="Prompt tokens written to a cache. Absent: the rate of input.")
    ] = None
    reasoning_usd_per_mtok: Annotated[
        Usd | None, Meta(description="Reasoning tokens. Absent: the rate of output.")
    ] = None
    audio_input_usd_per_mtok: Annotated[
        Usd | None, Meta(description="Audio tokens of a prompt. Absent: not sold here.")
    ] = None
    audio_output_usd_per_mtok: Annotated[
        Usd | None, Meta(description="Audio tokens of an answer. Absent: not sold here.")
    ] = None
    request_usd: Annotated[Usd, Meta(description="Per attempt, whatever its tokens.")] = "0"


# --- what it costs the factory ---------------------------------------------------------------------------


class OwnedCost(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule", tag="owned"
):
    """An owned place: cost per token follows from what an hour costs and how many tokens an hour makes."""

    hourly_usd: Annotated[
        Usd,
        Meta(description="Depreciation or rent of the place per hour, without energy.", examples=["0.02"]),
    ]
    power_w: Annotated[
        float, Meta(ge=0, description="Electric power of the place while it works, in watts (declared).")
    ]
    idle_w: Annotated[float, Meta(ge=0, description="Its electric power while it is idle (declared).")] = 0.0
    prefill_tok_per_s: Annotated[
        float,
        Meta(gt=0, description="Prompt tokens per second that the whole place computes when it is busy."),
    ]
    decode_tok_per_s: Annotated[
        float, Meta(gt=0, description="Output tokens per second that the whole place makes when it is busy.")
    ]
    utilization: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Share of its hours in which the place works; its tokens pay for the idle rest.",
        ),
    ] = 0.5
    cached_share: Annotated[
        float,
        Meta(ge=0, le=1, description="Cost of a cached prompt token as a share of a computed one."),
    ] = 0.1
    tariff_usd_per_kwh: Annotated[
        Usd | None, Meta(description="Price of energy at this place. Absent: that of `[host]`.")
    ] = None


class ListPriceCost(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule", tag="list_price"
):
    """A bought place: the provider's published price, from the dated data of the `genai-prices` package."""

    provider: Annotated[str, Meta(description="Provider id in the data.", examples=["openai"])]
    model: Annotated[str, Meta(description="Model id in the data.", examples=["gpt-4o-mini"])]


class RatesCost(Rates, frozen=True, kw_only=True, tag_field="rule", tag="rates"):
    """A bought place with rates of your own contract."""

    source: Annotated[str, Meta(description="Where the figures come from, with a date.")] = "declared"


Cost = OwnedCost | ListPriceCost | RatesCost


# --- what the tenant pays --------------------------------------------------------------------------------


class CostPlus(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule", tag="cost_plus"
):
    """The tenant pays the cost of the place and a markup on it."""

    markup: Annotated[
        float,
        Meta(ge=0, le=100, description="Share added to every rate of the cost; 0.2 is 20 %, 0 is at cost."),
    ] = 0.0


class PriceBookCharge(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule", tag="price_book"
):
    """The tenant pays the rates of a book declared under `[prices.BOOK]`."""

    book: Annotated[Name, Meta(description="Name of the price book.", examples=["standard"])]


Charge = CostPlus | PriceBookCharge


# --- where it runs ---------------------------------------------------------------------------------------


class Speed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one request alone may expect of a place, used for routing. Declared, shown as such."""

    prefill_tok_per_s: Annotated[float, Meta(gt=0, description="Prompt tokens per second.")]
    decode_tok_per_s: Annotated[float, Meta(gt=0, description="Output tokens per second.")]
    overhead_s: Annotated[
        float, Meta(ge=0, description="Seconds of network and set-up before prefill begins.")
    ] = 0.0


class Carbon(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Carbon of a place: of its grid, and of the joules of its tokens. Declared, shown as such."""

    g_per_kwh: Annotated[
        float, Meta(ge=0, description="Grams of CO2 (equivalent) for a kilowatt-hour at this place.")
    ]
    source: Annotated[str, Meta(min_length=1, description="Where the figure comes from, with a date.")]
    j_per_tok: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(
            description="Joules of an output token. Absent: of an owned place its power over its speed, of a "
            "bought one unknown."
        ),
    ] = None
    j_per_in_tok: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="Joules of a computed prompt token; likewise.")
    ] = None


class Quality(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How good a model is at a place (its quantisation counts). Declared, shown as such."""

    score: Annotated[float, Meta(ge=0, le=1, description="0 to 1, on a scale of your own for all models.")]
    source: Annotated[str, Meta(min_length=1, description="Which evaluation says so, with a date.")]


class StandIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An embedded engine that plays a provider while its key is absent. Every screen says so."""

    weights: Annotated[str, Meta(description="Name of installed weights, or path of a GGUF file.")]
    models: Annotated[
        tuple[ModelName, ...], Meta(min_length=1, description="Model names that the stand-in serves.")
    ]
    threads: Annotated[int, Meta(ge=1, le=1024, description="CPU threads of the engine.")] = 1
    slots: Annotated[int, Meta(ge=1, le=256, description="Requests it works on at once.")] = 2
    queue: Annotated[int, Meta(ge=0, le=100_000, description="Further requests that may wait.")] = 32
    context_tok: Annotated[int, Meta(ge=64, description="Context of one slot, in tokens.")] = 2048
    speed: Annotated[Speed, Meta(description="Expected speed of one request alone.")]


class _Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    place: Annotated[
        str, Meta(min_length=1, max_length=64, description="Where it stands, in words that people see.")
    ]
    models: Annotated[
        Annotated[tuple[ModelName, ...], Meta(min_length=1)]
        | Annotated[dict[ModelName, str], Meta(min_length=1)],
        Meta(
            description="Models that it serves: a list, or a table from the name that clients "
            "use to the name that the engine knows.",
            examples=[["smollm2-135m"]],
        ),
    ]
    privacy: Annotated[
        Privacy, Meta(description="The most sensitive class of data that it may see; `private` may see all.")
    ] = "internal"
    region: Annotated[
        Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")] | None,
        Meta(
            description="Region in which it stands, a name of your own. Absent: that of `[host]` for an "
            "embedded engine, else unknown, and no data bound to a region goes there.",
            examples=["eu"],
        ),
    ] = None
    operator: Annotated[
        Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")] | None,
        Meta(
            description="Who runs it, a name of your own. Absent: that of `[host]` for an embedded engine, "
            "else unknown, and no data bound to an operator goes there.",
            examples=["own-house"],
        ),
    ] = None
    carbon: Annotated[
        Carbon | None,
        Meta(description="Carbon of its power. Absent: unknown, which is never counted as none."),
    ] = None
    ceiling: Annotated[
        Ceilings | None,
        Meta(
            description="What limits of joules and grams count for a token. Absent: the figures of `carbon`, "
            "of an owned place its power over its speed; where there are none, such a limit refuses."
        ),
    ] = None
    electricity: Annotated[
        Name | None,
        Meta(
            description="Name under `[electricity]` whose price and carbon hold here by the hour: the price "
            "enters the cost of an owned place, both enter routing by a weight each. Absent: the fixed "
            "figures of `cost` and `carbon`."
        ),
    ] = None
    quality: Annotated[
        dict[ModelName, Quality],
        Meta(description="How good its models are, for policies that ask. A model without it is unknown."),
    ] = {}
    slots: Annotated[int, Meta(ge=1, le=100_000, description="Requests that it works on at once.")] = 4
    queue: Annotated[int, Meta(ge=0, le=100_000, description="Further requests that may wait.")] = 64
    context_tok: Annotated[
        int, Meta(ge=64, description="Context of one request (prompt and answer), in tokens.")
    ] = 2048
    capabilities: Annotated[
        tuple[str, ...] | None,
        Meta(description="What it can do. Absent: all that its adapter can; a list narrows that."),
    ] = None
    speed: Annotated[Speed, Meta(description="Expected speed of one request alone, for routing.")]
    cost: Annotated[Cost, Meta(description="What a token costs the factory here.")]
    charge: Annotated[Charge, Meta(description="What a tenant pays for a token here. Default: at cost.")] = (
        CostPlus()
    )
    twin: Annotated[
        PoolTwin | None,
        Meta(description="How it behaves in `wattmill simulate`. Absent: by its declared speed and cost."),
    ] = None


class EmbeddedPool(_Pool, frozen=True, kw_only=True, tag_field="engine", tag="embedded"):
    """A pool whose engine wattmill starts and watches itself, on this machine, on CPU."""

    weights: Annotated[str, Meta(description="Name of installed weights, or path of a GGUF file.")]
    threads: Annotated[int, Meta(ge=1, le=1024, description="CPU threads of the engine.")] = 1


class HttpPool(_Pool, frozen=True, kw_only=True, tag_field="engine", tag="openai_http"):
    """A pool behind any OpenAI-compatible server: a provider, or an engine that you run."""

    adapter: Annotated[
        Literal["openai", "openai-compatible", "anthropic", "vllm", "llama.cpp", "transformers"],
        Meta(description="Whose habits the server has: fields it knows, faults that are absorbed."),
    ] = "openai-compatible"
    base_url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
            description="Address up to and including `/v1`; never with a key or a password in it.",
            examples=["https://api.openai.com/v1"],
        ),
    ]
    api_key_env: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None,
        Meta(description="Environment variable that holds the key.", examples=["OPENAI_API_KEY"]),
    ] = None
    api_key_file: Annotated[str | None, Meta(description="File whose first line is the key.")] = None
    headers: Annotated[
        dict[str, str],
        Meta(description="Further headers sent with each request. Not for secrets: they are shown."),
    ] = {}
    max_connections: Annotated[int, Meta(ge=1, le=65_535, description="Connections held to the server.")] = (
        256
    )
    connect_timeout_s: Annotated[float, Meta(gt=0, description="To connect, TLS included.")] = 5.0
    first_byte_timeout_s: Annotated[
        float, Meta(gt=0, description="From the request to the first byte of the answer.")
    ] = 120.0
    idle_timeout_s: Annotated[float, Meta(gt=0, description="Between two chunks of one answer.")] = 60.0
    total_timeout_s: Annotated[float, Meta(gt=0, description="From the request to the answer's end.")] = 600.0
    ca_file: Annotated[
        str | None, Meta(description="PEM file of authorities to trust. Absent: the system's.")
    ] = None
    tls_verify: Annotated[bool, Meta(description="Check the server's certificate.")] = True
    proxy: Annotated[
        Annotated[str, Meta(pattern=r"^http://[^\s/@]+:[0-9]+/?$")] | None,
        Meta(description="HTTP proxy, used with CONNECT for https.", examples=["http://proxy.example:3128"]),
    ] = None
    stand_in: Annotated[
        StandIn | None, Meta(description="An embedded engine in its place while the key is absent.")
    ] = None


Pool = EmbeddedPool | HttpPool


def upstream_names(models: tuple[str, ...] | dict[str, str]) -> dict[str, str]:
    """Return {name that clients use: name that the engine knows}; a list means that both are the same."""
    return dict(models) if isinstance(models, dict) else {name: name for name in models}
