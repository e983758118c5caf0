"""Budgets as people write them: `0.05 USD`, `20000 tokens`, `100 requests/hour`, `500 J`, `8 concurrent`."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from wattmill.ledger.period import time_zone
from wattmill.ledger.tenancy import ControlError, checked_cap
from wattmill.units import UJ_PER_J, nusd_from_usd
from wattmill.vocab.budget import AMOUNT_MAX, PERIODS, UNITS, Period, Unit

_UG_PER_G = UJ_PER_J  # a million of a millionth, either way

WORDS: dict[str, tuple[Unit, int]] = {
    "usd": ("nusd", 0),  # exact, by nusd_from_usd
    "$": ("nusd", 0),
    "token": ("total_tok", 1),
    "tok": ("total_tok", 1),
    "input_token": ("input_tok", 1),
    "output_token": ("output_tok", 1),
    "request": ("requests", 1),
    "concurrent": ("concurrency", 1),
    "j": ("energy_uj", UJ_PER_J),
    "g": ("carbon_ug", _UG_PER_G),
    "depth": ("depth", 1),
    "fan_out": ("fan_out", 1),
}
"""A word for a unit -> the unit, and how many of it one is. A plural `s` is dropped."""

_BUDGET = re.compile(
    r"\s*(\$)?\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z_$ ]*?)\s*(?:(?:/|\bper\b)\s*([a-z]+))?\s*"
)


def amount_of(text: str) -> tuple[Unit, Period, int]:
    """Return (unit, period, amount) of one budget in words. Raises `ControlError` with what could be said."""
    match = _BUDGET.fullmatch(text)
    if match is None:
        raise _unclear(text)
    dollar, number, word, period = match.groups()
    word = "usd" if dollar and not word else word.strip().lower().replace(" ", "_")
    unit, one = WORDS.get(word, WORDS.get(word.removesuffix("s"), (None, 0)))
    period = period or "life"
    if unit is None or period not in PERIODS:
        raise _unclear(text)
    try:
        value = Decimal(number)
    except InvalidOperation as error:
        raise _unclear(text) from error
    if unit == "nusd":
        return unit, period, nusd_from_usd(value)
    amount = value * one
    if amount != int(amount):
        raise ControlError(f"budget is {text!r}, must be a whole number of {word}")
    return unit, period, int(amount)


def checked_limit(unit: str, period: str, amount: int | None, zone: str) -> None:
    """Raise `ControlError` where a limit says nothing that can be kept."""
    if unit not in UNITS:
        raise ControlError(f"unit is {unit!r}, must be one of: {', '.join(UNITS)}")
    if period not in PERIODS:
        raise ControlError(f"period is {period!r}, must be one of: {', '.join(PERIODS)}")
    if unit in ("concurrency", "depth", "fan_out") and period != "life":
        raise ControlError(f"a limit of {unit} has no period: it holds at every moment; use 'life'")
    if unit == "nusd":
        checked_cap(amount)
    elif amount is not None and not 0 <= amount <= AMOUNT_MAX:
        raise ControlError(f"amount is {amount}, must be 0 to {AMOUNT_MAX}, or None to lift the limit")
    try:
        time_zone(zone)
    except ValueError as error:
        raise ControlError(str(error)) from error


def _unclear(text: str) -> ControlError:
    return ControlError(
        f"budget is {text[:80]!r}, must be an amount, a unit and perhaps a period, such as '0.05 USD', "
        "'20000 tokens', '100 requests/hour', '8 concurrent', '500 J' or '2 g'; units: "
        f"{', '.join(dict.fromkeys(WORDS))}; periods: {', '.join(PERIODS[1:])}"
    )
