"""Published arithmetic, held against itself: a claim states its quantities, its relation and its result.

The check knows nothing of the world: it says whether the printed result follows from the printed inputs, at
the digits that were printed, and if not, by how much it is off and which single input would make it true.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.twin.planning.quantity import printed_digit, quantity, unit_of, unit_text
from wattmill.twin.planning.relation import Relation

Verdict = Literal["agrees", "agrees within rounding", "does not agree"]


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published sum."""

    says: Annotated[str, Meta(min_length=1, description="The claim in words, with its boundary.")]
    source: Annotated[str, Meta(min_length=1, description="Where it was printed, and when it was read.")]
    boundary: Annotated[
        str,
        Meta(
            description="What is counted, at which meter or price. Figures on two boundaries do not compare.",
            examples=["input + output tokens, all-in provisioned power"],
        ),
    ] = ""
    relation: Annotated[
        str, Meta(min_length=1, description="Arithmetic over the names of `quantities`.", examples=["a / b"])
    ]
    claimed: Annotated[
        str,
        Meta(
            min_length=1,
            description="The printed result with its unit; its last digit is how exact it has to be.",
            examples=["1.111 J/tok"],
        ),
    ]
    quantities: Annotated[
        dict[str, str | int | float],
        Meta(
            min_length=1,
            description="The printed inputs. A text carries a unit and is as exact as its last digit; a bare "
            'number, or one after "=", is exact.',
            examples=[{"power": "1.73 kW", "rate": "1557 tok/s"}],
        ),
    ]


class Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of claims."""

    claims: Annotated[dict[str, Claim], Meta(min_length=1, description="The claims, by a short name.")]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one claim. Values are in the unit in which the claim was printed."""

    name: str
    says: str
    source: str
    boundary: str  # "": the claim names none
    relation: str
    verdict: Verdict
    claimed: str
    computed: float
    low: float  # if the inputs were rounded
    high: float
    unit: str
    off_by: float | None  # claimed / computed; None where it agrees or nothing can be divided
    way_out: str | None  # the single input that would make the claim true


def checked(name: str, claim: Claim) -> Checked:
    """Return the verdict on `claim`. Raises ValueError that says what in it cannot be worked out."""
    relation = Relation(claim.relation)
    inputs = {key: quantity(text) for key, text in claim.quantities.items()}
    unused = sorted(set(inputs) - set(relation.names))
    if unused:
        raise ValueError(f"quantity {unused[0]!r} is not in the relation {claim.relation!r}; leave it out")
    bounds = relation.bounds(inputs)
    printed = quantity(claim.claimed)
    if printed.dimension != bounds.dimension:
        raise ValueError(
            f"claimed {claim.claimed!r} is in {unit_text(printed.dimension)}, but {claim.relation!r} gives "
            f"{unit_text(bounds.dimension)}"
        )
    half = printed_digit(claim.claimed) / 2
    scale, unit = _scale(claim.claimed)
    verdict: Verdict = "does not agree"
    if abs(printed.value - bounds.value) <= half:
        verdict = "agrees"
    elif bounds.low - half <= printed.value <= bounds.high + half:
        verdict = "agrees within rounding"
    wrong = verdict == "does not agree"
    return Checked(
        name=name,
        says=claim.says,
        source=claim.source,
        boundary=claim.boundary,
        relation=claim.relation,
        verdict=verdict,
        claimed=claim.claimed,
        computed=float(bounds.value / scale),
        low=float(bounds.low / scale),
        high=float(bounds.high / scale),
        unit=unit,
        off_by=float(printed.value / bounds.value) if wrong and bounds.value else None,
        way_out=_way_out(claim, relation, printed.value) if wrong else None,
    )


def _scale(claimed: str) -> tuple[Fraction, str]:
    """Return the printed unit's size in base units, a word such as `billion` included, and its text."""
    tail = unit_of(claimed)
    return quantity(f"=1 {tail}").value, tail


def _way_out(claim: Claim, relation: Relation, wanted: Fraction) -> str | None:
    """Return the inputs that, each changed alone, give the claim by the least factor; None if none does."""
    found: list[tuple[float, str]] = []
    for name, text in claim.quantities.items():
        if not isinstance(text, str):
            continue
        factor = _factor(claim, relation, name, wanted)
        if factor is not None:
            tail = unit_of(text)
            needed = float(quantity(text).value / quantity(f"=1 {tail}").value) * factor
            found.append(
                (_size(factor), f"`{name}` were {needed:.4g} {tail}".rstrip() + f", not {text.lstrip('= ')}")
            )
    if not found:
        return None
    least = min(size for size, _ in found)
    return "it would hold if " + "; or if ".join(words for size, words in found if size < 1.001 * least)


def _size(factor: float) -> float:
    return max(factor, 1.0 / factor)


def _factor(claim: Claim, relation: Relation, name: str, wanted: Fraction) -> float | None:
    inputs = {key: quantity(text) for key, text in claim.quantities.items()}

    def above(factor: float) -> bool:
        moved = inputs[name]._replace(value=inputs[name].value * Fraction(factor))
        return relation.of({**inputs, name: moved}).value > wanted

    low, high = 1e-6, 1e6
    try:
        if above(low) == above(high):
            return None
        for _ in range(60):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if above(middle) == above(low) else (low, middle)
    except ValueError:  # a division by zero on the way
        return None
    return math.sqrt(low * high)
