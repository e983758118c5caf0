"""A rehearsed grid event as a sheet: power against what was asked, who gave way, what it was worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wattmill.app.results.making import fact, modelled, table, usd
from wattmill.app.results.sheet import Sheet
from wattmill.power.signal.account import GRACE_S
from wattmill.twin.plots.chart import Axis, Chart, Series, thin
from wattmill.units import W_PER_MW

if TYPE_CHECKING:
    from wattmill.twin.rehearsal.spec import Rehearsal


def rehearsed(run: Rehearsal, *, at_us: int) -> Sheet:
    """Return the sheet of one rehearsal."""
    got = run.reached
    return Sheet(
        kind="rehearse",
        at_us=at_us,
        key=run.site,
        title=f"{run.site}: at most {got.limit_w / W_PER_MW:.2f} MW for {run.duration_s / 3600:.3g} h",
        says=verdict(run),
        facts=(
            fact("baseline", got.baseline_w, "w", note="mean of the time before notice"),
            fact("limit", got.limit_w, "w", "declared"),
            fact("mean while it held", got.mean_w, "w"),
            fact("met after", got.met_after_s, "s", note=f"{GRACE_S:.0f} s allowed"),
            fact("above the limit", got.over_s, "s", note="10-second means, once the grace had passed"),
            fact("not used", got.joules_not_used, "j", note="against the baseline"),
            fact("rebound above the baseline", got.rebound_j, "j"),
            fact("peak before", got.peak_before_w, "w", note="10-second means"),
            fact("peak after", got.peak_after_w, "w", note="a new demand peak if above the one before"),
            fact("tokens not made", run.tok_not_made, "tok", note="while it held, against the time before"),
        ),
        charts=(power_chart(run),),
        tables=(
            table(
                "tiers",
                "Who gave way",
                [
                    "tier", "asked", "refused", "promise kept", "put off", "longest wait", "refused tokens",
                    "lost",
                ],
                [
                    [
                        f"{one.tier} (protected)" if one.protected else one.tier,
                        modelled(one.asked, "count"), modelled(one.refused, "count"),
                        modelled(one.kept, "ratio"), modelled(one.deferred_tok, "tok"),
                        modelled(one.longest_wait_s, "s"), modelled(one.refused_tok, "tok"),
                        usd(one.value_lost_usd),
                    ]
                    for one in run.tiers
                ],
                note="Lost: what the refused would have paid. Promise kept: of those begun or refused in it.",
            ),
        ),
        notes=(
            "The governor is the live factory's; pools are fluids, moved by the laws of step time and power.",
            f"Seed {run.seed}. Replicas are filled one after another; {run.most_replicas_off:,} of them were "
            "switched off at most.",
        ),
    )  # fmt: skip


def verdict(run: Rehearsal) -> str:
    """Return whether the limit was met, in one sentence."""
    got = run.reached
    kept = [one for one in run.tiers if one.protected and one.kept is not None]
    who = ", ".join(f"{one.tier} kept {one.kept:.1%} of its promises" for one in kept)
    if run.infeasible_floor_w is not None:
        return (
            f"infeasible: {run.infeasible_floor_w / W_PER_MW:.2f} MW is what was reached of "
            f"{got.limit_w / W_PER_MW:.2f}; {who}"
        )
    return f"met, {got.mean_w / W_PER_MW:.2f} of {got.limit_w / W_PER_MW:.2f} MW in the mean; {who}"


def power_chart(run: Rehearsal) -> Chart:
    start_s = next(one.at_s for one in run.samples if one.phase == "active")

    def line(values: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
        return thin(values)

    power = [((one.at_s - start_s) / 60.0, one.power_w / W_PER_MW) for one in run.samples]
    target = [
        ((one.at_s - start_s) / 60.0, one.target_w / W_PER_MW)
        for one in run.samples
        if one.target_w is not None
    ]
    return Chart(
        id="power",
        kind="lines",
        title="Power at the meter",
        says=verdict(run),
        x=Axis(label="time since the start", unit="min", provenance="modelled"),
        y=Axis(label="power", unit="MW", provenance="modelled"),
        series=(
            Series(name="drawn", points=line(power)),
            Series(name="allowed", points=line(target), dashed=True),
        ),
    )
