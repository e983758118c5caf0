"""`wattmill plan`: what do I buy for this demand, what does a token cost, what binds, how sure is it?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from wattmill.app.declared.demand_file import Asking, load_demand
from wattmill.cli.application import application
from wattmill.cli.bar import with_bar
from wattmill.cli.config import refuse
from wattmill.cli.control_door import DEFAULT_HOME, JsonOption, fail, show_json
from wattmill.cli.kept_result import KeepInOption, keep_result, now_us
from wattmill.cli.operators_option import OperatorsOption, operator_tables
from wattmill.cli.pictures import PlotsOption, write_pictures
from wattmill.cli.plan_tables import show_plan
from wattmill.cli.plan_tables_further import show_break_even, show_played, show_sureness, show_sweep

if TYPE_CHECKING:
    from wattmill.twin.planning.spread import Where
    from wattmill.twin.plots.chart import Chart

plan_app = application()


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
    plots: PlotsOption = None,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Play points of the front on the simulated engine, beside the law."),
    ] = False,
    operators: OperatorsOption = False,
    keep_in: KeepInOption = DEFAULT_HOME,
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
        prior = operator_tables() if operators else None
        law = partial(predict, prior=prior)
        found = answered(asking.demand, asking.trace, law, declared_power, extrapolate=extrapolate)
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
        varied = _swept(asking, extrapolate, on, operators=operators, quiet=json) if sweep else []
    except NoCluster as error:
        fail(str(error))
    played = _played(found, prior, quiet=json) if simulate else []
    written = _plots(plots, found, even, sure, played) if plots is not None else []
    if json:
        told = {"plan": found.plan, "sureness": sure, "break_even": even, "sweep": varied, "plots": written}
        show_json(msgspec.to_builtins(told | {"played": played}))
        _keep(keep_in, found, even, sure, played, quiet=True)
        return
    show_plan(asking.demand, found.plan, why=why)
    if even is not None:
        show_break_even(even)
    show_sureness(asking.demand, sure)
    if varied:
        show_sweep(varied)
    if played:
        show_played(played)
    for name in written:
        typer.echo(f"wrote {name}")
    _keep(keep_in, found, even, sure, played, quiet=False)


def _swept(asking: Asking, extrapolate: bool, on: str, *, operators: bool, quiet: bool) -> list[Any]:
    """Plan every variation, with a bar on a terminal: on a large demand that takes minutes."""
    from wattmill.twin.planning.sweep import sweep, variations

    count = len(list(variations(asking.demand, asking.trace, extrapolate=extrapolate)))
    where: Where = "ray" if on == "ray" else "here"
    work = sweep(asking.demand, asking.trace, extrapolate=extrapolate, on=where, operators=operators)
    return with_bar(work, "planning", count, quiet=quiet)


def _played(found: Any, prior: Any, *, quiet: bool) -> list[Any]:
    """Play the front's points, with a bar on a terminal: the first one waits for the compiler."""
    from wattmill.twin.planning.played import played, to_play

    chosen = to_play(found)
    return with_bar(played(found, chosen, prior=prior), "simulating", len(chosen), quiet=quiet)


def _charts(found: Any, even: Any, sure: Any, played: Any) -> dict[str, tuple[Chart, ...]]:
    """Return the pictures of a plan by the name of their file."""
    from wattmill.twin.planning.pareto import break_even_chart, front_charts, sureness_chart

    drawn = {"pareto.svg": front_charts(found, played), "cost.svg": (sureness_chart(sure),)}
    return drawn if even is None else drawn | {"break-even.svg": (break_even_chart(even),)}


def _keep(home: Path, found: Any, even: Any, sure: Any, played: Any, *, quiet: bool) -> None:
    from wattmill.app.results.planned import planned

    charts = [chart for charts in _charts(found, even, sure, played).values() for chart in charts]
    sheet = planned(found.plan, sure, even, charts=charts, played=played, at_us=now_us())
    keep_result(home, sheet, quiet=quiet)


def _plots(folder: Path, found: Any, even: Any, sure: Any, played: Any) -> list[str]:
    return write_pictures(folder, _charts(found, even, sure, played))
