"""Opening, showing and closing runs: what `/v1/runs` does. Each function blocks; call it in a thread."""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.agents.runaway.policy import sub_runs
from wattmill.agents.runaway.spec import Rules, Verdict
from wattmill.app.runs.bodies import NewRun, NewStep, asked_of, run_body, seconds_of
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import TooDeep, TooWide
from wattmill.ledger.stores.control_records import ControlError, NoSuch, Run
from wattmill.ledger.stores.control_runs import Runs, TooMany
from wattmill.units import US_PER_S
from wattmill.vocab.refusal import Refusal

MAX_STEPS = 64
"""Named steps of one run that have a node of their own; requests of further ones count at the run."""
_WINDOW_US = 60 * US_PER_S


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What the factory allows of runs."""

    max_open: int = 1_000  # per key
    max_depth: int = 16
    expires_s: float = 86_400.0  # of a run that names no end
    rules: Rules = Rules()


class Opened(msgspec.Struct, frozen=True):
    run: Run
    id: str
    body: dict[str, Any]
    storm: Verdict | None  # sub-runs come too fast; what is done about it is the caller's to say
    root: int  # node of the outermost run


def open_run(control: Control, key: int, asked: NewRun, parent: Run | None, terms: Terms) -> Opened | Refusal:
    """Open a run of `key`, below `parent` if given."""
    runs = Runs(control)
    try:
        wanted = asked_of(asked.budget, max_depth=asked.max_depth, max_fan_out=asked.max_fan_out)
        expires_s = terms.expires_s if asked.expires is None else seconds_of(asked.expires)
        expires_us = control.wall_us() + round(expires_s * US_PER_S)
        if parent is not None and parent.expires_us is not None:
            expires_us = min(expires_us, parent.expires_us)
        refusal = _too_deep(parent, terms, levels=1 if asked.agent is None else 2)
        if refusal is not None:
            return refusal
        above = parent.node if parent is not None else None
        if asked.agent is not None:
            agent = _agent(control, runs, key, above, asked.agent)
            if agent.state != "open":
                return not_open(agent)
            above = agent.node
        run, id = runs.open(
            key,
            parent=above,
            name=asked.name,
            cap_nusd=wanted.cap_nusd,
            limits=wanted.limits,
            zone=asked.time_zone,
            expires_us=expires_us,
            label=asked.label,
            most=terms.max_open,
        )
    except TooMany as error:
        return Refusal(
            code="run_limit",
            message=f"this key has {error.live} open runs, runs.max_open allows {terms.max_open}; close "
            "some, or let them expire sooner",
        )
    except (TooDeep, TooWide) as error:
        return Refusal(code="run_limit", message=str(error))
    except ControlError as error:
        return Refusal(code="bad_value", message=str(error))
    root = _outermost(control, run)
    storm = None
    if root != run.node:
        opened, deepest = _opened_below(control, root, control.wall_us() - _WINDOW_US)
        storm = sub_runs(opened, deepest, terms.rules)
    budget = runs.budget(run.node)
    granted = {("nusd", "life"): run.cap_nusd} | {(at.unit, at.period): at.amount for at in budget.limits}
    less = (run.cap_nusd or 0) < (wanted.cap_nusd or 0) or any(
        (granted.get((unit, period)) or 0) < amount for unit, period, amount in wanted.limits
    )
    return Opened(run, id, run_body(run, budget, id=id, granted_less=less), storm, root)


def show_run(control: Control, run: Run, id: str | None) -> dict[str, Any]:
    """Return a run as it is now."""
    runs = Runs(control)
    now = runs.at(run.node)
    return run_body(now, runs.budget(run.node), id=id, children=_children(control, run.node))


def close_run(control: Control, run: Run, id: str | None, reason: str | None) -> dict[str, Any]:
    """Close a run and all below it; one that is over stays as it ended. What it did not use was never
    taken from those above it."""
    runs = Runs(control)
    if runs.at(run.node).state in ("open", "paused"):
        runs.set_state(run.node, "closed", reason)
    return show_run(control, run, id)


def not_open(run: Run) -> Refusal:
    """Return why a run, agent or step that is not open serves nothing, and the way out."""
    why = f": {run.reason}" if run.reason else ""
    if run.state == "paused":
        return Refusal(
            code="run_paused",
            message=f"{run.kind} {run.name!r} is paused{why}; a person may let it go on: "
            f"wattmill runs resume {run.node}, or wattmill runs top-up {run.node} 1 USD",
        )
    way_out = "open a new one: POST /v1/runs" if run.kind == "run" else "use another name"
    return Refusal(code="run_ended", message=f"{run.kind} {run.name!r} is {run.state}{why}; {way_out}")


def open_step(control: Control, run: Run, asked: NewStep) -> Run | Refusal:
    """Return the step of `run` with that name in whatever state, made if it is new."""
    found = find_child(control, run.node, asked.name, "step")
    if found is not None:
        return found
    try:
        wanted = asked_of(asked.budget)
        step, _ = Runs(control).open(
            run.key,
            parent=run.node,
            kind="step",
            name=asked.name,
            cap_nusd=wanted.cap_nusd,
            limits=wanted.limits,
            expires_us=run.expires_us,
            most=MAX_STEPS,
        )
        return step
    except TooMany:
        return Refusal(
            code="run_limit", message=f"a run has at most {MAX_STEPS} named steps; reuse their names"
        )
    except (TooDeep, TooWide) as error:
        return Refusal(code="run_limit", message=str(error))
    except ControlError as error:
        found = find_child(control, run.node, asked.name, "step")  # another worker was faster
        return found or Refusal(code="bad_value", message=str(error))


def find_child(control: Control, parent: int, name: str, kind: str) -> Run | None:
    """Return the agent, run or step with that name directly below a node, in whatever state."""
    with control.reading() as db:
        row = db.execute(
            "SELECT node.id FROM node JOIN run ON run.node = node.id "
            "WHERE ifnull(parent, 0) = ? AND name = ? AND kind = ?",
            (parent, name, kind),
        ).fetchone()
    return None if row is None else Runs(control).at(row[0])


def live_runs(control: Control, key: int | None = None, *, limit: int = 200) -> list[tuple[Run, Any]]:
    """Return the live runs of a key, or of all, with their money; the newest first."""
    runs = Runs(control)
    found = [run for run in runs.live(key) if run.kind == "run"]
    return [(run, runs.budget(run.node)) for run in reversed(found[-limit:])]


def _agent(control: Control, runs: Runs, key: int, above: int | None, name: str) -> Run:
    """Return the agent with that name, made if it is new."""
    found = find_child(control, above if above is not None else key, name, "agent")
    if found is None:
        try:
            found, _ = runs.open(key, parent=above, kind="agent", name=name)
        except ControlError:  # another worker may have been faster
            found = find_child(control, above if above is not None else key, name, "agent")
            if found is None:
                raise
    return found


def _too_deep(parent: Run | None, terms: Terms, *, levels: int) -> Refusal | None:
    depth = levels + (0 if parent is None else parent.depth)
    if depth <= terms.max_depth:
        return None
    return Refusal(
        code="run_limit",
        message=f"this would be level {depth} of runs, runs.max_depth allows {terms.max_depth}",
    )


def _children(control: Control, node: int, kind: str = "run") -> int:
    with control.reading() as db:
        (count,) = db.execute(
            "SELECT count(*) FROM node JOIN run ON run.node = node.id "
            "WHERE ifnull(parent, 0) = ? AND kind = ? AND state IN ('open', 'paused')",
            (node, kind),
        ).fetchone()
    return int(count)


def _outermost(control: Control, run: Run) -> int:
    """Return the first node of kind "run" on the way down to `run`."""
    with control.reading() as db:
        for node in run.path[-run.depth :]:
            if db.execute("SELECT kind FROM node WHERE id = ?", (node,)).fetchone() == ("run",):
                return node
    return run.node


def _opened_below(control: Control, root: int, since_us: int) -> tuple[int, int]:
    """Return how many runs below `root` were opened since then, and how many levels below it they reach."""
    with control.reading() as db:
        count, deepest = db.execute(
            "WITH RECURSIVE below(id, level) AS (SELECT id, 1 FROM node WHERE ifnull(parent, 0) = ?1 "
            "UNION ALL "
            "SELECT node.id, level + 1 FROM node JOIN below ON ifnull(node.parent, 0) = below.id) "
            "SELECT count(*), ifnull(max(level), 0) FROM below JOIN run ON run.node = below.id "
            "JOIN node ON node.id = below.id WHERE opened_us >= ?2 AND kind = 'run'",
            (root, since_us),
        ).fetchone()
    return int(count), int(deepest)


def no_such(error: NoSuch) -> Refusal:
    return Refusal(code="unknown_run", message=str(error))
