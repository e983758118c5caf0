"""Cells of tables that others wrote: numbers, units and engines as people spell them, and their bounds.

A cell that cannot be read is no error: who asks gets `None`, assumes something, and names the column.
"""

from __future__ import annotations

import re
from math import isfinite

from wattmill.units import MS_PER_S, SI_PREFIX, US_PER_S

MOST_TOK = 10_000_000
"""Longer prompts and outputs than any context are taken for slips."""
MOST_CONCURRENT = 65_536
MOST_WORK_TOK = 1 << 33
"""Prompt tokens in flight: above, the walk through a benchmark's run would take minutes."""
MOST_SPLIT = 1_024

_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?")
_BINARY_K = 1_024.0
_WH_J = 3_600.0
_SECONDS = {
    "": MS_PER_S,  # the tables' own unit where none is stated
    "ms": MS_PER_S,
    "msec": MS_PER_S,
    "milliseconds": MS_PER_S,
    "s": 1.0,
    "sec": 1.0,
    "seconds": 1.0,
    "us": US_PER_S,
    "µs": US_PER_S,
    "μs": US_PER_S,
    "microseconds": US_PER_S,
}


def number(text: str | None) -> float | None:
    """Return the positive number in a cell: `12`, `1,024`, `1e3`.

    `None`: there is none, or it is not finite, or more is written beside it (`85%`, `8x2`).
    """
    word = (text or "").strip()
    if _THOUSANDS.fullmatch(word):
        word = word.replace(",", "")
    try:
        found = float(word)
    except ValueError:
        return None
    return found if isfinite(found) and found > 0.0 else None


def whole(text: str | None, *, most: float) -> int | None:
    """Return the whole number from 1 to `most` in a cell, decimals cut; `8k` is 8,192, as benchmarks say."""
    binary = re.fullmatch(r"\s*(\d+)[kK]\s*", text or "")
    found = float(binary[1]) * _BINARY_K if binary else number(text)
    return int(found) if found is not None and 1.0 <= found <= most else None


def engine(framework: str | None) -> str:
    """Return the engine behind a framework's name: `TensorRT-LLM`, `dynamo-trt` and `TRTLLM` are one."""
    named = (framework or "").strip().lower()
    if "trt" in named or "tensorrt" in named:
        return "trtllm"
    for known in ("sglang", "vllm"):
        if known in named:
            return known
    return named or "unknown"


def per_second(unit: str | None) -> float | None:
    """Return how many of a time's unit are in a second; `None`: the unit is not known."""
    return _SECONDS.get((unit or "").strip().lower().split("/")[0].strip())


def per_base(unit: str | None) -> float:
    """Return how many of `unit` are in the base unit (tokens/s, W, J/token): 1,000 for mJ, 0.001 for kW; 1
    where the unit is not known."""
    word = (unit or "").strip().split("/")[0].strip()
    if word.lower().startswith("wh"):
        return 1.0 / _WH_J
    if re.fullmatch(r"[kMmuµ](W|J|tok|tokens?)", word):
        return float(1 / SI_PREFIX[word[0]])
    return 1.0
