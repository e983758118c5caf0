"""The models that wattmill knows: `data/architectures.csv`, and the names under which they are served."""

from __future__ import annotations

import csv
import difflib
import re
from functools import cache
from importlib.resources import files

from wattmill.models.architecture import Architecture
from wattmill.units import SI_PREFIX

_BILLION = float(SI_PREFIX["G"])

_SUFFIXES = re.compile(
    r"(-(instruct|chat|it|base|hf|preview|dynamic|static|pertensor|block|fp8|fp4|nvfp4|mxfp4|bf16|w4a16|awq|"
    r"gptq|int4|int8|kv|v0\.1|thinking|edge|original|q\d(-[\dkm])*|\d{4}|99|99\.9))+$"
)
"""What serving names add to a model without changing its sizes: formats, tunings, dates of release."""


class UnknownModel(LookupError):
    """No architecture is known under that name."""


@cache
def architectures() -> tuple[Architecture, ...]:
    """Return every architecture, one for all names that share it, in the table's order."""
    return tuple(dict.fromkeys(_by_key().values()))


def architecture(serving_name: str) -> Architecture:
    """Return the architecture behind a name such as `nvidia/DeepSeek-R1-NVFP4`.

    The organisation, number formats and tunings in the name do not matter. Names that share an architecture
    return the same object, so it may serve as the key of a fold.

    Raises:
        UnknownModel: neither the table nor the aliases know it; the message names the nearest.
    """
    known = _by_key()
    stem = _stem(serving_name)
    if stem in known:
        return known[stem]
    near = difflib.get_close_matches(stem, known, n=3)
    hint = f" Near it: {', '.join(near)}." if near else ""
    raise UnknownModel(
        f"model {serving_name!r} is not among the {len(architectures())} known architectures.{hint} "
        "Add its sizes to data/architectures.csv, or its name to data/architecture_aliases.csv."
    )


def _stem(name: str) -> str:
    return _SUFFIXES.sub("", name.rsplit("/", 1)[-1].lower().replace("_", "-").strip())


@cache
def _by_key() -> dict[str, Architecture]:
    data = files("wattmill") / "data"
    text = (data / "architectures.csv").read_text(encoding="utf-8")
    known: dict[str, Architecture] = {}
    for row in csv.DictReader(text.splitlines()):
        # The first row of a stem names its architecture: formats and tunings of it come later.
        known.setdefault(_stem(row["name"]), _architecture(row))
    text = (data / "architecture_aliases.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        known[_stem(row["name"])] = known[_stem(row["architecture"])]
    return known


def _architecture(row: dict[str, str]) -> Architecture:
    def whole(column: str) -> int:
        return int(row[column] or 0)

    experts = whole("experts")
    return Architecture(
        name=row["name"],
        family=row["family"],
        layers=whole("layers"),
        hidden=whole("hidden"),
        heads=whole("heads"),
        kv_heads=whole("kv_heads"),
        head_dim=whole("head_dim"),
        experts=experts,
        active_experts=whole("active_experts"),
        # Gated feed-forward: three matrices an expert.
        expert_params=3.0 * whole("expert_width") * whole("ffn_expert") * experts * whole("moe_layers"),
        moe_layers=whole("moe_layers"),
        window_tok=whole("window_tok"),
        window_layers=whole("window_layers"),
        linear_layers=whole("linear_layers"),
        kv_lora_rank=whole("kv_lora_rank"),
        qk_nope_dim=whole("qk_nope_dim"),
        qk_rope_dim=whole("qk_rope_dim"),
        v_head_dim=whole("v_head_dim"),
        vocab=whole("vocab"),
        max_context_tok=whole("max_context_tok"),
        params=float(row["params_b"]) * _BILLION,
        active_params=float(row["active_params_b"]) * _BILLION,
        source=row["source"],
        as_of=row["as_of"],
        caveat=row["caveat"],
    )
