"""The prices that a declaration calls for: two legs for each model of each pool, ready to be published.

For the supervisor and the command line; a gateway worker reads published prices and never imports this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Literal, assert_never

import msgspec

from wattmill.app.declared.electricity_settings import hour_of
from wattmill.app.declared.plan import Place, Prices, places
from wattmill.app.declared.pool_settings import (
    Cost,
    CostPlus,
    ListPriceCost,
    OwnedCost,
    PriceBookCharge,
    Rates,
    RatesCost,
)
from wattmill.app.declared.prices_in_force import charge_book, cost_book, tier_book
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tier_settings import Multiplier, PerToken, TierPlan, TierRates, tier_plans
from wattmill.ledger.cost_basis import owned_rates
from wattmill.ledger.price_book import Listing, Omitted, Version, list_price, publish_listing
from wattmill.ledger.stores.control import Control
from wattmill.units import nusd_from_usd
from wattmill.vocab.price import Price

Leg = Literal["cost", "charge"]
RateRow = tuple[int | None, ...]


class PriceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One leg of one model at one pool, to be published in `book` under `listing.model`."""

    pool: str
    leg: Leg
    book: str  # "edge cost", "edge charge", or the name of a declared price book
    listing: Listing
    tier: str = ""  # who pays it instead of the pool's own charge


def price_specs(settings: Settings, env: Mapping[str, str], *, now_us: int | None = None) -> list[PriceSpec]:
    """Return both legs of every model of every pool. Raises `ValueError` where a price cannot be said; a
    declaration that `load` accepted has none such.

    Args:
        now_us: the hour of declared electricity; None: its price where no hour says otherwise.
    """
    specs: list[PriceSpec] = []
    tiers = tier_plans(settings.tiers).values()
    for place in places(settings, env).values():
        for model in place.models:
            cost = _cost(settings, place, model, now_us)
            specs.append(PriceSpec(pool=place.pool, leg="cost", book=cost_book(place), listing=cost))
            charge = _charge(settings, place, model, cost)
            specs.append(charge)
            specs += [_tier_charge(place, model, tier, charge.listing) for tier in tiers]
    return specs


def publish(control: Control, specs: Iterable[PriceSpec], *, now_us: int) -> dict[tuple[str, str], Prices]:
    """Publish `specs` and return the versions in force by (pool, model). Twice publishes nothing new."""
    legs: dict[tuple[str, str], dict[Leg, Price]] = {}
    tiers: dict[tuple[str, str], dict[str, Price]] = {}
    for spec in specs:
        published = publish_listing(control, spec.listing, book=spec.book, now_us=now_us)
        at = spec.pool, spec.listing.model
        if spec.tier:
            tiers.setdefault(at, {})[spec.tier] = published.price
        else:
            legs.setdefault(at, {})[spec.leg] = published.price
    return {
        at: Prices(cost=both["cost"], charge=both["charge"], tiers=tiers.get(at, {}))
        for at, both in legs.items()
    }


def _cost(settings: Settings, place: Place, model: str, now_us: int | None) -> Listing:
    cost: Cost = place.declared.cost
    match cost:
        case OwnedCost():
            source = f"cost basis of pool {place.pool!r}, declared"
            hour = hour_of(settings.electricity, place.declared, now_us)
            if hour is not None:
                source += f", at {hour.usd_per_kwh} USD/kWh ({place.declared.electricity})"
            tariff = cost.tariff_usd_per_kwh or settings.host.tariff_usd_per_kwh
            rates = _owned(cost, tariff if hour is None else hour.usd_per_kwh)
            return _declared(model, rates, 0, source)
        case RatesCost():
            return _declared(model, rate_row(cost), nusd_from_usd(cost.request_usd), cost.source)
        case ListPriceCost():
            listed = list_price(cost.provider, cost.model)
            if isinstance(listed, Omitted):
                raise ValueError(f"no list price of {cost.provider}/{cost.model}: {listed.reason}")
            return msgspec.structs.replace(listed, model=model)
        case _:
            assert_never(cost)


def _owned(cost: OwnedCost, tariff_usd_per_kwh: str) -> RateRow:
    return owned_rates(
        hourly_usd=cost.hourly_usd,
        power_w=cost.power_w,
        idle_w=cost.idle_w,
        tariff_usd_per_kwh=tariff_usd_per_kwh,
        prefill_tok_per_s=cost.prefill_tok_per_s,
        decode_tok_per_s=cost.decode_tok_per_s,
        utilization=cost.utilization,
        cached_share=cost.cached_share,
    )


def _charge(settings: Settings, place: Place, model: str, cost: Listing) -> PriceSpec:
    charge = place.declared.charge
    match charge:
        case PriceBookCharge():
            rates = settings.prices[charge.book][model]
            source = f"price book {charge.book!r} of the declaration"
            listing = _declared(model, rate_row(rates), nusd_from_usd(rates.request_usd), source)
            return PriceSpec(pool=place.pool, leg="charge", book=charge.book, listing=listing)
        case CostPlus():
            book = charge_book(place)
            return PriceSpec(
                pool=place.pool, leg="charge", book=book, listing=_marked_up(cost, charge.markup)
            )
        case _:
            assert_never(charge)


def _tier_charge(place: Place, model: str, tier: TierPlan, charge: Listing) -> PriceSpec:
    price = tier.price
    match price:
        case PerToken():
            rate = nusd_from_usd(price.usd_per_mtok)
            listing = _declared(model, (rate, rate, rate, None, rate, rate, None), 0, price.source)
        case TierRates():
            listing = _declared(model, rate_row(price), nusd_from_usd(price.request_usd), price.source)
        case Multiplier():
            source = f"{price.factor:.4g} x the pool's charge ({price.source}); {charge.source}"
            listing = _times(charge, Fraction(str(price.factor)), source)
        case _:
            assert_never(price)
    return PriceSpec(
        pool=place.pool, leg="charge", book=tier_book(place, tier), listing=listing, tier=tier.name
    )


def _marked_up(cost: Listing, markup: float) -> Listing:
    return _times(cost, 1 + Fraction(str(markup)), f"cost + {markup:.4g}; {cost.source}")


def _times(listing: Listing, factor: Fraction, source: str) -> Listing:
    """Return `listing` with every rate times `factor`, rounded half to even once per rate."""

    def dearer(rate: int | None) -> int | None:
        return None if rate is None else round(rate * factor)

    versions = tuple(
        Version(
            effective_us=v.effective_us,
            rates_nusd_per_mtok=tuple(dearer(r) for r in v.rates_nusd_per_mtok),
            request_nusd=round(v.request_nusd * factor),
        )
        for v in listing.versions
    )
    return msgspec.structs.replace(listing, versions=versions, source=source)


def rate_row(rates: Rates) -> RateRow:
    """Return declared rates in the order of `TOKEN_CLASSES`. A part without a rate costs what the whole
    costs; audio, which costs far more than text wherever it has a price, stays unpriced."""
    computed = nusd_from_usd(rates.input_usd_per_mtok)
    made = nusd_from_usd(rates.output_usd_per_mtok)
    return (
        computed,
        _or(rates.cached_input_usd_per_mtok, computed),
        _or(rates.cache_write_usd_per_mtok, computed),
        _or(rates.audio_input_usd_per_mtok, None),
        made,
        _or(rates.reasoning_usd_per_mtok, made),
        _or(rates.audio_output_usd_per_mtok, None),
    )


def _or(usd: str | None, otherwise: int | None) -> int | None:
    return otherwise if usd is None else nusd_from_usd(usd)


def _declared(model: str, rates: RateRow, request_nusd: int, source: str) -> Listing:
    version = Version(effective_us=0, rates_nusd_per_mtok=rates, request_nusd=request_nusd)
    return Listing(provider="declared", model=model, versions=(version,), source=source, notes=())
