"""From settings to the values that a worker needs: places, backends, fleet, model cards.

Pure: everything that had to be asked of the world (published prices, where engines listen, the environment)
is an argument. The worker imports this, so it imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from wattmill.app.declared.electricity_settings import hour_of
from wattmill.app.declared.pool_settings import EmbeddedPool, HttpPool, OwnedCost, Pool, Speed, upstream_names
from wattmill.app.declared.provider_key import provider_key, stands_in
from wattmill.app.declared.settings import Settings
from wattmill.distribution.spec import Backend, BackendModel
from wattmill.models.engines.anthropic_http import ANTHROPIC, TOOL_PROMPT_TOK
from wattmill.models.engines.anthropic_http import HEADERS as MESSAGES_HEADERS
from wattmill.models.engines.anthropic_http import KEY_HEADER as MESSAGES_KEY_HEADER
from wattmill.models.engines.embedded import BATCH_TOK
from wattmill.models.spec import ModelCard
from wattmill.scheduling import spec as scheduling
from wattmill.units import TOK_PER_MTOK, UJ_PER_J
from wattmill.vocab.budget import Ceiling
from wattmill.vocab.price import Price
from wattmill.vocab.usage import TOKEN_CLASSES

EMBEDDED_ADAPTER = "llama.cpp"

# An embedded engine queues inside itself, and a long prompt on one core takes its time; whether it is alive
# is the supervisor's question, not a time-out's.
EMBEDDED_FIRST_BYTE_S = 300.0
EMBEDDED_TOTAL_S = 900.0

_UG_PER_G = 1_000_000

_INPUT = TOKEN_CLASSES.index("input")
_OUTPUT = TOKEN_CLASSES.index("output")
_CACHED = TOKEN_CLASSES.index("cached_input")


class Endpoint(Protocol):
    """Where an embedded engine listens."""

    @property
    def url(self) -> str: ...  # with "/v1"

    @property
    def key(self) -> str: ...


class Prices(msgspec.Struct, frozen=True):
    """Both legs of one model at one pool, as published."""

    cost: Price
    charge: Price
    tiers: dict[str, Price] = {}  # what each tier pays instead of `charge`


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One pool with the question settled of who answers: the provider, its stand-in, or an engine of ours."""

    pool: str
    declared: Pool
    stand_in: bool
    models: dict[str, str]  # name that clients use -> name that the engine knows
    weights: str | None  # of an embedded engine; None: the engine is somebody else's
    threads: int
    slots: int
    queue: int
    context_tok: int  # of one request
    speed: Speed

    @property
    def embedded(self) -> bool:
        return self.weights is not None


def places(settings: Settings, env: Mapping[str, str]) -> dict[str, Place]:
    """Return every pool by name, in the order of the declaration."""
    return {name: _place(name, pool, env) for name, pool in settings.pools.items()}


def _place(name: str, pool: Pool, env: Mapping[str, str]) -> Place:
    if isinstance(pool, HttpPool) and pool.stand_in is not None and stands_in(pool, env):
        double = pool.stand_in
        return Place(
            pool=name,
            declared=pool,
            stand_in=True,
            models=upstream_names(double.models),
            weights=double.weights,
            threads=double.threads,
            slots=double.slots,
            queue=double.queue,
            context_tok=double.context_tok,
            speed=double.speed,
        )
    return Place(
        pool=name,
        declared=pool,
        stand_in=False,
        models=upstream_names(pool.models),
        weights=pool.weights if isinstance(pool, EmbeddedPool) else None,
        threads=pool.threads if isinstance(pool, EmbeddedPool) else 0,
        slots=pool.slots,
        queue=pool.queue,
        context_tok=pool.context_tok,
        speed=pool.speed,
    )


def backends(
    settings: Settings,
    prices: Mapping[tuple[str, str], Prices],
    endpoints: Mapping[str, Endpoint],
    env: Mapping[str, str],
) -> dict[str, Backend]:
    """Return what the gateway may send to, by pool.

    Args:
        prices: by (pool, model as clients ask for it); every model of every pool must be there.
        endpoints: by pool, for each embedded engine. A missing one raises `LookupError`: a place without an
            address is a defect of the start, not a place that is down.
    """
    return {name: _backend(place, prices, endpoints, env) for name, place in places(settings, env).items()}


def _backend(
    place: Place,
    prices: Mapping[tuple[str, str], Prices],
    endpoints: Mapping[str, Endpoint],
    env: Mapping[str, str],
) -> Backend:
    models: dict[str, BackendModel] = {}
    for model, upstream in place.models.items():
        both = prices[place.pool, model]
        plain = BackendModel(
            name=model,
            upstream=upstream,
            cost=both.cost,
            charge=both.charge,
            context_tok=place.context_tok,
        )
        by_tier = {tier: msgspec.structs.replace(plain, charge=charge) for tier, charge in both.tiers.items()}
        models[model] = msgspec.structs.replace(plain, by_tier=by_tier) if by_tier else plain
    if place.embedded:
        endpoint = endpoints[place.pool]
        return Backend(
            pool=place.pool,
            adapter=EMBEDDED_ADAPTER,
            base_url=endpoint.url,
            models=models,
            headers=(("authorization", f"Bearer {endpoint.key}"),),
            slots=place.slots,
            batch_tok=place.context_tok
            if "embeddings" in (place.declared.capabilities or ())
            else BATCH_TOK,  # see `EmbeddedSpec`
            ceiling=_ceiling(place),
            max_connections=place.slots + place.queue,
            first_byte_timeout_s=EMBEDDED_FIRST_BYTE_S,
            idle_timeout_s=EMBEDDED_FIRST_BYTE_S,
            total_timeout_s=EMBEDDED_TOTAL_S,
        )
    pool = place.declared
    assert isinstance(pool, HttpPool)
    headers = tuple((name.lower(), value) for name, value in pool.headers.items())
    key = provider_key(pool, env)
    if pool.adapter == ANTHROPIC.name:
        headers += tuple(pair for pair in MESSAGES_HEADERS if pair[0] not in dict(headers))
        if key is not None:
            headers += ((MESSAGES_KEY_HEADER, key),)
    elif key is not None:
        headers += (("authorization", f"Bearer {key}"),)
    return Backend(
        pool=place.pool,
        adapter=pool.adapter,
        base_url=pool.base_url.rstrip("/"),
        models=models,
        headers=headers,
        slots=pool.slots,
        ceiling=_ceiling(place),
        max_connections=pool.max_connections,
        connect_timeout_s=pool.connect_timeout_s,
        first_byte_timeout_s=pool.first_byte_timeout_s,
        idle_timeout_s=pool.idle_timeout_s,
        total_timeout_s=pool.total_timeout_s,
        ca_file=pool.ca_file,
        tls_verify=pool.tls_verify,
        proxy=pool.proxy,
    )


def fleet_pools(
    settings: Settings,
    backends: Mapping[str, Backend],
    env: Mapping[str, str],
    capabilities_of: Callable[[str], frozenset[str]],
    *,
    now_us: int | None = None,
) -> tuple[scheduling.Pool, ...]:
    """Return the pools as the policy sees them, all healthy, in the order of the declaration.

    Args:
        capabilities_of: what an adapter can do, by its name; a declared list only narrows that.
        now_us: the hour of declared electricity; None: its figures where no hour says otherwise.
    """
    return tuple(
        _fleet_pool(settings, place, backends[name], capabilities_of, now_us)
        for name, place in places(settings, env).items()
    )


def _fleet_pool(
    settings: Settings,
    place: Place,
    backend: Backend,
    capabilities_of: Callable[[str], frozenset[str]],
    now_us: int | None = None,
) -> scheduling.Pool:
    able = capabilities_of(backend.adapter)
    if place.declared.capabilities is not None:
        able &= frozenset(place.declared.capabilities)
    elif place.embedded:
        # Only what is declared: an engine that also embeds computes a prompt in one batch, so that a client
        # who leaves costs more; and whether tools work is a matter of the weights' chat template.
        able -= {"embeddings", "tools"}
    of_out, of_in = _joules(place)
    usd_per_kwh, g_per_kwh = _power(settings, place, now_us)
    return scheduling.Pool(
        name=place.pool,
        models=frozenset(place.models),
        capabilities=able,
        context_tok=place.context_tok,
        privacy=place.declared.privacy,
        region=_where(place, place.declared.region, settings.host.region),
        operator=_where(place, place.declared.operator, settings.host.operator),
        slots=place.slots,
        queue=place.queue,
        charge_in_nusd_per_mtok=_rates_of(backend, _INPUT),
        charge_out_nusd_per_mtok=_rates_of(backend, _OUTPUT),
        prefill_tok_per_s=place.speed.prefill_tok_per_s,
        decode_tok_per_s=place.speed.decode_tok_per_s,
        overhead_s=place.speed.overhead_s,
        charge_cached_nusd_per_mtok={
            name: rate
            for name, m in backend.models.items()
            if (rate := m.charge.rates_nusd_per_mtok[_CACHED]) is not None
        },
        tier_rates=_tier_rates(backend),
        cost_rates={name: _rates(m.cost) for name, m in backend.models.items()},
        quality={name: grade.score for name, grade in place.declared.quality.items() if not place.stand_in},
        energy_j_per_tok=of_out,
        energy_j_per_in_tok=of_in,
        carbon_g_per_kwh=g_per_kwh,
        energy_usd_per_kwh=usd_per_kwh,
    )


def _power(settings: Settings, place: Place, now_us: int | None) -> tuple[float | None, float | None]:
    """Return price and carbon of a kilowatt-hour at a place in this hour. A stand-in's are not those of its
    provider."""
    if place.stand_in:
        return None, None
    declared, cost, carbon = place.declared, place.declared.cost, place.declared.carbon
    fixed_g = None if carbon is None else carbon.g_per_kwh
    hour = hour_of(settings.electricity, declared, now_us)
    if hour is not None:
        return float(hour.usd_per_kwh), fixed_g if hour.g_per_kwh is None else hour.g_per_kwh
    if isinstance(cost, OwnedCost):
        return float(cost.tariff_usd_per_kwh or settings.host.tariff_usd_per_kwh), fixed_g
    return None, fixed_g


def _rates(price: Price) -> scheduling.Rates:
    rates = price.rates_nusd_per_mtok
    computed = rates[_INPUT] or 0
    cached = rates[_CACHED]
    return scheduling.Rates(computed, rates[_OUTPUT] or 0, computed if cached is None else cached)


def _tier_rates(backend: Backend) -> dict[str, dict[str, scheduling.Rates]]:
    found: dict[str, dict[str, scheduling.Rates]] = {}
    for name, model in backend.models.items():
        for tier, sold in model.by_tier.items():
            found.setdefault(tier, {})[name] = _rates(sold.charge)
    return found


def _joules(place: Place) -> tuple[float | None, float | None]:
    """Return the joules of an output token and of a computed prompt token, as declared or as they follow from
    the power and the speed of an owned place. A stand-in's are not those of its provider."""
    carbon, cost = place.declared.carbon, place.declared.cost
    if place.stand_in:
        return None, None
    of_out = carbon.j_per_tok if carbon is not None else None
    of_in = carbon.j_per_in_tok if carbon is not None else None
    if isinstance(cost, OwnedCost):
        of_out = cost.power_w / cost.decode_tok_per_s if of_out is None else of_out
        of_in = cost.power_w / cost.prefill_tok_per_s if of_in is None else of_in
    return of_out, of_in


def _ceiling(place: Place) -> Ceiling | None:
    """Return what a token takes at most here, where that was declared or follows from what was."""
    declared, carbon = place.declared.ceiling, place.declared.carbon
    grams = carbon.g_per_kwh if carbon is not None and not place.stand_in else None
    if declared is not None and not place.stand_in:
        of_out, of_in = declared.j_per_tok, declared.j_per_in_tok
        grams = grams if declared.g_per_kwh is None else declared.g_per_kwh
    else:
        out, computed = _joules(place)
        if out is None or computed is None:
            return None
        of_out, of_in = out, computed
    return Ceiling(
        input_uj_per_mtok=math.ceil(of_in * UJ_PER_J * TOK_PER_MTOK),
        output_uj_per_mtok=math.ceil(of_out * UJ_PER_J * TOK_PER_MTOK),
        carbon_ug_per_kwh=None if grams is None else math.ceil(grams * _UG_PER_G),
    )


def _where(place: Place, declared: str | None, host: str | None) -> str:
    """Return region or operator; "" is unknown. A stand-in runs here, whatever it stands in for."""
    if place.stand_in:
        return host or ""
    return declared or (host if place.embedded else None) or ""


def _rates_of(backend: Backend, token_class: int) -> dict[str, int]:
    """Return rates for the expectation only. A class without one adds nothing to it: the reservation refuses
    a request that could use such a class."""
    return {name: m.charge.rates_nusd_per_mtok[token_class] or 0 for name, m in backend.models.items()}


def cards(settings: Settings) -> dict[str, ModelCard]:
    """Return the card of every declared model, by name; its bound covers every place that serves it."""
    told_tools = {
        model
        for pool in settings.pools.values()
        if isinstance(pool, HttpPool) and pool.adapter == ANTHROPIC.name
        for model in upstream_names(pool.models)
    }
    return {
        name: _with_tool_prompt(model.card(name)) if name in told_tools else model.card(name)
        for name, model in settings.models.items()
    }


def _with_tool_prompt(card: ModelCard) -> ModelCard:
    """A place that speaks Messages adds a prompt of its own where a request has tools."""
    least = max(card.bound.per_request_tok, TOOL_PROMPT_TOK)
    bound = msgspec.structs.replace(card.bound, per_request_tok=least)
    return msgspec.structs.replace(card, bound=bound)


def route_weights(settings: Settings) -> scheduling.Weights:
    routing = settings.routing
    return scheduling.Weights(
        usd_per_s=routing.usd_per_s,
        expected_output_tok=routing.expected_output_tok,
        bound_tok_per_tok=routing.bound_tok_per_tok,
        leg=routing.money,
        explore=routing.explore,
        usd_per_kg_co2=routing.usd_per_kg_co2,
        energy=routing.energy,
        usd_per_quality=routing.usd_per_quality,
        usd_per_tok_per_s=routing.usd_per_tok_per_s,
        others=routing.others,
        refusal_usd=routing.refusal_usd,
    )
