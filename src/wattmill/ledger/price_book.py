"""List prices of providers, from the dated data of the `genai-prices` package, as price versions.

Reads the package's data, not its calculation. Its import is slow and heavy, so it happens on the first call,
and never in the gateway's process.
"""

from __future__ import annotations

import datetime as dt
import importlib
import importlib.metadata
from decimal import Decimal
from typing import Any, Literal

import msgspec

from wattmill.ledger.cost_basis import owned_rates
from wattmill.ledger.stores.control import Control
from wattmill.units import US_PER_S, nusd_from_usd
from wattmill.vocab.price import Price
from wattmill.vocab.usage import TOKEN_CLASSES

__all__ = [
    "Listing",
    "Omitted",
    "Published",
    "Version",
    "list_price",
    "owned_rates",
    "publish_listing",
    "read_provider",
]

Tiers = Literal["refuse", "base", "highest"]
"""What to do with a price that jumps with the length of the prompt: leave the model out, take the rate of
short prompts (wrong for long ones), or the dearest (a ceiling: never too little)."""

# Our class <- the data's key, or the key whose price it has where the data names none (that is the data's own
# rule: a part without a price costs what the whole costs). Audio costs far more than text wherever it has a
# price, so without one it stays unpriced.
CLASS_KEYS: dict[str, tuple[str, ...]] = {
    "input": ("input_mtok",),
    "cached_input": ("cache_read_mtok", "input_mtok"),
    "cache_write": ("cache_write_mtok", "input_mtok"),
    "audio_input": ("input_audio_mtok",),
    "output": ("output_mtok",),
    "reasoning": ("output_reasoning_mtok", "output_mtok"),
    "audio_output": ("output_audio_mtok",),
}
REQUEST_KEY = "requests_kcount"  # dollars per thousand requests
assert tuple(CLASS_KEYS) == TOKEN_CLASSES


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """Rates from an instant on (0: since ever, as far as the data know)."""

    effective_us: int
    rates_nusd_per_mtok: tuple[int | None, ...]
    request_nusd: int


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider lists for one model. `notes` name what the data have and a price cannot say."""

    provider: str
    model: str  # as asked for, or the data's own id
    versions: tuple[Version, ...]  # oldest first, at least one
    source: str
    notes: tuple[str, ...]


class Omitted(msgspec.Struct, frozen=True, kw_only=True):
    """A model that cannot be priced here, and why."""

    provider: str
    model: str
    reason: str


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a listing: the price in force now, and the versions that were added."""

    listing: Listing
    price: Price
    new: tuple[Price, ...]


def providers() -> list[str]:
    """Return the provider ids in the data."""
    return [provider.id for provider in _data()]


def list_price(provider: str, model: str, *, tiers: Tiers = "refuse") -> Listing | Omitted:
    """Return what `provider` lists for `model`, found by its id or any name that the data match to it."""
    found = _provider(provider).find_model(model)
    if found is None:
        return Omitted(provider=provider, model=model, reason="not in the data of this provider")
    return _listing(_provider(provider), found, model, tiers)


def read_provider(provider: str, *, tiers: Tiers = "refuse") -> list[Listing | Omitted]:
    """Return all models of a provider, in the order of the data."""
    held = _provider(provider)
    return [_listing(held, model, model.id, tiers) for model in held.models]


def publish_listing(
    control: Control, listing: Listing, *, book: str, now_us: int, model: str | None = None
) -> Published:
    """Publish a listing in `book`, under its own model name or `model`.

    A model that is new in the book gets its whole history. Of one that is there, only the present and the
    future change: if the data's rates of today differ from the rates in force, they hold from now on. What
    is past is not rewritten. Running it twice publishes nothing.
    """
    name = model or listing.model
    wanted = list(listing.versions)
    held = control.price_at(book, name, now_us)
    if held is not None:
        today = [v for v in wanted if v.effective_us <= now_us][-1:]
        wanted = [msgspec.structs.replace(v, effective_us=now_us) for v in today if not _same(v, held)]
        wanted += [
            v
            for v in listing.versions
            if v.effective_us > now_us and not _same(v, control.price_at(book, name, v.effective_us))
        ]
    new = tuple(
        control.publish_price(
            book,
            name,
            version.rates_nusd_per_mtok,
            version.request_nusd,
            version.effective_us,
            listing.source,
            "declared",
        )
        for version in wanted
    )
    price = control.price_at(book, name, now_us)
    assert price is not None, "the first version of a listing holds since ever"
    return Published(listing=listing, price=price, new=new)


def _same(version: Version, price: Price | None) -> bool:
    return (
        price is not None
        and version.rates_nusd_per_mtok == price.rates_nusd_per_mtok
        and version.request_nusd == price.request_nusd
    )


def _listing(provider: Any, model: Any, name: str, tiers: Tiers) -> Listing | Omitted:
    dated = _dated(model)
    if isinstance(dated, str):
        return Omitted(provider=provider.id, model=name, reason=dated)
    versions, notes = [], []
    for effective_us, prices in dated:
        values = {key: value for key, value in vars(prices).items() if value is not None}
        if "input_mtok" not in values:
            priced = ", ".join(sorted(values)) or "nothing"
            return Omitted(
                provider=provider.id, model=name, reason=f"no price per input token, only: {priced}"
            )
        jumping = sorted(key for key, value in values.items() if _is_tiered(value))
        if jumping and tiers == "refuse":
            return Omitted(
                provider=provider.id,
                model=name,
                reason=f"price depends on the prompt's length ({_tier_text(values, jumping)}); "
                "take one with --tiers base or --tiers highest",
            )
        if jumping:
            notes.append(f"{tiers} tier taken of: {_tier_text(values, jumping)}")
        notes += _unsaid(values)
        versions.append(_version(effective_us, values, tiers))
    notes += [
        "variant not used: " + ", ".join(f"{k}={v}" for k, v in sorted(variant.when.items()))
        for variant in model.price_variants or ()
        if any(value is not None for value in vars(variant.prices).values())
    ]
    return Listing(
        provider=provider.id,
        model=name,
        versions=tuple(versions),
        source=_source(provider, model, name),
        notes=tuple(dict.fromkeys(notes)),
    )


def _dated(model: Any) -> list[tuple[int, Any]] | str:
    """Return (first instant, prices), oldest first, or why that cannot be said."""
    if not isinstance(model.prices, list):
        return [(0, model.prices)]
    dated = []
    for entry in model.prices:
        start = getattr(entry.constraint, "start_date", None)
        if entry.constraint is not None and start is None:
            return "price depends on the time of day"
        dated.append((0 if start is None else _midnight_us(start), entry.prices))
    if not dated:
        return "the data have no price"
    # Of those that hold the last one counts, and the first one where none does.
    dated[0] = (0, dated[0][1])
    if [at for at, _ in dated] != sorted(at for at, _ in dated):
        return "its dated prices overlap"
    return dated


def _version(effective_us: int, values: dict[str, Any], tiers: Tiers) -> Version:
    def rate(keys: tuple[str, ...]) -> int | None:
        value = next((values[key] for key in keys if key in values), None)
        return None if value is None else nusd_from_usd(_usd(value, tiers))

    per_thousand = values.get(REQUEST_KEY)
    return Version(
        effective_us=effective_us,
        rates_nusd_per_mtok=tuple(rate(CLASS_KEYS[name]) for name in TOKEN_CLASSES),
        request_nusd=0 if per_thousand is None else nusd_from_usd(_usd(per_thousand, tiers).scaleb(-3)),
    )


def _unsaid(values: dict[str, Any]) -> list[str]:
    said = {key for keys in CLASS_KEYS.values() for key in keys} | {REQUEST_KEY}
    return [f"not priced here: {key} = {_plain(values[key])} USD" for key in sorted(values.keys() - said)]


def _usd(value: Any, tiers: Tiers) -> Decimal:
    if not _is_tiered(value):
        return Decimal(value)
    if tiers == "base":
        return Decimal(value.base)
    return max(Decimal(value.base), *(Decimal(tier.price) for tier in value.tiers))


def _is_tiered(value: Any) -> bool:
    return hasattr(value, "tiers")


def _tier_text(values: dict[str, Any], keys: list[str]) -> str:
    return "; ".join(f"{key} {_plain(values[key])}" for key in keys)


def _plain(value: Any) -> str:
    if not _is_tiered(value):
        return f"{value}"
    steps = ", ".join(f"{tier.price} above {tier.start} input tokens" for tier in value.tiers)
    return f"{value.base}, {steps}"


def _source(provider: Any, model: Any, name: str) -> str:
    page = provider.pricing_urls[0] if provider.pricing_urls else provider.name
    alias = "" if name == model.id else f" as {model.id}"
    return f"genai-prices {importlib.metadata.version('genai-prices')}: {provider.id}/{name}{alias}, {page}"


def _midnight_us(day: dt.date) -> int:
    midnight = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    return int(midnight.timestamp()) * US_PER_S


def _provider(provider: str) -> Any:
    for held in _data():
        if held.id == provider:
            return held
    raise LookupError(f"provider is {provider!r}, must be one of: {', '.join(providers())}")


def _data() -> list[Any]:
    return list(importlib.import_module("genai_prices.data").providers)
