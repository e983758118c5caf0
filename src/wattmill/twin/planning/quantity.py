"""Numbers with units, exact, as people print them: `1.73 kW`, `6076 tok/s`, `150 billion USD/year`.

A printed number is rounded at its last digit; `rounding` is half of that digit. `=148` says that it is a
count or a definition and not rounded at all.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from wattmill.units import J_PER_KWH, S_PER_DAY, S_PER_H, S_PER_YEAR, SI_PREFIX

Dimension = tuple[tuple[str, int], ...]
"""Sorted powers of base units, such as (("J", 1), ("tok", -1)); empty: a plain number."""

_BASE = ("J", "s", "tok", "USD", "g", "FLOP", "B", "GPU", "node", "rack", "user", "request", "task", "param")
_KILO = SI_PREFIX["k"]
_UNITS: dict[str, tuple[Fraction, dict[str, int]]] = {
    **{name: (Fraction(1), {name: 1}) for name in _BASE},
    "W": (Fraction(1), {"J": 1, "s": -1}),
    "Wh": (Fraction(J_PER_KWH) / _KILO, {"J": 1}),
    "min": (Fraction(60), {"s": 1}),
    "h": (Fraction(S_PER_H), {"s": 1}),
    "day": (Fraction(S_PER_DAY), {"s": 1}),
    "year": (Fraction(S_PER_YEAR), {"s": 1}),
    "%": (Fraction(1, 100), {}),
    "1": (Fraction(1), {}),
    "x": (Fraction(1), {}),
}
_WORDS = {
    "thousand": SI_PREFIX["k"],
    "million": SI_PREFIX["M"],
    "billion": SI_PREFIX["G"],
    "trillion": SI_PREFIX["T"],
}
_NUMBER = re.compile(
    r"^\s*(?P<exact>=?)\s*(?P<number>[-+]?\d[\d_,]*(?:\.\d+)?(?:[eE][-+]?\d+)?)"
    r"\s*(?P<word>thousand|million|billion|trillion)?\s*(?P<unit>.*?)\s*$"
)
_FACTOR = re.compile(r"^(?P<name>[^\d^/*\s]+|1|%)(?:\^(?P<power>-?\d+))?$")


class Quantity(NamedTuple):
    """A value in base units (J, s, tok, USD, ...), and how far its printing rounded it."""

    value: Fraction
    dimension: Dimension
    rounding: Fraction = Fraction(0)


class Unit(NamedTuple):
    factor: Fraction  # base units in one
    dimension: Dimension


def quantity(text: str | int | float) -> Quantity:
    """Read a quantity. Raises ValueError that names what was not understood.

    A bare number is exact; a text is as exact as its last digit, unless it begins with `=`.
    """
    if isinstance(text, int | float):
        return Quantity(Fraction(str(text)), ())
    found = _NUMBER.match(text)
    if found is None:
        raise ValueError(f'{text!r} is no number with a unit; write for example "1.73 kW" or "=8 GPU/node"')
    unit = parsed_unit(found["unit"])
    digits = found["number"].replace("_", "").replace(",", "")
    scale = unit.factor * _WORDS.get(found["word"] or "", Fraction(1))
    rounding = Fraction(0) if found["exact"] else last_digit(digits) / 2 * scale
    return Quantity(Fraction(digits) * scale, unit.dimension, rounding)


def printed_digit(text: str) -> Fraction:
    """Return the last digit of a quantity as it was printed, in base units: 0.1 of `31.5 x`."""
    found = _NUMBER.match(text)
    assert found is not None, text
    digits = found["number"].replace("_", "").replace(",", "")
    scale = parsed_unit(found["unit"]).factor * _WORDS.get(found["word"] or "", Fraction(1))
    return last_digit(digits) * scale


def unit_of(text: str) -> str:
    """Return what stands behind the number: word and unit, e.g. `billion USD` of `150 billion USD`."""
    found = _NUMBER.match(text)
    assert found is not None, text
    return " ".join(filter(None, (found["word"], found["unit"])))


def last_digit(number: str) -> Fraction:
    """Return the value of the last printed digit: 0.01 of `1.73`, 1 of `350`, 10^5 of `2.2e6`."""
    mantissa, _, power = number.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return Fraction(10) ** ((int(power) if power else 0) - decimals)


def parsed_unit(text: str) -> Unit:
    """Read a unit such as `tok/s`, `USD/Mtok`, `kWh`, `USD/s/MW`. Raises ValueError that names the part."""
    factor, powers = Fraction(1), dict[str, int]()
    for count, part in enumerate(
        text.replace("$", "USD").replace("*", " * ").split("/") if text.strip() else []
    ):
        for name in part.replace("*", " ").split():
            one, dims, power = _one_unit(name, text)
            sign = -power if count else power
            factor *= one**sign
            for base, times in dims.items():
                powers[base] = powers.get(base, 0) + times * sign
    return Unit(factor, tuple(sorted((b, p) for b, p in powers.items() if p)))


def _one_unit(text: str, whole: str) -> tuple[Fraction, dict[str, int], int]:
    found = _FACTOR.match(text)
    name = found["name"] if found else text
    power = int(found["power"]) if found and found["power"] else 1
    if name in _UNITS:
        return (*_UNITS[name], power)
    if name[:1] in SI_PREFIX and name[1:] in _UNITS:
        factor, dims = _UNITS[name[1:]]
        return factor * SI_PREFIX[name[0]], dims, power
    known = ", ".join(n for n in _UNITS if n not in {"1", "x"})
    raise ValueError(f"unit {name!r} of {whole!r} is not known; known, also with k, M, G ... before: {known}")


def unit_text(dimension: Dimension) -> str:
    """Return base units as text, e.g. `J/tok`; `1` for a plain number."""
    over = [f"{base}^{power}" if power != 1 else base for base, power in dimension if power > 0]
    under = [f"{base}^{-power}" if power != -1 else base for base, power in dimension if power < 0]
    return " ".join(over or ["1"]) + "".join(f"/{name}" for name in under)
