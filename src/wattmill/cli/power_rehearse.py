"""`wattmill power rehearse`: a grid event played on the factory that a plan finds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from wattmill.app.declared.demand_file import Asking, load_demand
from wattmill.app.results.rehearsed import rehearsed, verdict
from wattmill.cli.config import refuse
from wattmill.cli.control_door import DEFAULT_HOME, JsonOption, fail, show_json, show_table
from wattmill.cli.kept_result import KeepInOption, keep_result, now_us
from wattmill.cli.spans import seconds_of, share_of
from wattmill.power.signal.account import GRACE_S, merged
from wattmill.power.signal.spec import FlexRules
from wattmill.units import J_PER_MWH, W_PER_MW

if TYPE_CHECKING:
    from wattmill.twin.rehearsal.spec import Rehearsal


_TIER_FIGURES = (
    "asked", "refused", "promise kept", "put off Mtok", "longest wait s", "refused Mtok", "lost $",
)  # fmt: skip


def rehearse(
    file: Annotated[Path, typer.Argument(help="A demand file of `wattmill plan`; examples/ has some.")],
    reduce: Annotated[
        str | None, typer.Option("--reduce", metavar="25%", help="Less than the mean before the notice.")
    ] = None,
    mw: Annotated[float | None, typer.Option("--mw", help="At most so many megawatts at the meter.")] = None,
    for_: Annotated[str, typer.Option("--for", metavar="3h", help="How long the limit holds.")] = "3h",
    notice: Annotated[str, typer.Option("--notice", metavar="10m", help="Told so long before.")] = "10m",
    lead: Annotated[
        str, typer.Option("--lead", metavar="5m", help="The way down begins so long before, if told.")
    ] = "5m",
    load: Annotated[
        float | None,
        typer.Option(help="Demand at that hour over its mean. Default: the file's peak_to_mean.", min=0.01),
    ] = None,
    protect: Annotated[
        list[str] | None, typer.Option(help="Tier that is never held back; default: who pays most.")
    ] = None,
    deferrable: Annotated[
        str, typer.Option(metavar="30%", help="Share of the lowest tier that waits as long as it must.")
    ] = "30%",
    patience: Annotated[
        str, typer.Option(metavar="60s", help="Who waits longer is refused, of all tiers.")
    ] = "60s",
    keep_on: Annotated[
        bool, typer.Option("--keep-on", help="Leave idle machines on; else they are switched off meanwhile.")
    ] = False,
    after: Annotated[str, typer.Option(metavar="1h", help="Played on for so long after the end.")] = "1h",
    seed: Annotated[int, typer.Option(help="Seed of arrivals.")] = 1,
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Use predictions beyond what was measured, too.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="File for the picture, SVG.")] = None,
    keep_in: KeepInOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Play a grid event on the factory that `wattmill plan` finds for a demand, before there is one."""
    asking = load_demand(file)
    if not isinstance(asking, Asking):
        refuse(asking)
    # The solver and the law are heavy: only a file that is right waits for them.
    from wattmill.twin.planning.answer import answered
    from wattmill.twin.planning.performance import declared_power
    from wattmill.twin.planning.solver import Infeasible
    from wattmill.twin.prediction import predict
    from wattmill.twin.rehearsal.planned import site_of
    from wattmill.twin.rehearsal.run import Ask
    from wattmill.twin.rehearsal.run import rehearse as played
    from wattmill.twin.rehearsal.spec import NodesOff

    try:
        found = answered(asking.demand, asking.trace, predict, declared_power, extrapolate=extrapolate)
        site = site_of(
            found,
            load=load if load is not None else found.plan.totals.peak_to_mean,
            protect=tuple(protect or ()),
            patience_s=seconds_of("--patience", patience),
            deferrable=share_of("--deferrable", deferrable),
            nodes_off=None if keep_on else NodesOff(),
        )
        ask = Ask(
            reduce=None if reduce is None else share_of("--reduce", reduce),
            limit_w=None if mw is None else mw * W_PER_MW,
            notice_s=seconds_of("--notice", notice),
            duration_s=seconds_of("--for", for_),
            after_s=seconds_of("--after", after),
            seed=seed,
        )
        run = played(site, ask, FlexRules(lead_s=seconds_of("--lead", lead)))
    except Infeasible as error:
        fail(f"{error}: raise one of [limits], lower the demand, or give way on a promise")
    except (ValueError, RuntimeError) as error:
        fail(str(error))
    sheet = rehearsed(run, at_us=now_us())
    if json:
        show_json(msgspec.structs.replace(run, samples=tuple(merged(run.samples, 900))))
    else:
        _show(run)
    if plot is not None:
        _plot(plot, sheet.charts[0], quiet=json)
    keep_result(keep_in, sheet, quiet=json)


def _show(run: Rehearsal) -> None:
    got = run.reached
    typer.echo(f"{run.site}, seed {run.seed}: {verdict(run)}")
    base = got.baseline_w or 0.0
    show_table(
        ("power at the meter, modelled", "MW"),
        [
            ("baseline, mean before the notice", f"{base / W_PER_MW:.3f}"),
            (
                f"limit ({1 - got.limit_w / base:.0%} less)" if base else "limit",
                f"{got.limit_w / W_PER_MW:.3f}",
            ),
            ("mean while it held", f"{got.mean_w / W_PER_MW:.3f}"),
            ("highest 10-second mean in it", f"{got.highest_w / W_PER_MW:.3f}"),
            ("peak before", f"{(got.peak_before_w or 0) / W_PER_MW:.3f}"),
            ("peak after", f"{(got.peak_after_w or 0) / W_PER_MW:.3f}"),
            ("idle, at the least", f"{run.idle_w / W_PER_MW:.3f}"),
        ],
        numbers=("MW",),
    )
    met = "never" if got.met_after_s is None else f"after {got.met_after_s:.0f} s"
    typer.echo(f"met {met} ({GRACE_S:.0f} s allowed); {got.over_s:.0f} s above the limit after that")
    rebound = (got.rebound_j or 0.0) / J_PER_MWH
    typer.echo(
        f"energy not used {(got.joules_not_used or 0) / J_PER_MWH:.2f} MWh, rebound above the baseline "
        f"{rebound:.3f} MWh; ramps {run.ramp_down_w_per_s / 1e3:.0f} kW/s down, "
        f"{run.ramp_up_w_per_s / 1e3:.0f} kW/s up"
    )
    gone = run.backlog_gone_after_s
    typer.echo(
        f"tokens not made meanwhile {run.tok_not_made / 1e9:.3f} G; the backlog was gone "
        + (f"{gone:.0f} s after the end" if gone is not None else "not within the time played")
        + (f"; at most {run.most_replicas_off:,} replicas were switched off" if run.most_replicas_off else "")
    )
    show_table(
        (
            "tier",
            "asked",
            "refused",
            "promise kept",
            "put off Mtok",
            "longest wait s",
            "refused Mtok",
            "lost $",
        ),
        [
            (
                f"{one.tier} (protected)" if one.protected else one.tier,
                f"{one.asked:,.0f}",
                f"{one.refused:,.0f}",
                "-" if one.kept is None else f"{one.kept:.1%}",
                f"{one.deferred_tok / 1e6:,.1f}",
                f"{one.longest_wait_s:,.0f}",
                f"{one.refused_tok / 1e6:,.1f}",
                f"{one.value_lost_usd:,.0f}",
            )
            for one in run.tiers
        ],
        numbers=(
            "asked",
            "refused",
            "promise kept",
            "put off Mtok",
            "longest wait s",
            "refused Mtok",
            "lost $",
        ),
    )


def _plot(file: Path, chart: object, *, quiet: bool) -> None:
    from wattmill.twin.plots.chart import Chart, picture

    assert isinstance(chart, Chart)
    try:
        file.write_text(picture(chart), encoding="utf-8")
    except OSError as error:
        fail(f"--plot {file} cannot be written: {error.strerror}")
    if not quiet:
        typer.echo(f"wrote {file}")
