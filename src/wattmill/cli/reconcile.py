"""`wattmill reconcile`: list and settle what is in doubt."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from wattmill.app.home import Home
from wattmill.app.ledger_process import LedgerBusy, follower, hold_ledger
from wattmill.app.orders import Orders, Settle
from wattmill.cli.application import application
from wattmill.cli.control_door import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    control_at,
    factory_in,
    fail,
    show_json,
    show_table,
)
from wattmill.ledger.in_doubt import Rule
from wattmill.ledger.stores.sqlite_read import Books, DoubtRow
from wattmill.units import US_PER_S, usd_text

reconcile_app = application()

_WAIT_S = 10.0
_RULES: dict[str, Rule] = {"delivered": "delivered", "worst": "worst", "none": "none"}


@reconcile_app.command()
def main(
    requests: Annotated[
        list[str] | None, typer.Argument(metavar="[REQUEST_ID]...", help="Settle these; all with --all.")
    ] = None,
    by: Annotated[
        str,
        typer.Option(help="delivered: what was seen to leave. worst: the reservation. none: charge nothing."),
    ] = "delivered",
    every: Annotated[bool, typer.Option("--all", help="Settle everything that is in doubt.")] = False,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """List the attempts whose end nobody saw or whose tokens nobody counted, or settle them by posting.

    Attempts in doubt on owned engines settle by themselves when the engine's counter is read at rest.
    """
    if by not in _RULES:
        fail(f"--by is {by!r}, must be one of: {', '.join(_RULES)}")
    place = factory_in(home)
    doubts = _doubts(place)
    if requests or every:
        wanted = [doubt for doubt in doubts if every or doubt.request_id in (requests or [])]
        missing = set(requests or []) - {doubt.request_id for doubt in wanted}
        if missing:
            fail(f"not in doubt: {', '.join(sorted(missing))}; `wattmill reconcile` lists what is")
        _settle(place, wanted, _RULES[by])
        left = {doubt.attempt for doubt in _doubts(place)}
        if not json:
            typer.echo(
                f"settled {sum(doubt.attempt not in left for doubt in wanted)} attempts by rule {by!r}"
            )
        doubts = _doubts(place)
    if json:
        show_json([{name: getattr(doubt, name) for name in doubt.__struct_fields__} for doubt in doubts])
        return
    if not doubts:
        typer.echo("nothing is in doubt")
        return
    show_table(
        ["request", "place", "why", "since, UTC", "charged, USD"],
        [
            [
                doubt.request_id,
                doubt.pool,
                "end not seen" if doubt.state == "open" else "not counted",
                f"{dt.datetime.fromtimestamp(doubt.since_us / US_PER_S, dt.UTC):%Y-%m-%d %H:%M:%S}",
                usd_text(doubt.reserved_nusd),
            ]
            for doubt in doubts
        ],
        numbers=["charged, USD"],
    )


def _doubts(home: Home) -> list[DoubtRow]:
    try:
        with Books(home.ledger_db) as books:
            return books.doubts()
    except FileNotFoundError as error:
        fail(str(error))


def _settle(home: Home, doubts: list[DoubtRow], rule: Rule) -> None:
    """Order it of the ledger process; where none runs, do its work for a moment."""
    orders = Orders(home)
    left: list[Path] = [orders.leave(Settle(attempt=doubt.attempt, rule=rule)) for doubt in doubts]
    try:
        lock = hold_ledger(home)
    except LedgerBusy:
        until_s = time.monotonic() + _WAIT_S
        while any(path.exists() for path in left) and time.monotonic() < until_s:
            time.sleep(0.05)
        if any(path.exists() for path in left):
            fail(
                f"the ledger process did not answer within {_WAIT_S:.0f} s; the order stands, `wattmill "
                f"status`"
            )
        return
    try:
        with control_at(home.root) as control:
            books = follower(home, control)
            try:
                books.catch_up()
                orders.carry_out(books.books, at_us=time.time_ns() // 1000)
                books.step()
            finally:
                books.close()
    finally:
        os.close(lock)
