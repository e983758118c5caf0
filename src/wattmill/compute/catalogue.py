"""The accelerators that wattmill knows: `data/accelerators.csv`, a dated row with a source for each part.

In its `source` column, "M" is from memory and "P" a press or third-party page: both are unverified.
"""

from __future__ import annotations

import csv
import difflib
import re
from functools import cache, lru_cache
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
    "rtxpro6000blackwell": "RTX-PRO-6000-BSE",
    "rtxpro6000blackwellserveredition": "RTX-PRO-6000-BSE",
    "rtxpro6000blackwellserver": "RTX-PRO-6000-BSE",
    "rtxpro6000server": "RTX-PRO-6000-BSE",
    "h20": "H20",
    "h203e": "H20-141GB",
    "h800": "H800-SXM",
    "gh200nvl": "GH200-144GB",
    "gb200nvl": "GB200",
    "gb300nvl": "GB300",
    "gb200nvl36": "GB200",
    "gb300nvl16": "GB300",
    "a100pcie": "A100-PCIe-80GB",
    "a10040gb": "A100-SXM-40GB",
    "v100": "V100-SXM-32GB",
    "v100sxm": "V100-SXM-32GB",
    "rtxa6000": "A6000",
    "4090": "RTX-4090",
    "5090": "RTX-5090",
    "6000ada": "RTX-6000-Ada",
    "dgxspark": "GB10",
    "mi250": "MI250X",
    "mi308": "MI308X",
    "intelarcprob60": "Arc-Pro-B60",
    "gaudi3": "Gaudi-3",
    "rubin": "Rubin-R200",
    "vr200": "Rubin-R200",
    "tpuv7": "TPU-7x",
    "tpuv7x": "TPU-7x",
    "tputrillium": "TPU-v6e",
    "trillium": "TPU-v6e",
    "v5e": "TPU-v5e",
    "v5p": "TPU-v5p",
    "v6e": "TPU-v6e",
    "tpuv5litepod": "TPU-v5e",
    "tpuv5lite": "TPU-v5e",
    "ironwood": "TPU-7x",
    "trn1": "Trainium1",
    "trn2": "Trainium2",
    "inf2": "Inferentia2",
    "gaudi2": "Gaudi-2",
    "max1550": "Max-1550",
    "xeon6787p": "Xeon-6787P",
    "xeon6980p": "Xeon-6980P",
    "xeon8592": "Xeon-8592+",
    "ascend910b4": "Ascend-910B",
    "910b": "Ascend-910B",
    "910c": "Ascend-910C",
    "trn3": "Trainium3",
    "wse3": "Cerebras-WSE-3",
    "groq": "Groq-LPU-v1",
}

_SAID_BESIDE = re.compile(
    r"\b(nvidia|amd|instinct|intel|google|cloud|aws|amazon|huawei|geforce|tesla|gpus?|"
    r"data ?cent(?:er|re)|accelerator|tensor core|platinum|hbm\d?e?|gddr\dx?|lpddr\dx?|"
    r"sxm\d?|oam|cts|ts|ac|lc|air|liquid|cooled|superchip|grace|hopper|ampere|"
    r"\d+ ?x|x ?\d+|\d+(\.\d+)? ?gi?b)\b|\((r|tm)\)"
)
"""What a name may carry beside its part: makers, memory, cooling, mountings, counts."""


class UnknownAccelerator(LookupError):
    """The catalogue has no such part."""

    def __init__(self, what: str, adding: str) -> None:
        """`what`: who is not known, and who is near; `adding`: how the table grows, for its authors."""
        super().__init__(f"{what} {adding}")
        self.what = what


@cache
def accelerators() -> tuple[Accelerator, ...]:
    """Return every part of the catalogue, in its order."""
    text = (files("wattmill") / "data" / "accelerators.csv").read_text(encoding="utf-8")
    return tuple(_accelerator(row) for row in csv.DictReader(text.splitlines()))


def accelerator(name: str) -> Accelerator:
    """Return the part called `name`; case, blanks and hyphens do not matter, common short names are known.

    Where the whole of it is no part's name, what is said beside the part is left out:
    `NVIDIA H200-SXM-141GB x8` is an H200-SXM.

    Raises:
        UnknownAccelerator: no part has that name; the message names the nearest.
    """
    known = _by_key()
    key = _key(name)
    if key in known:
        return known[key]
    for plain in _shorter(name):
        if plain in known:
            return known[plain]
    near = _near(key)
    hint = f" Near it: {', '.join(known[k].name for k in near)}." if near else ""
    raise UnknownAccelerator(
        f"accelerator {name!r} is not in the catalogue of {len(accelerators())} parts.{hint}",
        "Add a row with its source to data/accelerators.csv.",
    )


@lru_cache(maxsize=4096)
def _near(key: str) -> tuple[str, ...]:
    """Return up to three known keys like `key`, the nearest first. Tables name one part in many rows."""
    return tuple(difflib.get_close_matches(key, _by_key(), n=3))


@cache
def _by_key() -> dict[str, Accelerator]:
    known = {_key(part.name): part for part in accelerators()}
    known |= {_key(part.part): part for part in accelerators()}
    return known | {alias: known[_key(name)] for alias, name in _ALIASES.items()}


def _shorter(name: str) -> tuple[str, str]:
    """Return the keys of `name` without makers and counts, with the memory it states and without."""
    words = re.sub(r"[-_,/]", " ", re.sub(r"(\d)\s+(gi?b)\b", r"\1\2", name.lower()))
    bare = _SAID_BESIDE.sub(" ", words)
    memory = re.search(r"\b\d+gb\b", words)
    return _key(f"{bare} {memory[0]}" if memory else bare), _key(bare)


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
