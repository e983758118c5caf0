"""A pool whose law is a calibration: the engine that `wattmill twin calibrate` fitted, with its error."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec

from wattmill.app.declared.plan import Place
from wattmill.twin.calibration.kept import read
from wattmill.twin.engine.spec import check
from wattmill.twin.fleet.spec import EngineLaw, Origin
from wattmill.twin.spec import BLOCK_TOK
from wattmill.units import US_PER_S


def calibrated_law(place: Place, file: str, slots: int) -> tuple[EngineLaw, Origin]:
    """Return the law of one replica as it was fitted, with the slots and the context that are declared.

    Its error is that of the last check; one that was never checked has none: the fit's own flatters. The way
    to the engine is inside what was measured, so `speed.overhead_s` is not added.

    Raises `ValueError` where the file is no calibration, or the engine could not work with these slots.
    """
    name = f"pools.{place.pool}.twin.calibration"
    try:
        found = read(Path(file))
    except FileNotFoundError:
        raise ValueError(
            f"{name} is {file!r}, and there is no such file; `wattmill twin calibrate` names its own"
        ) from None
    except ValueError as bad:
        raise ValueError(f"{name}: {bad}") from bad
    fitted = found.limits
    limits = msgspec.structs.replace(
        fitted,
        max_num_seqs=slots,
        kv_blocks=slots * place.context_tok // fitted.block_tok,
        prefix_cache=True,
        prefix_tok=BLOCK_TOK,
    )
    try:
        check(found.cost, limits)
    except ValueError as bad:
        raise ValueError(f"{name}: {bad}") from bad
    day = dt.datetime.fromtimestamp(found.at_us // US_PER_S, dt.UTC)
    source = f"{found.model} on {found.engine}, fitted to {found.rows} requests on {day:%Y-%m-%d}"
    if slots != fitted.max_num_seqs:
        source += f" with {fitted.max_num_seqs} slots, not {slots}"
    return EngineLaw(cost=found.cost, limits=limits), Origin(
        provenance="measured", source=source, error=found.check_error
    )
