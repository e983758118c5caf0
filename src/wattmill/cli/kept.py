"""`wattmill kept`: what a factory keeps for its tenants, and how it is deleted."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from wattmill.app.home import Home
from wattmill.app.kept.spec import KeptUnavailable, Kind, WrongKeptFormat
from wattmill.app.kept.store import KeptStore
from wattmill.app.running.worker_control import ask_workers
from wattmill.cli.application import application
from wattmill.cli.control_door import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    control_at,
    fail,
    show_json,
    show_table,
)
from wattmill.ledger.tenancy import name_of

kept_app = application(group=True)
_KINDS = get_args(Kind)


@kept_app.command("show")
def show(home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """Show how many items of each kind each key or team keeps, and their bytes. Never what is in them."""
    with control_at(home) as control:
        nodes = control.nodes()
    store = KeptStore(Home(home).kept_db)
    try:
        held = store.held()
    except (KeptUnavailable, WrongKeptFormat) as error:
        fail(str(error))
    finally:
        store.close()
    rows = [
        {
            "kind": kind,
            "spender": name_of(nodes, node) if node in nodes else f"node {node}",
            "items": items,
            "bytes": size,
        }
        for (kind, node), (items, size) in sorted(held.items())
    ]
    if json:
        show_json(rows)
        return
    show_table(
        ("kind", "kept for", "items", "bytes"),
        [(str(r["kind"]), str(r["spender"]), str(r["items"]), str(r["bytes"])) for r in rows],
        numbers=("items", "bytes"),
    )


@kept_app.command("delete")
def delete(
    kind: Annotated[
        str | None, typer.Option(help=f"One kind only: {', '.join(_KINDS)}.", show_default=False)
    ] = None,
    spender: Annotated[
        str | None,
        typer.Option("--for", metavar="ORG/TEAM[/KEY]", help="One key or team only.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that is kept.")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Delete and overwrite what is kept; running workers forget it within a second. The books stay."""
    if kind is not None and kind not in _KINDS:
        fail(f"no kind {kind!r}; there are {', '.join(_KINDS)}")
    if kind is None and spender is None and not everything:
        fail("say what: --kind, --for ORG/TEAM, both, or --all")
    with control_at(home) as control:
        node = control.find(spender).id if spender is not None else None
    store = KeptStore(Home(home).kept_db)
    try:
        gone = store.delete_all(kind=kind, node=node)
    except (KeptUnavailable, WrongKeptFormat) as error:
        fail(str(error))
    finally:
        store.close()
    silent = ask_workers(Home(home), "forget")
    typer.echo(f"{gone} items deleted and overwritten")
    if silent:
        fail(f"{len(silent)} workers did not answer; they may tell cached answers until these expire")
