"""What people do with runs: look at them, stop them, let them go on, give them more. Each call blocks."""

from __future__ import annotations

import msgspec

from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import Budget, NoSuch, Run
from wattmill.ledger.stores.control_runs import Runs
from wattmill.units import whole_from
from wattmill.vocab.budget import Period, Unit


class RunLine(msgspec.Struct, frozen=True, kw_only=True):
    """One run as people see it. Nobody but its client has its id."""

    node: int
    name: str  # "org/team/key/run"
    kind: str
    state: str
    reason: str | None
    depth: int
    label: str | None
    opened_us: int
    expires_us: int | None
    budget: Budget


def all_runs(control: Control, *, ended_too: bool = False, limit: int = 200) -> list[RunLine]:
    """Return runs, the newest first: those that are open or paused, or all."""
    runs = Runs(control)
    states = ("open", "paused", "stopped", "closed") if ended_too else ("open", "paused")
    marks = ", ".join("?" for _ in states)
    with control.reading() as db:
        nodes = [
            node
            for (node,) in db.execute(
                "SELECT run.node FROM run JOIN node ON node.id = run.node "
                f"WHERE kind = 'run' AND state IN ({marks}) ORDER BY run.node DESC LIMIT ?",
                (*states, limit),
            )
        ]
    return [_line(runs, runs.at(node)) for node in nodes]


def find_run(control: Control, text: str) -> Run:
    """Return the run with that number, full name, or name if only one has it. Raises `NoSuch`."""
    runs = Runs(control)
    number = whole_from(text)
    if number is not None:
        return runs.at(number)
    last = text.rpartition("/")[2]
    with control.reading() as db:
        rows = db.execute(
            "SELECT run.node FROM run JOIN node ON node.id = run.node WHERE name = ? "
            "ORDER BY state IN ('open', 'paused') DESC, run.node DESC LIMIT 50",
            (last,),
        ).fetchall()
    found = [run for (node,) in rows if _named(run := runs.at(node), runs, text)]
    live = [run for run in found if run.state in ("open", "paused")] or found
    if not live:
        raise NoSuch(f"no run {text!r}; `wattmill runs list --all` shows them")
    if len(live) > 1:
        numbers = ", ".join(str(run.node) for run in live[:5])
        raise NoSuch(f"{len(live)} runs are called {text!r}: {numbers}; name one by its number")
    return live[0]


def line_of(control: Control, run: Run) -> RunLine:
    runs = Runs(control)
    return _line(runs, runs.at(run.node))


def pause(control: Control, run: Run, reason: str | None) -> RunLine:
    """Hold a run: it is refused until it is resumed. What is in flight ends as it would."""
    return _set(control, run, "paused", reason or "by a person")


def stop(control: Control, run: Run, reason: str | None) -> RunLine:
    """End a run and all below it for good."""
    return _set(control, run, "stopped", reason or "by a person")


def resume(control: Control, run: Run) -> RunLine:
    """Let a paused run go on."""
    return _set(control, run, "open", None)


def top_up(control: Control, run: Run, more: int, *, unit: Unit = "nusd", period: Period = "life") -> RunLine:
    """Raise the cap of a run, or another limit of its own, and let it go on if it is paused. What holds above
    it holds as before."""
    runs = Runs(control)
    return _line(runs, runs.top_up(run.node, more, unit=unit, period=period))


def _set(control: Control, run: Run, state: str, reason: str | None) -> RunLine:
    runs = Runs(control)
    return _line(runs, runs.set_state(run.node, state, reason))  # type: ignore[arg-type]


def _named(run: Run, runs: Runs, text: str) -> bool:
    return "/" not in text or runs.budget(run.node).name == text


def _line(runs: Runs, run: Run) -> RunLine:
    budget = runs.budget(run.node)
    return RunLine(
        node=run.node,
        name=budget.name,
        kind=run.kind,
        state=run.state,
        reason=run.reason,
        depth=run.depth,
        label=run.label,
        opened_us=run.opened_us,
        expires_us=run.expires_us,
        budget=budget,
    )
