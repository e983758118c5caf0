"""What a request is told when a limit does not allow it: which one, how full, what cures it, and when."""

from __future__ import annotations

import datetime as dt
import shlex

from wattmill.ledger.stores.control_records import Denied
from wattmill.units import J_PER_KWH, UJ_PER_J, US_PER_S, usd_text
from wattmill.vocab.budget import Unit
from wattmill.vocab.refusal import Refusal

_PER = {"life": "", "minute": " a minute", "hour": " an hour", "day": " a day", "month": " a month"}
_WRITTEN: dict[Unit, str] = {  # as `wattmill budget set` reads them
    "nusd": "USD",
    "total_tok": "tokens",
    "input_tok": "input_tokens",
    "output_tok": "output_tokens",
    "concurrency": "concurrent",
    "energy_uj": "J",
    "carbon_ug": "g",
}
_SOON_S = 1.0


def over_limit(denied: Denied, want: int, floor: int, *, reserved: int, now_us: int, asked: bool) -> Refusal:
    """Return the refusal of a request that needs `want`, at least `floor`, of a limit that cannot give it.

    Args:
        denied: the last word of the place where leases are kept.
        want: the worst case of the request in the limit's unit.
        floor: the least that it could be served with.
        reserved: by requests in flight, of all workers, as known.
        now_us: wall clock.
        asked: whether every other worker has told what it holds; if not, it may hold idle what is missing.
    """
    unit = denied.unit
    what = f"{denied.kind} {denied.name!r} has a {_limit_words(denied)}"
    left = denied.cap - denied.used - reserved
    state = (
        f"{amount_text(unit, denied.used)} used, {amount_text(unit, reserved)} reserved by requests in "
        f"flight, {amount_text(unit, max(0, left))} left"
    )
    least = "" if floor == want else f", at least {amount_text(unit, floor)}"
    need = f"this request may take up to {amount_text(unit, want)}{least}"
    raise_it = f"raise it: wattmill budget set {shlex.quote(denied.name)} {_example(denied)}"
    if floor > denied.cap:
        return Refusal(
            code="budget_exceeded",
            message=f"{what}: {need}, more than the whole of it. Ask for fewer tokens, or {raise_it}",
        )
    if not asked or denied.used + floor <= denied.cap:
        cure = "Wait until some of them have ended" if asked else "Another worker holds what is missing"
        return Refusal(
            code="limit_reached",
            message=f"{what}: {state}; {need}. {cure}, or {raise_it}",
            retry_after_s=_SOON_S,
        )
    if denied.resets_us is not None:
        wait_s = max(_SOON_S, (denied.resets_us - now_us) / US_PER_S)
        return Refusal(
            code="limit_reached",
            message=f"{what}: {state}, begins anew at {_instant(denied.resets_us)}; {need}. Wait until then, "
            f"or {raise_it}",
            retry_after_s=wait_s,
        )
    return Refusal(
        code="budget_exceeded", message=f"{what}: {state}; {need}. Ask for fewer tokens, or {raise_it}"
    )


def amount_text(unit: Unit, amount: int) -> str:
    """Return an amount for people, e.g. `0.000031 USD`, `512 input tokens`, `41.7 J`."""
    match unit:
        case "nusd":
            return f"{usd_text(amount)} USD"
        case "input_tok" | "output_tok" | "total_tok":
            kind = {"input_tok": "input ", "output_tok": "output ", "total_tok": ""}[unit]
            return f"{amount} {kind}tokens"
        case "energy_uj":
            if amount >= J_PER_KWH * UJ_PER_J:
                return f"{amount / (J_PER_KWH * UJ_PER_J):g} kWh"
            return f"{amount / UJ_PER_J:g} J"
        case "carbon_ug":
            return f"{amount / 1e6:g} g CO2"
        case "concurrency":
            return f"{amount} at a time"
        case "requests":
            return f"{amount} requests"
        case "depth" | "fan_out":
            return f"{unit} {amount}"


def _limit_words(denied: Denied) -> str:
    if denied.unit == "nusd" and denied.period == "life":
        return f"cap of {usd_text(denied.cap)} USD"
    return f"limit of {amount_text(denied.unit, denied.cap)}{_PER[denied.period]}"


def _example(denied: Denied) -> str:
    per = "" if denied.period == "life" else f"/{denied.period}"
    return f"'AMOUNT {_WRITTEN.get(denied.unit, denied.unit)}{per}'"


def _instant(at_us: int) -> str:
    return dt.datetime.fromtimestamp(at_us // US_PER_S, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
