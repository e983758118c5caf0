"""`wattmill prices`: list, show and import price versions. A version is never edited."""

from __future__ import annotations

import time
from typing import Annotated, cast

import msgspec
import typer

from wattmill.cli.application import application
from wattmill.cli.control_door import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    control_at,
    fail,
    show_json,
    show_table,
    usd_cell,
    when_cell,
)
from wattmill.ledger.price_book import (
    Listing,
    Omitted,
    Published,
    Tiers,
    list_price,
    publish_listing,
    read_provider,
)
from wattmill.ledger.stores.control import Control
from wattmill.units import usd_text
from wattmill.vocab.price import Price
from wattmill.vocab.usage import TOKEN_CLASSES

prices_app = application(group=True)
TIERS = ("refuse", "base", "highest")


@prices_app.command("list")
def list_prices(
    book: Annotated[str | None, typer.Option(help="Only this price book.")] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """List the prices in force now."""
    now_us = time.time_ns() // 1_000
    with control_at(home) as control:
        names = sorted({(p.book, p.model) for p in control.prices().values() if book in (None, p.book)})
        prices = [p for b, m in names if (p := control.price_at(b, m, now_us)) is not None]
    _show_prices(prices, json)


@prices_app.command("show")
def show(
    book: Annotated[str, typer.Argument(help="Price book.")],
    model: Annotated[str, typer.Argument(help="Model.")],
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Show every version of one price, oldest first, with its source."""
    with control_at(home) as control:
        versions = [p for p in control.prices().values() if (p.book, p.model) == (book, model)]
    if not versions:
        fail(f"no price of {model!r} in book {book!r}; `wattmill prices list` shows what there is")
    versions.sort(key=lambda price: (price.effective_us, price.id))
    _show_prices(versions, json)
    if not json:
        for price in versions:
            typer.echo(f"{price.id}: {price.provenance}, {price.source or 'no source given'}")


@prices_app.command("import")
def import_prices(
    provider: Annotated[str, typer.Option(help="Provider in the data, such as openai.")],
    model: Annotated[list[str] | None, typer.Option(help="Only this model (may be repeated).")] = None,
    book: Annotated[str | None, typer.Option(help="Price book to put it in; default: the provider.")] = None,
    tiers: Annotated[
        str, typer.Option(help="Where the price jumps with the prompt's length: refuse, base or highest.")
    ] = "refuse",
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Import list prices from the installed `genai-prices` data, with their dates. Twice changes nothing."""
    if tiers not in TIERS:
        fail(f"--tiers is {tiers!r}, must be one of: {', '.join(TIERS)}")
    with control_at(home) as control:
        done, omitted = _import(control, provider, model, book or provider, cast(Tiers, tiers))
    if json:
        show_json({"published": done, "omitted": omitted})
    else:
        _show_import(done, omitted, book or provider)
    if not done:
        raise typer.Exit(1)


def _import(
    control: Control, provider: str, models: list[str] | None, book: str, tiers: Tiers
) -> tuple[list[Published], list[Omitted]]:
    found: list[Listing | Omitted] = (
        [list_price(provider, model, tiers=tiers) for model in models]
        if models
        else read_provider(provider, tiers=tiers)
    )
    now_us = time.time_ns() // 1_000
    done = [publish_listing(control, x, book=book, now_us=now_us) for x in found if isinstance(x, Listing)]
    return done, [x for x in found if isinstance(x, Omitted)]


def _show_import(done: list[Published], omitted: list[Omitted], book: str) -> None:
    _show_prices([published.price for published in done], json=False)
    for published in done:
        for note in published.listing.notes:
            typer.echo(f"note: {published.listing.model}: {note}")
    for left_out in omitted:
        typer.echo(f"left out: {left_out.model}: {left_out.reason}")
    new = sum(len(published.new) for published in done)
    typer.echo(f"{len(done)} models in book {book!r}, {new} new versions, {len(omitted)} models left out")


def _show_prices(prices: list[Price], json: bool) -> None:
    if json:
        show_json([{**msgspec.to_builtins(p), "rates_nusd_per_mtok": _rates(p)} for p in prices])
        return
    classes = [
        name
        for i, name in enumerate(TOKEN_CLASSES)
        if any(price.rates_nusd_per_mtok[i] is not None for price in prices)
    ]
    typer.echo("USD per million tokens; '-': a request that needs this class is refused")
    show_table(
        ("id", "book", "model", *(name.replace("_", " ") for name in classes), "USD/request", "from UTC"),
        [
            (
                str(price.id),
                price.book,
                price.model,
                *(usd_cell(_rates(price)[name]) for name in classes),
                usd_text(price.request_nusd),
                when_cell(price.effective_us),
            )
            for price in prices
        ],
        numbers=("id", *(name.replace("_", " ") for name in classes), "USD/request"),
    )


def _rates(price: Price) -> dict[str, int | None]:
    return dict(zip(TOKEN_CLASSES, price.rates_nusd_per_mtok, strict=True))
