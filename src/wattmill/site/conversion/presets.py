"""The shipped chains, read from their table of stages with a source each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import msgspec

from wattmill.site.conversion.model import losses
from wattmill.site.conversion.spec import Chain, Stage
from wattmill.vocab.usage import Provenance


class _StageRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    source: str
    provenance: Provenance
    fixed_w: float = 0.0
    proportional: float = 0.0
    quadratic: float = 0.0
    rated_w: float | None = None
    points: tuple[tuple[float, float], tuple[float, float]] | None = None  # (share of the rating, efficiency)
    serves: int = 1
    splits: int = 1
    sharing: float = 1.0
    in_equipment: bool = False
    outdoors: bool = False
    redundant: bool = False


class _ChainRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    load_w: float
    stage: tuple[_StageRow, ...]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    chain: tuple[_ChainRow, ...]


@cache
def chains() -> Mapping[str, Chain]:
    """Return the shipped chains by name."""
    text = files("wattmill.data").joinpath("conversion.toml").read_bytes()
    table = msgspec.toml.decode(text, type=_Table)
    return {
        row.name: Chain(name=row.name, stages=tuple(map(_stage, row.stage)), load_w=row.load_w)
        for row in table.chain
    }


def _stage(row: _StageRow) -> Stage:
    fixed_w, quadratic = row.fixed_w, row.quadratic
    if row.points is not None:
        if row.rated_w is None:
            raise ValueError(f"stage {row.name!r} has points and no rated_w: give the rating of one unit")
        (at, efficiency), (also_at, also_efficiency) = row.points
        fixed_w, quadratic = losses(
            row.rated_w, at=at, efficiency=efficiency, also_at=also_at, also_efficiency=also_efficiency
        )
    return Stage(
        name=row.name,
        fixed_w=fixed_w,
        proportional=row.proportional,
        quadratic=quadratic,
        rated_w=row.rated_w,
        serves=row.serves,
        splits=row.splits,
        sharing=row.sharing,
        in_equipment=row.in_equipment,
        outdoors=row.outdoors,
        redundant=row.redundant,
        source=row.source,
        provenance=row.provenance,
    )
