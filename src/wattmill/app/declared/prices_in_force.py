"""Which published prices hold now, for each model of each pool: what a worker reserves and charges by."""

from __future__ import annotations

from collections.abc import Mapping

from wattmill.app.declared.plan import Place, Prices, places
from wattmill.app.declared.pool_settings import PriceBookCharge
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tier_settings import Multiplier, TierPlan, tier_plans
from wattmill.ledger.stores.control import Control
from wattmill.vocab.price import Price


def cost_book(place: Place) -> str:
    return f"{place.pool} cost"


def charge_book(place: Place) -> str:
    charge = place.declared.charge
    return charge.book if isinstance(charge, PriceBookCharge) else f"{place.pool} charge"


def tier_book(place: Place, tier: TierPlan) -> str:
    """Return the book of what a tier pays at a place: one for all places, unless it depends on theirs."""
    if isinstance(tier.price, Multiplier):
        return f"{charge_book(place)} for tier {tier.name}"
    return f"tier {tier.name}"


def prices_in_force(
    control: Control, settings: Settings, env: Mapping[str, str], *, now_us: int
) -> dict[tuple[str, str], Prices]:
    """Return both legs by (pool, model). Raises `LookupError` where none holds: a defect."""
    tiers = tier_plans(settings.tiers)
    return {
        (name, model): Prices(
            cost=_in_force(control, cost_book(place), model, now_us),
            charge=_in_force(control, charge_book(place), model, now_us),
            tiers={
                name: _in_force(control, tier_book(place, tier), model, now_us)
                for name, tier in tiers.items()
            },
        )
        for name, place in places(settings, env).items()
        for model in place.models
    }


def _in_force(control: Control, book: str, model: str, now_us: int) -> Price:
    price = control.price_at(book, model, now_us)
    if price is None:
        raise LookupError(
            f"no price of {model!r} in book {book!r} holds now; `wattmill prices list` shows them"
        )
    return price
