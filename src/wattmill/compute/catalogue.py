"""The accelerators that wattmill knows: `data/accelerators.csv`, a dated row with a source for each part.

In its `source` column, "M" is from memory and "P" a press or third-party page: both are unverified.
"""

from __future__ import annotations

import csv
import difflib
import re
from functools import cache
from importlib.resources import files

from wattmill.compute.spec import Accelerator
from wattmill.units import SI_PREFIX

_TERA = float(SI_PREFIX["T"])
_GIGA = float(SI_PREFIX["G"])

_ALIASES = {
    "h100": "H100-SXM",
    "h200": "H200-SXM",
    "b200": "B200-SXM",
    "b300": "B300-SXM",
    "a100": "A100-SXM-80GB",
    "a100sxm": "A100-SXM-80GB",
    "gb200nvl72": "GB200",
    "gb200nvl4": "GB200",
    "gb300nvl72": "GB300",
    "h20096gb": "H200-SXM",
    "gh200": "GH200-96GB",
    "rtxpro6000": "RTX-PRO-6000-BSE",
    "intelarcprob60": "Arc-Pro-B60",
    "gaudi3": "Gaudi-3",
    "rubin": "Rubin-R200",
    "vr200": "Rubin-R200",
    "tpuv7": "TPU-7x",
    "ironwood": "TPU-7x",
    "trn2": "Trainium2",
    "trn3": "Trainium3",
    "wse3": "Cerebras-WSE-3",
    "groq": "Groq-LPU-v1",
}


class UnknownAccelerator(LookupError):
    """The catalogue has no such part."""


@cache
def accelerators() -> tuple[Accelerator, ...]:
    """Return every part of the catalogue, in its order."""
    text = (files("wattmill") / "data" / "accelerators.csv").read_text(encoding="utf-8")
    return tuple(_accelerator(row) for row in csv.DictReader(text.splitlines()))


def accelerator(name: str) -> Accelerator:
    """Return the part called `name`; case, blanks and hyphens do not matter, common short names are known.

    Raises:
        UnknownAccelerator: no part has that name; the message names the nearest.
    """
    known = _by_key()
    key = _key(name)
    if key in known:
        return known[key]
    near = difflib.get_close_matches(key, known, n=3)
    hint = f" Near it: {', '.join(known[k].name for k in near)}." if near else ""
    raise UnknownAccelerator(
        f"accelerator {name!r} is not in the catalogue of {len(accelerators())} parts.{hint} "
        "Add a row with its source to data/accelerators.csv."
    )


@cache
def _by_key() -> dict[str, Accelerator]:
    known = {_key(part.name): part for part in accelerators()}
    known |= {_key(part.part): part for part in accelerators()}
    return known | {alias: known[_key(name)] for alias, name in _ALIASES.items()}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _accelerator(row: dict[str, str]) -> Accelerator:
    def figure(column: str, unit: float) -> float | None:
        return float(row[column]) * unit if row[column] else None

    return Accelerator(
        name=row["name"],
        vendor=row["vendor"],
        part=row["part"],
        bf16_flop_per_s=figure("bf16_tflops", _TERA),
        fp8_flop_per_s=figure("fp8_tflops", _TERA),
        fp4_flop_per_s=figure("fp4_tflops", _TERA),
        memory_bytes=float(row["memory_gb"]) * _GIGA,
        bandwidth_bytes_per_s=float(row["bandwidth_tb_s"]) * _TERA,
        link_bytes_per_s=figure("link_gb_s", _GIGA),
        gpus_per_node=int(row["gpus_per_node"]),
        scale_up_gpus=int(row["scale_up_gpus"]),
        tdp_w=figure("tdp_w", 1.0),
        predicted=row["predicted"] == "yes",
        verified=row["verified"] == "yes",
        source=row["source"],
        as_of=row["as_of"],
        notes=row["notes"],
    )
