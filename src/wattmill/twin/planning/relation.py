"""A relation such as `floor(site / each)`, worked out on quantities with their units.

Only + - * / ** and a few functions, read by Python's own parser and walked by hand: nothing is executed.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

from wattmill.twin.planning.quantity import Dimension, Quantity, unit_text

MOST_INPUTS = 12
"""Corners of the inputs' roundings are tried one by one: 2^12 of them is a blink."""


class Bounds(NamedTuple):
    """What a relation gives: from the printed inputs, and between which limits if they were rounded."""

    value: Fraction
    low: Fraction
    high: Fraction
    dimension: Dimension


class Relation:
    """A parsed relation. Raises ValueError for anything that is not arithmetic."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text, mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"relation {text!r} is no arithmetic: {error.msg}") from None
        self.names = tuple(sorted(set(_names(self._tree))))

    def of(self, inputs: Mapping[str, Quantity]) -> Quantity:
        """Return the value with its unit. Raises ValueError where units do not agree or a name is absent."""
        return _worked(self._tree, inputs, self.text)

    def bounds(self, inputs: Mapping[str, Quantity]) -> Bounds:
        """Return the value, and its limits over all corners of the inputs' roundings.

        That is exact where the relation is monotonic in each input within its rounding, which products,
        quotients and sums of positive quantities are.
        """
        exact = self.of(inputs)
        loose = [name for name in self.names if inputs[name].rounding]
        if len(loose) > MOST_INPUTS:
            raise ValueError(f"relation {self.text!r} has {len(loose)} rounded inputs, at most {MOST_INPUTS}")
        corners = [self.of({**inputs, **moved}).value for moved in _corners(inputs, loose)]
        return Bounds(exact.value, min(corners), max(corners), exact.dimension)


def _corners(inputs: Mapping[str, Quantity], loose: list[str]) -> Iterator[dict[str, Quantity]]:
    for signs in itertools.product((-1, 1), repeat=len(loose)):
        yield {
            name: inputs[name]._replace(value=inputs[name].value + sign * inputs[name].rounding)
            for name, sign in zip(loose, signs, strict=True)
        }


def _names(tree: ast.expr) -> Iterator[str]:
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in called:
            yield node.id


def _worked(tree: ast.expr, inputs: Mapping[str, Quantity], text: str) -> Quantity:
    match tree:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Quantity(Fraction(str(number)), ())
        case ast.Name(id=name):
            if name not in inputs:
                known = ", ".join(inputs) or "none"
                raise ValueError(
                    f"relation {text!r} names {name!r}, which is no quantity here (there are: {known})"
                )
            return inputs[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            value = _worked(inner, inputs, text)
            return value._replace(value=-value.value)
        case ast.BinOp(left=left, op=op, right=right):
            return _joined(op, _worked(left, inputs, text), _worked(right, inputs, text), text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _called(name, [_worked(arg, inputs, text) for arg in args], text)
    raise ValueError(
        f"relation {text!r} may hold + - * / **, numbers, names, floor, ceil, min, max and mean only"
    )


def _joined(op: ast.operator, a: Quantity, b: Quantity, text: str) -> Quantity:
    match op:
        case ast.Add() | ast.Sub():
            _alike(a, b, text)
            return Quantity(a.value + b.value if isinstance(op, ast.Add) else a.value - b.value, a.dimension)
        case ast.Mult():
            return Quantity(a.value * b.value, _merged(a.dimension, b.dimension, 1))
        case ast.Div():
            if b.value == 0:
                raise ValueError(f"relation {text!r} divides by zero")
            return Quantity(a.value / b.value, _merged(a.dimension, b.dimension, -1))
        case ast.Pow() if not b.dimension and b.value.denominator == 1 and abs(b.value) <= 9:
            power = int(b.value)
            if power < 0 and a.value == 0:
                raise ValueError(f"relation {text!r} divides by zero")
            return Quantity(a.value**power, tuple((base, n * power) for base, n in a.dimension if power))
    raise ValueError(f"relation {text!r}: only + - * / and whole powers up to 9")


def _called(name: str, args: list[Quantity], text: str) -> Quantity:
    if not args or name not in {"floor", "ceil", "min", "max", "mean"}:
        raise ValueError(f"relation {text!r}: {name}() is not known; floor, ceil, min, max and mean are")
    first = args[0]
    for other in args[1:]:
        _alike(first, other, text)
    if name in {"floor", "ceil"}:
        whole = math.floor(first.value) if name == "floor" else math.ceil(first.value)
        return Quantity(Fraction(whole), first.dimension)
    values = [arg.value for arg in args]
    if name == "mean":
        return Quantity(sum(values, Fraction(0)) / len(values), first.dimension)
    return Quantity(min(values) if name == "min" else max(values), first.dimension)


def _alike(a: Quantity, b: Quantity, text: str) -> None:
    if a.dimension != b.dimension:
        raise ValueError(
            f"relation {text!r} puts {unit_text(a.dimension)} and {unit_text(b.dimension)} together: only "
            "like can be added or compared"
        )


def _merged(a: Dimension, b: Dimension, sign: int) -> Dimension:
    powers = dict(a)
    for base, power in b:
        powers[base] = powers.get(base, 0) + sign * power
    return tuple(sorted((base, power) for base, power in powers.items() if power))
