"""From a declared pool to how it behaves in the twin, with where each figure comes from."""

from __future__ import annotations

from collections.abc import Mapping

from wattmill.app.declared.plan import Place, places
from wattmill.app.declared.pool_settings import HttpPool, OwnedCost, Pool
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.twin_settings import ColdStartTimes, PoolTwin, SpeculationTimes, StepTimes
from wattmill.models.engines.llama_cpp import LLAMA_CPP
from wattmill.scheduling import spec as scheduling
from wattmill.twin.engine.spec import CERTAIN, SchedulerKind
from wattmill.twin.fleet.spec import (
    ColdStart,
    Disaggregation,
    EngineLaw,
    Hours,
    Origin,
    Outages,
    Power,
    ProviderLaw,
    SimPool,
    Speculation,
)
from wattmill.twin.spec import BLOCK_TOK, StepLaw
from wattmill.units import (
    B_PER_GB,
    MW_PER_W,
    PS_PER_MS,
    PS_PER_NS,
    PS_PER_S,
    PS_PER_US,
    S_PER_H,
    nusd_from_usd,
)

_BUDGET_TOK = 2_048
_BYTES_PER_PARAM = 2.0
_PLAIN = PoolTwin()


class CannotSimulate(ValueError):
    """A declared pool cannot work in the twin; the message names it, the rule and the way out."""


def sim_pools(
    settings: Settings, env: Mapping[str, str], pools: tuple[scheduling.Pool, ...]
) -> tuple[SimPool, ...]:
    """Return how each pool behaves, in the order of the declaration. `pools` is what the policy sees.

    Raises `CannotSimulate` where a pool could never work.
    """
    seen = {pool.name: pool for pool in pools}
    try:
        return _all(settings, env, seen)
    except (ValueError, LookupError) as error:
        raise CannotSimulate(str(error)) from error


def _all(
    settings: Settings, env: Mapping[str, str], seen: Mapping[str, scheduling.Pool]
) -> tuple[SimPool, ...]:
    return tuple(_sim_pool(settings, place, seen[name]) for name, place in places(settings, env).items())


def _sim_pool(settings: Settings, place: Place, pool: scheduling.Pool) -> SimPool:
    declared = place.declared
    twin = declared.twin or _PLAIN
    cost = declared.cost
    owned = (place.embedded or isinstance(cost, OwnedCost)) and twin.provider is None
    slots = max(1, place.slots // twin.replicas)
    scheduler: SchedulerKind = (
        "llamacpp" if place.embedded or _adapter(declared) == LLAMA_CPP.name else "vllm"
    )
    law, origin = _law(place, twin, slots, owned=owned)
    if twin.speculation is not None and isinstance(law, ProviderLaw):
        raise ValueError(
            f"pools.{place.pool}.twin.speculation: the pool is bought, and its speed is the provider's; "
            "speculation is declared for an engine that we own"
        )
    if twin.speculation is not None and twin.step is None and twin.deployment is None:
        raise ValueError(
            f"pools.{place.pool}.twin.speculation: `speed` or a calibration has all that speculation gains "
            "in it already; declare `step` or `deployment`, which say how long one step takes"
        )
    if twin.disaggregation is not None:
        rules = law.limits.scheduler if isinstance(law, EngineLaw) else scheduler
        _check_disaggregation(place, twin, rules, owned=owned)
    outages = twin.outages
    return SimPool(
        name=place.pool,
        law=law,
        origin=origin,
        owned=owned,
        scheduler=scheduler,
        slots=slots,
        replicas=twin.replicas,
        overhead_s=place.speed.overhead_s,
        disaggregation=None if twin.disaggregation is None else _disaggregation(twin),
        speculation=None if twin.speculation is None else _speculation(twin.speculation),
        power=_power(place, pool, twin.replicas, law),
        hours=_hours(settings, place, twin.replicas),
        cold_start=ColdStart() if twin.cold_start is None else _cold_start(settings, place, twin.cold_start),
        outages=Outages()
        if outages is None
        else Outages(
            spans_s=outages.down_s,
            mtbf_s=None if outages.mtbf_h is None else outages.mtbf_h * S_PER_H,
            mttr_s=outages.mttr_s,
        ),
        scaling=twin.scaling,
    )


def _check_disaggregation(place: Place, twin: PoolTwin, scheduler: SchedulerKind, *, owned: bool) -> None:
    name = f"pools.{place.pool}.twin.disaggregation"
    declared = twin.disaggregation
    assert declared is not None
    if not owned:
        raise ValueError(f"{name}: the pool is bought; it is declared for engines that we own")
    if declared.prefill_replicas >= twin.replicas:
        raise ValueError(
            f"{name}.prefill_replicas is {declared.prefill_replicas}, must be less than `replicas`, "
            f"{twin.replicas}: some must decode"
        )
    if scheduler == "llamacpp":
        raise ValueError(f"{name}: llama.cpp keeps a request's memory in its slot and hands nothing over")
    if twin.scaling is not None and declared.scaling is None and twin.scaling.least < 2:
        raise ValueError(
            f"pools.{place.pool}.twin.scaling.least is {twin.scaling.least}, must be at least 2: it is for "
            "those that compute prompts and those that decode together, and one of each must be there. Or "
            "declare `disaggregation.scaling`: then both scale apart"
        )
    if declared.kv_bytes_per_tok is None and twin.deployment is None:
        raise ValueError(
            f"{name}.kv_bytes_per_tok is not declared, and there is no `deployment` that says it"
        )


def _disaggregation(twin: PoolTwin) -> Disaggregation:
    declared = twin.disaggregation
    assert declared is not None
    kv_bytes = declared.kv_bytes_per_tok
    if kv_bytes is None:
        from wattmill.app.simulating.deployed import kv_bytes_per_tok  # as `deployed_law`

        assert twin.deployment is not None
        kv_bytes = kv_bytes_per_tok(twin.deployment)
    return Disaggregation(
        prefill=declared.prefill_replicas,
        handover_ps=max(1, round(declared.latency_ms * PS_PER_MS)),
        handover_ps_per_tok=round(kv_bytes / (declared.link_gb_per_s * B_PER_GB) * PS_PER_S),
        kv_bytes_per_tok=kv_bytes,
        shared_link=declared.shared_link,
        scaling=declared.scaling,
    )


def _speculation(declared: SpeculationTimes) -> Speculation:
    return Speculation(
        drafted=declared.drafted_tok,
        accept=max(1, round(declared.acceptance * CERTAIN)),
        draws=declared.draws,
    )


def _adapter(pool: Pool) -> str:
    return pool.adapter if isinstance(pool, HttpPool) else ""


def _law(
    place: Place, twin: PoolTwin, slots: int, *, owned: bool
) -> tuple[StepLaw | EngineLaw | ProviderLaw, Origin]:
    speed = place.speed
    if not owned:
        provider = twin.provider
        law = ProviderLaw(
            prefill_tok_per_s=speed.prefill_tok_per_s,
            decode_tok_per_s=speed.decode_tok_per_s,
            overhead_s=speed.overhead_s,
            spread=0.0 if provider is None else provider.spread,
            requests_per_min=None if provider is None else provider.requests_per_min,
            tokens_per_min=None if provider is None else provider.tokens_per_min,
            concurrent=None if provider is None else provider.concurrent,
        )
        source = "speed of the declaration" + ("" if provider is None else f"; {provider.source}")
        return law, Origin(provenance="declared", source=source)
    laws = {"step": twin.step, "deployment": twin.deployment, "calibration": twin.calibration}
    named = [name for name, law in laws.items() if law is not None]
    if len(named) > 1:
        raise ValueError(
            f"pools.{place.pool}.twin has {' and '.join(named)}: keep one, each is a law by itself"
        )
    kv_tok = slots * place.context_tok
    if twin.calibration is not None:
        from wattmill.app.simulating.calibrated import calibrated_law

        return calibrated_law(place, twin.calibration, slots)
    if twin.deployment is not None:
        from wattmill.app.simulating.deployed import deployed_law  # numpy and the fit: only where asked for

        return deployed_law(place, twin.deployment, slots)
    if twin.step is not None:
        return _from_step(twin.step, slots, kv_tok)
    return _from_speeds(place, slots, kv_tok, twin.replicas)


def _from_step(step: StepTimes, slots: int, kv_tok: int) -> tuple[StepLaw, Origin]:
    kv_tok = step.kv_tok or kv_tok
    law = StepLaw(
        step_ps=max(1, round(step.step_ms * PS_PER_MS)),
        decode_ps=round(step.decode_us * PS_PER_US),
        kv_ps_per_tok=round(step.kv_ns_per_tok * PS_PER_NS),
        prefill_ps_per_tok=max(1, round(step.prefill_us_per_tok * PS_PER_US)),
        attention_ps_per_ktok=round(step.attention_us_per_ktok * PS_PER_US),
        budget_tok=max(step.budget_tok, slots + 1),
        kv_tok=kv_tok,
        cache_blocks=kv_tok // BLOCK_TOK,
    )
    provenance = "measured" if step.measured else "declared"
    return law, Origin(provenance=provenance, source=step.source, error=step.error)  # type: ignore[arg-type]


def _from_speeds(place: Place, slots: int, kv_tok: int, replicas: int) -> tuple[StepLaw, Origin]:
    """Return the step of which one request alone, and a full batch, have the declared speeds.

    Alone: step + decode = 1 / a. Full: step + slots x decode = slots / b, where b is the busy speed of
    `cost`. Where there is none, nobody slows down anybody.
    """
    alone_s = 1.0 / place.speed.decode_tok_per_s
    cost = place.declared.cost
    source = "speed of the declaration"
    decode_s = 0.0
    if slots > 1 and isinstance(cost, OwnedCost) and not place.stand_in:
        full_s = slots * replicas / cost.decode_tok_per_s
        decode_s = max(0.0, (full_s - alone_s) / (slots - 1))
        source = "speed and busy speed of the declaration"
        if decode_s > alone_s:  # busy slower than alone: one after the other, at the busy speed
            decode_s = alone_s = replicas / cost.decode_tok_per_s
            source += ", where it is slower than alone: one after the other"
    law = StepLaw(
        step_ps=max(1, round((alone_s - decode_s) * PS_PER_S)),
        decode_ps=round(decode_s * PS_PER_S),
        prefill_ps_per_tok=max(1, round(PS_PER_S / place.speed.prefill_tok_per_s)),
        budget_tok=max(_BUDGET_TOK, slots + 1),
        kv_tok=kv_tok,
        cache_blocks=kv_tok // BLOCK_TOK,
    )
    return law, Origin(provenance="declared", source=source)


def _power(
    place: Place, pool: scheduling.Pool, replicas: int, law: StepLaw | EngineLaw | ProviderLaw
) -> Power | None:
    cost, carbon = place.declared.cost, place.declared.carbon
    if place.stand_in:
        return None
    grams = None if carbon is None else carbon.g_per_kwh
    if isinstance(law, EngineLaw) and law.cost.power_mw:
        words = "power law of the devices (idle, logistic in the batch), declared points"
        return Power(
            origin=Origin(provenance="modelled", source=words),
            idle_w=law.cost.idle_mw / MW_PER_W,
            by_batch=True,
            g_per_kwh=grams,
        )
    if isinstance(cost, OwnedCost):
        origin = Origin(
            provenance="modelled", source=f"idle {cost.idle_w:g} W, busy {cost.power_w:g} W, declared"
        )
        idle_w = min(cost.idle_w, cost.power_w)
        return Power(origin=origin, idle_w=idle_w / replicas, busy_w=cost.power_w / replicas, g_per_kwh=grams)
    if pool.energy_j_per_tok is None:
        return None
    of_in = pool.energy_j_per_in_tok or 0.0
    source = f"{pool.energy_j_per_tok:g} J an output token, {of_in:g} J a prompt token, declared"
    return Power(
        origin=Origin(provenance="modelled", source=source),
        j_per_out_tok=pool.energy_j_per_tok,
        j_per_in_tok=of_in,
        g_per_kwh=grams,
    )


def _hours(settings: Settings, place: Place, replicas: int) -> Hours | None:
    cost = place.declared.cost
    if not isinstance(cost, OwnedCost) or place.stand_in:
        return None
    tariff = cost.tariff_usd_per_kwh or settings.host.tariff_usd_per_kwh
    return Hours(nusd_per_h=nusd_from_usd(cost.hourly_usd) // replicas, nusd_per_kwh=nusd_from_usd(tariff))


def _cold_start(settings: Settings, place: Place, times: ColdStartTimes) -> ColdStart:
    weights_bytes = None if times.weights_gb is None else times.weights_gb * B_PER_GB
    if weights_bytes is None:
        params = [settings.models[name].params for name in place.models if name in settings.models]
        known = [count for count in params if count is not None]
        if not known:
            raise ValueError(
                f"pools.{place.pool}.twin.cold_start.weights_gb is not declared, and neither is `params` of "
                "its models: declare one of them"
            )
        weights_bytes = max(known) * _BYTES_PER_PARAM
    return ColdStart(
        provisioning_s=times.provisioning_s,
        image_bytes=times.image_gb * B_PER_GB,
        image_bytes_per_s=times.image_gb_per_s * B_PER_GB,
        weight_bytes=weights_bytes,
        storage_bytes_per_s=times.storage_gb_per_s * B_PER_GB,
        compile_s=times.compile_s,
        warm_up_s=times.warm_up_s,
    )
