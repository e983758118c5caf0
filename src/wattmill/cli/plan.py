"""`wattmill plan`: what do I buy for this demand, what does a token cost, what binds, how sure is it?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from wattmill.app.declared.demand_file import Asking, load_demand
from wattmill.cli.config import refuse
from wattmill.cli.control_door import JsonOption, fail, show_json
from wattmill.cli.plan_tables import show_plan
from wattmill.cli.plan_tables_further import show_break_even, show_sureness, show_sweep

plan_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@plan_app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="A demand file; examples/ has some.")],
    extrapolate: Annotated[
        bool,
        typer.Option("--extrapolate", help="Use predictions beyond what was measured, too. Each is marked."),
    ] = False,
    why: Annotated[bool, typer.Option("--why", help="List every configuration that was left out.")] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Plan again with each figure that matters moved both ways.")
    ] = False,
    on: Annotated[
        str, typer.Option(help="Where a sweep runs: here, or ray (a cluster that is already there).")
    ] = "here",
    seed: Annotated[int | None, typer.Option(help="Seed of the draws, if not the file's.")] = None,
    draws: Annotated[int | None, typer.Option(help="Number of draws, if not the file's.", min=100)] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for plots as SVG files.")] = None,
    json: JsonOption = False,
) -> None:
    """Find the cheapest or most profitable factory for a demand, with its proof and its uncertainty."""
    if on not in {"here", "ray"}:
        fail(f"--on is {on!r}, must be here or ray")
    if on == "ray" and not sweep:
        fail("--on ray spreads a sweep: add --sweep")
    asking = load_demand(file)
    if not isinstance(asking, Asking):
        refuse(asking)
    # The solver and the law are heavy: only a file that is right waits for them.
    from wattmill.twin.planning.answer import answered
    from wattmill.twin.planning.breakeven import break_even
    from wattmill.twin.planning.performance import declared_power
    from wattmill.twin.planning.solver import Infeasible
    from wattmill.twin.planning.spread import NoCluster
    from wattmill.twin.planning.uncertainty import sureness
    from wattmill.twin.prediction import predict

    try:
        found = answered(asking.demand, asking.trace, predict, declared_power, extrapolate=extrapolate)
    except Infeasible as error:
        fail(f"{error}: raise one of [limits], lower the demand, or give way on a promise")
    except (ValueError, RuntimeError) as error:
        fail(str(error))
    sure = sureness(
        found,
        draws=asking.demand.draws if draws is None else draws,
        seed=asking.demand.seed if seed is None else seed,
    )
    even = break_even(found)
    try:
        varied = _swept(asking, extrapolate, on, quiet=json) if sweep else []
    except NoCluster as error:
        fail(str(error))
    written = _plots(plots, found, even, sure) if plots is not None else []
    if json:
        show_json(
            msgspec.to_builtins(
                {"plan": found.plan, "sureness": sure, "break_even": even, "sweep": varied, "plots": written}
            )
        )
        return
    show_plan(asking.demand, found.plan, why=why)
    if even is not None:
        show_break_even(even)
    show_sureness(asking.demand, sure)
    if varied:
        show_sweep(varied)
    for name in written:
        typer.echo(f"wrote {name}")


def _swept(asking: Asking, extrapolate: bool, on: str, *, quiet: bool) -> list[Any]:
    """Plan every variation, with a bar on a terminal: on a large demand that takes minutes."""
    from rich.console import Console
    from rich.progress import track

    from wattmill.twin.planning.sweep import sweep, variations

    count = len(list(variations(asking.demand, asking.trace, extrapolate=extrapolate)))
    work = sweep(asking.demand, asking.trace, extrapolate=extrapolate, on="ray" if on == "ray" else "here")
    console = Console(stderr=True)
    return list(
        track(work, "planning", total=count, console=console, disable=quiet or not console.is_terminal)
    )


def _plots(folder: Path, found: Any, even: Any, sure: Any) -> list[str]:
    from wattmill.twin.planning.pareto import break_even_svg, front_svg, sureness_svg

    drawn = {"pareto.svg": front_svg(found), "cost.svg": sureness_svg(sure)}
    if even is not None:
        drawn["break-even.svg"] = break_even_svg(even)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in drawn.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"--plots {folder} cannot be written: {error.strerror}")
    return [str(folder / name) for name in drawn]
