"""What may deviate from what: the coefficients' logarithms are a global value plus what a row's groups add.

Each group's deviation is held to zero by a normal prior whose width is declared here, so that a group with
few rows says little and one never seen says nothing: an unknown part is an average one of its generation.
Widths were chosen on folds (docs/lab/offline-and-energy.md).
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import msgspec

from wattmill.models import step_time
from wattmill.models.step_time import DATASHEET
from wattmill.twin.offline.rows import OfflineRow

OF_A_STEP: tuple[str, ...] = step_time.TERMS

TERMS: tuple[str, ...] = (*OF_A_STEP, "request")
"""The terms of steps, and a count: requests that the host takes in and hands out."""

OF_THE_HOST: tuple[str, ...] = ("step", "sequence", "request")
"""What the host does while the devices compute the step before; see `law`."""

COLUMNS: tuple[str, ...] = (*TERMS, "whole")
"""The law's terms, and a factor on the throughput as a whole."""

GLOBAL = "global"

START: dict[str, float] = {
    **{name: log(value) for name, value in msgspec.structs.asdict(DATASHEET).items()},
    "request": log(1e-3),
    "whole": 0.0,
}

_SILICON = ("weights", "experts", "kv", "decode_flop", "prefill_flop", "link")


class Level(msgspec.Struct, frozen=True):
    """One way to group rows, and how far its groups may deviate, by column; columns not named do not."""

    name: str
    group: Callable[[OfflineRow], str]
    width: dict[str, float]


def _limited(row: OfflineRow) -> str:
    return f"{row.architecture.name} {row.scenario}" if row.scenario in ("Server", "Interactive") else "-"


LEVELS: tuple[Level, ...] = (
    Level(
        GLOBAL,
        lambda row: GLOBAL,
        dict.fromkeys(TERMS, 0.4)
        | {"sequence": 1.0, "request": 1.0, "layer": 0.8, "step": 0.8, "collective": 0.8, "mixed": 0.8},
    ),
    Level("generation", lambda row: row.generation, dict.fromkeys(_SILICON, 0.3) | {"whole": 0.4}),
    Level("accelerator", lambda row: row.accelerator.name, dict.fromkeys(_SILICON, 0.04) | {"whole": 0.12}),
    Level(
        "format",
        lambda row: f"{row.generation} {row.weight_bits:g} bits",
        dict.fromkeys(("weights", "experts", "decode_flop", "prefill_flop"), 0.2),
    ),
    Level(
        "architecture",
        lambda row: row.architecture.name,
        dict.fromkeys(("weights", "experts", "decode_flop", "prefill_flop"), 0.7)
        | {"kv": 0.12, "sequence": 2.0, "whole": 0.25},
    ),
    Level("family", lambda row: row.family, {"whole": 0.08}),
    Level("limited", _limited, {"whole": 0.35}),
)

EXTRAS: dict[str, tuple[float, float]] = {
    "overlap": (log(1.5), 0.2),  # of the host with the devices: ln of the exponent that adds them, see `law`
    "headroom Server": (log(0.8), 0.3),  # mean TPOT over the p99 that the scenario allows
    "headroom Interactive": (log(0.7), 0.3),
    "pipeline": (0.08, 0.03),  # on ln(time), per stage beyond the first: bubbles and unequal stages
    "ranks": (0.13, 0.1),  # on ln(time) of attention ranks: the slowest beyond what the law expects
}
"""Value and width of what is not a coefficient of the law."""
