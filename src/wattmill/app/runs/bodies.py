"""What clients send to `/v1/runs` and are told: decoded once, and written the same way everywhere."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wattmill.app.runs.amounts import amount_of
from wattmill.ledger.stores.control_records import Budget, ControlError, LimitState, Run
from wattmill.units import S_PER_H, US_PER_S, seconds_from, usd_text
from wattmill.vocab.budget import Period, Unit


class NewRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run to be opened. `budget`: one amount, or several in different units or periods."""

    budget: str | list[str] | None = None
    name: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    agent: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    parent: Annotated[str, Meta(max_length=128)] | None = None  # id of a run of the same key
    max_depth: Annotated[int, Meta(ge=0, le=1_000)] | None = None  # levels of sub-runs below it
    max_fan_out: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None  # open ones below any one of them
    expires: str | float | None = None  # "90s", "15m", "8h", "2d", or seconds
    label: Annotated[str, Meta(max_length=128)] | None = None  # the client's own word for it
    time_zone: str = "UTC"  # of a budget per day or month


class NewStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    budget: str | list[str] | None = None


class Asked(msgspec.Struct, frozen=True):
    """Budgets, told apart as the control database keeps them."""

    cap_nusd: int | None
    limits: tuple[tuple[Unit, Period, int], ...]


def asked_of(
    budget: str | list[str] | None, *, max_depth: int | None = None, max_fan_out: int | None = None
) -> Asked:
    """Return the cap and the limits that were asked for. Raises `ControlError`."""
    cap: int | None = None
    limits: dict[tuple[Unit, Period], int] = {}
    for text in [budget] if isinstance(budget, str) else budget or ():
        unit, period, amount = amount_of(text)
        if (unit, period) in limits or (cap is not None and (unit, period) == ("nusd", "life")):
            raise ControlError(
                f"budget has {text!r} beside another one of the same unit and period; give one"
            )
        if (unit, period) == ("nusd", "life"):
            cap = amount
        else:
            limits[unit, period] = amount
    if max_depth is not None:
        limits["depth", "life"] = max_depth
    if max_fan_out is not None:
        limits["fan_out", "life"] = max_fan_out
    return Asked(cap, tuple((unit, period, amount) for (unit, period), amount in limits.items()))


def seconds_of(span: str | float) -> float:
    """Return seconds of `90s`, `15m`, `8h`, `2d` or a number of seconds. Raises `ControlError`."""
    if isinstance(span, int | float):
        seconds = float(span)
    else:
        seconds = seconds_from(span) or 0.0
    if not 0 < seconds <= 366 * 24 * S_PER_H:
        raise ControlError(f"expires is {span!r}, must be a time such as 90s, 15m, 8h or 2d, a year at most")
    return seconds


def run_body(
    run: Run, budget: Budget, *, id: str | None = None, children: int = 0, granted_less: bool = False
) -> dict[str, Any]:
    """Return what a client is told of its run. `id` only to those who have it already."""
    body: dict[str, Any] = {
        "object": "run",
        "id": id,
        "node": run.node,
        "name": budget.name.rpartition("/")[2],
        "kind": run.kind,
        "state": run.state,
        "reason": run.reason,
        "depth": run.depth,
        "label": run.label,
        "opened_at": _when(run.opened_us),
        "expires_at": None if run.expires_us is None else _when(run.expires_us),
        "path": None if id is None else f"/run/{id}/v1",
        "budget_usd": None if budget.cap_nusd is None else usd_text(budget.cap_nusd, 9),
        "spent_usd": usd_text(budget.used_nusd, 9),
        "reserved_usd": usd_text(budget.reserved_nusd, 9),
        "left_usd": None if budget.left_nusd is None else usd_text(max(0, budget.left_nusd), 9),
        "limits": [_limit(limit) for limit in budget.limits],
        "open_sub_runs": children,
    }
    if granted_less:
        body["note"] = "the budget was lowered to what the nodes above still have"
    return body


def _limit(limit: LimitState) -> dict[str, Any]:
    return {
        "unit": limit.unit,
        "period": limit.period,
        "amount": limit.amount,
        "used": limit.used,
        "left": max(0, limit.left),
        "resets_at": None if limit.resets_us is None else _when(limit.resets_us),
    }


def _when(at_us: int) -> str:
    return dt.datetime.fromtimestamp(at_us / US_PER_S, dt.UTC).isoformat(timespec="milliseconds")
