"""The models that wattmill knows: `data/architectures.csv`, and the names under which they are served."""

from __future__ import annotations

import csv
import difflib
import re
from functools import cache, lru_cache
from importlib.resources import files
from math import log

import msgspec

from wattmill.models.architecture import Architecture
from wattmill.units import SI_PREFIX

_BILLION = float(SI_PREFIX["G"])

_TYPICAL = "meta-llama/Llama-3.1-70B"
_ALIKE = 0.05  # of its parameters: a name like that of a known model, and its size
_SMALLEST, _LARGEST = 1e7, 1e14  # parameters; a name that says less or more does not speak of them

_SUFFIXES = re.compile(
    r"(-(instruct|chat|it|base|hf|preview|dynamic|static|pertensor|block|fp8|fp4|nvfp4|mxfp4|mxfp8|bf16|fp16|awq|"
    r"w4a16|w4a8|w8a8|w8a16|gptq|int4|int8|4bit|8bit|gguf|ocp|quark|kv|v0\.\d|thinking|reasoning|edge|original|"
    r"quantized\.w\da\d+|latest|exp|terminus|speciale|zero|qat|q\d(-[\dkm])*|\d\d-\d{4}|\d{4}|99|99\.9))+$"
)
"""What serving names add to a model without changing its sizes: formats, tunings, dates of release."""


class UnknownModel(LookupError):
    """No architecture is known under that name."""

    def __init__(self, what: str, adding: str) -> None:
        """`what`: who is not known, and who is near; `adding`: how the table grows, for its authors."""
        super().__init__(f"{what} {adding}")
        self.what = what


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
    squeezed = _squeezed_keys().get(_squeezed(stem))
    if squeezed is not None:
        return squeezed
    near = _near(stem)
    hint = f" Near it: {', '.join(near)}." if near else ""
    raise UnknownModel(
        f"model {serving_name!r} is not among the {len(architectures())} known architectures.{hint}",
        "Add its sizes to data/architectures.csv, or its name to data/architecture_aliases.csv.",
    )


def stand_in(serving_name: str) -> Architecture:
    """Return the sizes to take for a model that is not known: those of the known one nearest to the sizes in
    its name (`80B-A3B`), scaled to them; without sizes those of the nearest name, else of a dense 70 B model.

    It has a name of its own, so that nothing which was measured of the other counts as measured of it.
    """
    name = serving_name.lower()
    sized = re.search(r"(?<![a-z0-9])(?:(\d+)x)?(\d+(?:\.\d+)?)([bt])(?![a-z])", name)
    called = f"{serving_name.strip() or 'a model without a name'} (sizes of another)"
    if not sized:
        near = _near(_stem(serving_name))
        return msgspec.structs.replace(_by_key()[near[0]] if near else architecture(_TYPICAL), name=called)
    active = re.search(r"(?<![a-z0-9])a(\d+(?:\.\d+)?)b(?![a-z])", name)
    total = float(sized[2]) * int(sized[1] or 1) * (1000.0 if sized[3] == "t" else 1.0) * _BILLION
    if not _SMALLEST <= total <= _LARGEST:
        return msgspec.structs.replace(architecture(_TYPICAL), name=called)
    used = min(float(active[1]) * _BILLION if active else float(sized[2]) * _BILLION, total)
    if not active:
        for near_name in _near(
            _stem(serving_name)
        ):  # `ERNIE 4.5 300B` is the known one of 300 B, experts and all
            if abs(_by_key()[near_name].params / total - 1.0) < _ALIKE:
                used = _by_key()[near_name].active_params
                break

    def distance(known: Architecture) -> float:
        return abs(log(known.params / total)) + abs(log(known.active_params / max(used, 1.0)))

    near_one = min(architectures(), key=distance)
    factor = total / near_one.params
    return msgspec.structs.replace(
        near_one,
        name=called,
        params=total,
        expert_params=near_one.expert_params * factor,
        active_params=min(near_one.active_params * factor, total),
    )


@lru_cache(maxsize=4096)
def _near(stem: str) -> tuple[str, ...]:
    """Return up to three known names like `stem`, the nearest first. Tables name one model in many rows."""
    return tuple(difflib.get_close_matches(stem, _by_key(), n=3))


def _stem(name: str) -> str:
    plain = re.sub(r"[\s_]+", "-", name.strip().rstrip("/").rsplit("/", 1)[-1].strip().lower())
    return _SUFFIXES.sub("", plain)


def _squeezed(stem: str) -> str:
    return re.sub(r"^meta", "", re.sub(r"[^a-z0-9]", "", stem))


@cache
def _squeezed_keys() -> dict[str, Architecture]:
    """Return the known names without hyphens, points and blanks: those that then still mean one model."""
    found: dict[str, Architecture | None] = {}
    for stem, known in _by_key().items():
        key = _squeezed(stem)
        found[key] = known if found.get(key, known) is known else None
    return {key: known for key, known in found.items() if known is not None}


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
        verified=row["verified"] == "yes",
        ffn_dense=whole("ffn_dense"),
        ffn_expert=whole("ffn_expert"),
        expert_width=whole("expert_width"),
        shared_experts=whole("shared_experts"),
        caveat=row["caveat"],
    )
