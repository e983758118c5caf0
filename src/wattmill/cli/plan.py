"""`wattmill plan`: what do I buy for this demand, what does a token cost, what binds, how sure is it?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wattmill.app.declared.demand_file import Asking, load_demand
from wattmill.cli.config import refuse
from wattmill.cli.control_door import JsonOption, fail, show_json
from wattmill.cli.plan_tables import show_plan

plan_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@plan_app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="A demand file; examples/ has some.")],
    extrapolate: Annotated[
        bool,
        typer.Option("--extrapolate", help="Use predictions beyond what was measured, too. Each is marked."),
    ] = False,
    why: Annotated[bool, typer.Option("--why", help="List every configuration that was left out.")] = False,
    json: JsonOption = False,
) -> None:
    """Find the cheapest or most profitable factory for a demand, with its proof and its uncertainty."""
    asking = load_demand(file)
    if not isinstance(asking, Asking):
        refuse(asking)
    # The solver and the law are heavy: only a file that is right waits for them.
    from wattmill.twin.planning.answer import answered
    from wattmill.twin.planning.performance import declared_power
    from wattmill.twin.planning.solver import Infeasible
    from wattmill.twin.prediction import predict

    try:
        found = answered(asking.demand, asking.trace, predict, declared_power, extrapolate=extrapolate)
    except (Infeasible, ValueError, RuntimeError) as error:
        fail(str(error))
    if json:
        show_json({"plan": msgspec.to_builtins(found.plan)})
    else:
        show_plan(asking.demand, found.plan, why=why)
