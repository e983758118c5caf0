"""The tables of PyPI `aiconfigurator-core` that may be opened, by name, and nothing else of that wheel.

The wheel also holds a sample of whole runs (`silicon_sample.csv`). Rows of it are held back to test our law,
so nothing here may see it: a path is opened only if it is one of `ALLOWED`, made of the names below. The
package itself is not imported either: only its folder is found.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

VERSION = "0.12.0"
DISTRIBUTION, PACKAGE = "aiconfigurator-core", "aiconfigurator_core"

SYSTEMS: dict[str, str] = {
    "A100-SXM-80GB": "a100_sxm",
    "L40S": "l40s",
    "H100-SXM": "h100_sxm",
    "H200-SXM": "h200_sxm",
    "RTX-PRO-6000-BSE": "rtx_pro_6000_server",
    "B200-SXM": "b200_sxm",
    "GB200": "gb200",
    "B300-SXM": "b300_sxm",
    "GB300": "gb300",
}
"""Our accelerators -> folders of the wheel."""

ENGINES: dict[str, str] = {"vllm": "0.24.0", "sglang": "0.5.14", "trtllm": "1.3.0rc20"}
"""Engine -> the version whose tables are read. Of one that lacks a table, the next in this order is read."""

_OTHER_VERSIONS: dict[tuple[str, str], str] = {
    ("a100_sxm", "vllm"): "0.14.0",
    ("a100_sxm", "sglang"): "0.5.10",
    ("a100_sxm", "trtllm"): "1.0.0",
}
_NCCL = {"a100_sxm": "2.27.3", "l40s": "2.27.3"}
_NCCL_VERSION = "2.29.2"
_ALL_TO_ALL = ("gb200", "trtllm", "1.3.0rc10")  # the one system with its engine's own all-to-all

Read = Callable[[Path, Sequence[str]], Mapping[str, Any]]
"""(file, columns) -> numpy array of each."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of table: where it lies, by what its rows are chosen, and its sizes."""

    folder: str
    choices: tuple[str, ...]
    axes: tuple[str, ...]  # the outermost first
    parts: tuple[str, ...] = ()  # see `Grid`


KINDS: dict[str, Kind] = {
    "gemm": Kind(folder="gemm", choices=("gemm_dtype",), axes=("n", "k", "m"), parts=("n", "m")),
    "generation_attention": Kind(
        folder="attention",
        choices=("num_heads", "num_key_value_heads", "head_dim", "kv_cache_dtype", "window_size"),
        axes=("batch_size", "step"),
        parts=("batch_size",),
    ),
    "context_attention": Kind(
        folder="attention",
        choices=(
            "num_heads",
            "num_key_value_heads",
            "head_dim",
            "kv_cache_dtype",
            "attn_dtype",
            "window_size",
        ),
        axes=("isl", "batch_size"),
        parts=("batch_size",),
    ),
    "generation_mla": Kind(
        folder="mla",
        choices=("num_heads", "kv_cache_dtype"),
        axes=("batch_size", "step"),
        parts=("batch_size",),
    ),
    "context_mla": Kind(
        folder="mla",
        choices=("num_heads", "kv_cache_dtype"),
        axes=("isl", "batch_size"),
        parts=("batch_size",),
    ),
    "mla_bmm": Kind(
        folder="mla_bmm",
        choices=("op_name", "bmm_dtype", "num_heads"),
        axes=("num_tokens",),
        parts=("num_tokens",),
    ),
    "moe": Kind(
        folder="moe",
        choices=(
            "moe_dtype",
            "hidden_size",
            "inter_size",
            "topk",
            "num_experts",
            "moe_tp_size",
            "moe_ep_size",
            "distribution",
        ),
        axes=("num_tokens",),
        parts=("num_tokens",),
    ),
    "custom_allreduce": Kind(
        folder="comm", choices=("num_gpus",), axes=("message_size",), parts=("message_size",)
    ),
    "nccl": Kind(
        folder="comm",
        choices=("op_name", "nccl_dtype", "num_gpus"),
        axes=("message_size",),
        parts=("message_size",),
    ),
    "trtllm_alltoall": Kind(
        folder="comm",
        choices=("op_name", "moe_dtype", "hidden_size", "topk", "num_experts", "moe_ep_size"),
        axes=("num_tokens",),
        parts=("num_tokens",),
    ),
}
"""Matrix products, attention of decoded tokens and of prompts (grouped, latent), experts, collectives."""

_UNSAID = {"window_size": 0}
"""What a column says where a table is older than it: attention without windows."""

LATENCY = "latency"
"""The column of times, milliseconds in every kind above."""


def version(system: str, engine: str) -> str:
    """Return the version of an engine whose tables of a system are read."""
    return _OTHER_VERSIONS.get((system, engine), ENGINES[engine])


def table(kind: str, system: str, engine: str) -> str | None:
    """Return the path of a table below the wheel's folder; `None`: that engine has none of the kind."""
    if kind == "nccl":
        where = f"nccl/{_NCCL.get(system, _NCCL_VERSION)}"
    elif kind == "trtllm_alltoall":
        if (system, engine) != _ALL_TO_ALL[:2]:
            return None
        where = f"{engine}/{_ALL_TO_ALL[2]}"
    else:
        where = f"{engine}/{version(system, engine)}"
    return f"{system}/{KINDS[kind].folder}/{where}/{kind}_perf.parquet"


ALLOWED: frozenset[str] = frozenset(
    found
    for kind in KINDS
    for system in SYSTEMS.values()
    for engine in ENGINES
    if (found := table(kind, system, engine)) is not None
)
"""Every path that is ever opened."""


class Wheel(msgspec.Struct, frozen=True):
    """The wheel's folder of data, and how its files are read."""

    folder: Path
    read: Read

    def columns(self, path: str, names: Sequence[str]) -> Mapping[str, Any] | None:
        """Return columns of one table; `None`: the wheel does not hold it.

        Raises:
            PermissionError: it is none of `ALLOWED`, or a link to a file of another name.
        """
        if path not in ALLOWED:
            raise PermissionError(f"{path!r} is none of the {len(ALLOWED)} tables that wattmill reads")
        file = self.folder / path
        if not file.is_file():
            return None
        if (real := file.resolve()).name != file.name:
            raise PermissionError(f"{path!r} leads to {real.name!r}, which is none of the tables")
        found = dict(self.read(file, names))
        for name, value in _UNSAID.items():
            if name in names and name not in found:
                found[name] = np.full(len(found[LATENCY]), value)
        return found


def installed() -> Wheel:
    """Return the installed wheel.

    Raises:
        ModuleNotFoundError: it is not installed, or pyarrow is not.
        ValueError: it is of another version than the one that factors were fitted with.
    """
    try:
        found = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f"no operator tables: {DISTRIBUTION} is missing", name=PACKAGE) from error
    if found != VERSION:
        raise ValueError(
            f"{DISTRIBUTION} must be {VERSION}, got {found}: factors were fitted with that version's tables; "
            f"pip install --no-deps {DISTRIBUTION}=={VERSION}"
        )
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{DISTRIBUTION} {found} has no package {PACKAGE}", name=PACKAGE)
    if importlib.util.find_spec("pyarrow") is None:
        raise ModuleNotFoundError("operator tables are parquet: pyarrow is missing", name="pyarrow")
    return Wheel(Path(next(iter(spec.submodule_search_locations))) / "systems" / "data", read_parquet)


def read_parquet(file: Path, names: Sequence[str]) -> Mapping[str, Any]:
    """Return the columns of a parquet file that it has, as numpy arrays. Needs pyarrow, and no pandas."""
    import pyarrow.parquet as pq  # an extra: only whoever asks for the tables has it

    with file.open("rb") as opened:  # by Python, so that an audit hook sees what is opened
        whole = pq.ParquetFile(opened)
        there = [name for name in names if name in whole.schema_arrow.names]
        found = whole.read(columns=there, use_threads=False)
    return {name: np.array(found[name].to_numpy()).astype(_plain(found[name])) for name in there}


def _plain(column: Any) -> str:
    kind = str(column.type)
    return "U" if "string" in kind else "i8" if kind.startswith(("int", "uint")) else "f8"
