"""Measured rows as they are published, and the configuration that each describes.

Tables come as CSV with the columns of `COLUMNS`; further columns are ignored, missing ones count as empty.
What a row leaves out is assumed, and named in `Configuration.missing`: such a row is predicted all the same,
and reported apart.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

import msgspec

from wattmill.compute.catalogue import UnknownAccelerator, accelerator
from wattmill.compute.spec import Accelerator
from wattmill.models import graphs
from wattmill.models.architecture import Architecture
from wattmill.models.architectures import UnknownModel, architecture, stand_in
from wattmill.models.deployment import Deployment
from wattmill.twin.law.reading import (
    MOST_CONCURRENT,
    MOST_SPLIT,
    MOST_TOK,
    MOST_WORK_TOK,
    engine,
    whole,
)
from wattmill.twin.law.table import COLUMNS as COLUMNS
from wattmill.twin.law.table import parsed

MEASURED = ("inferencex", "mlperf_llm_closed", "trtllm_perf_overview")
"""The tables in `data/measured`."""

_ABOUT = frozenset(
    ("source", "n_gpus", "nodes", "framework_version", "scenario", "submitter", "system", "measured", "ref")
)
"""Columns that a copy of a table may leave out or word otherwise."""

_ASSUMED_GPU = "H100-SXM"
_ASSUMED = {"isl": 1024, "osl": 1024, "concurrency": 32}
_MOST = {"isl": MOST_TOK, "osl": MOST_TOK, "concurrency": MOST_CONCURRENT}
_MOST_WORKERS = 256
_MOST_STAGES = 128
_FOUR_BITS = ("fp4", "int4", "w4", "awq", "gptq", "q4", "4bit", "4-bit")
_EIGHT_BITS = ("fp8", "int8", "w8", "q8", "8bit", "8-bit", "e4m3", "e5m2")
_UNPACKED = ("_wo", "int4", "w4a16", "awq", "gptq", "q4")
_LARGEST_TP = 8
"""InferenceX ran no wider tensor split: a wider `tp` in a row of mode `agg` is a count of GPUs."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """How one worker splits the model."""

    tp: int
    ep: int
    attn_dp: int


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, without the result."""

    architecture: Architecture
    accelerator: Accelerator
    engine: str
    version: str  # of the engine; "": not recorded
    precision: str
    weight_bits: float
    kv_bits: float
    weight_only: bool
    disaggregated: bool
    prefill: Side  # of every worker, where not disaggregated
    decode: Side
    prefill_workers: int
    decode_workers: int
    pp: int
    isl: int
    osl: int
    concurrency: int
    known_client: bool
    missing: tuple[str, ...]  # columns that the prediction had to assume
    graph_sizes: tuple[int, ...] = ()  # recorded steps, in tokens; (): the row does not say

    def deployment(self, side: Side) -> Deployment:
        """Return one worker."""
        return Deployment(
            architecture=self.architecture,
            accelerator=self.accelerator,
            engine=self.engine,
            weight_bits=self.weight_bits,
            kv_bits=self.kv_bits,
            weight_only=self.weight_only,
            tp=side.tp,
            pp=self.pp,
            ep=side.ep,
            attn_dp=side.attn_dp,
            graph_sizes=self.graph_sizes,
        )

    @property
    def gpus(self) -> int:
        """Return the devices of all workers."""
        decode = self.deployment(self.decode).gpus * self.decode_workers
        if not self.disaggregated:
            return decode
        return decode + self.deployment(self.prefill).gpus * self.prefill_workers

    @property
    def fold(self) -> str:
        """Return the name of its calibration group: everything but concurrency, date and version.

        Sizes are the corrected ones, so that one run recorded under two of them falls into one group.
        """
        d, p = self.decode, self.prefill
        workers = ""
        if self.disaggregated:
            workers = f"{self.prefill_workers}x{p.tp}/{p.ep}/{p.attn_dp}+{self.decode_workers}x"
        return (
            f"{self.architecture.name} {self.accelerator.name} {self.engine} "
            f"{'disagg' if self.disaggregated else 'agg'} {workers}"
            f"tp{d.tp}/pp{self.pp}/ep{d.ep}/dp{d.attn_dp} {self.isl}/{self.osl}"
        )


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, plain or gzipped, with every column of `COLUMNS`.

    Cells may be parted by commas, semicolons or tabs; a column's name may be written in capitals.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not such a file, has no column `metric` or `value`, or names one column twice.
    """
    raw = path.read_bytes()
    try:
        return parsed(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw, str(path))
    except (csv.Error, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}); save it as CSV in UTF-8") from error


def measured_rows(table: str) -> list[dict[str, str]]:
    """Return the rows of one of the tables that come with wattmill, see `MEASURED`."""
    packed = (files("wattmill") / "data" / "measured" / f"{table}.csv.gz").read_bytes()
    return parsed(gzip.decompress(packed), table)


def digest(row: Mapping[str, str]) -> str:
    """Return the identity of a row: 12 hex digits over every column of `COLUMNS`, its result included."""
    text = "\x1f".join((row.get(column) or "").strip() for column in COLUMNS)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def same_measurement(row: Mapping[str, str]) -> str:
    """Return what a measurement keeps however its table is written again: its configuration, its metric, and
    its value to four digits. Where it comes from and who ran it are left out, capitals do not count."""
    return "\x1f".join(_plain(row.get(column) or "") for column in COLUMNS if column not in _ABOUT)


def _plain(text: str) -> str:
    word = text.strip().lower()
    try:
        return f"{float(word):.4g}"
    except ValueError:
        return word


def identity(rows: Iterable[Mapping[str, str]]) -> str:
    """Return the identity of a set of rows, whatever their order."""
    return hashlib.sha256("\n".join(sorted(digest(row) for row in rows)).encode()).hexdigest()


def configuration(row: Mapping[str, str]) -> Configuration:
    """Return what `row` describes. What is absent or unknown is assumed and named in `missing`."""
    missing: list[str] = []
    model = _model(row, missing)
    part = _accelerator(row, missing)
    bits, kv_bits = _bits(row, model, missing)
    lengths = {name: _length(row, name, missing) for name in _ASSUMED}
    if lengths["isl"] * lengths["concurrency"] > MOST_WORK_TOK:
        missing.append("concurrency")
        lengths["concurrency"] = max(MOST_WORK_TOK // lengths["isl"], 1)
    mode = (row.get("mode") or "agg").strip().lower()
    counted = re.search(r"(\d+)\s*p\s*(\d+)\s*d\b", mode)
    disaggregated = mode.startswith("disagg") or counted is not None
    prefill, decode, pp = _sides(row, disaggregated, missing)
    if not (row.get("tp") or "").strip():
        prefill = decode = _narrowest(row, model, part, bits, kv_bits)
    workers = (1, 1)
    if disaggregated:
        found = (int(counted[1]), int(counted[2])) if counted else (0, 0)
        if all(1 <= n <= _MOST_WORKERS for n in found):
            workers = found
        else:
            missing.append("workers")
    sizes = _graph_sizes(row, lengths["concurrency"], missing)
    return Configuration(
        architecture=model,
        accelerator=part,
        engine=engine(row.get("framework")),
        version=(row.get("framework_version") or "").strip(),
        precision=(row.get("precision") or "").strip(),
        weight_bits=bits,
        kv_bits=kv_bits,
        weight_only=any(word in (row.get("precision") or "").lower() for word in _UNPACKED),
        disaggregated=disaggregated,
        prefill=prefill,
        decode=decode,
        prefill_workers=workers[0],
        decode_workers=workers[1],
        pp=pp,
        isl=lengths["isl"],
        osl=max(lengths["osl"], 2),
        concurrency=lengths["concurrency"],
        known_client="InferenceX" in (row.get("source") or ""),
        graph_sizes=sizes,
        missing=tuple(dict.fromkeys(missing)),
    )


def _graph_sizes(row: Mapping[str, str], concurrency: int, missing: list[str]) -> tuple[int, ...]:
    """Return the recorded steps that the row tells of: `shipped`, or tokens with blanks between them."""
    said = (row.get("graph_sizes") or "").strip().lower()
    try:
        listed: graphs.Declared | None = (
            "shipped" if said == "shipped" else tuple(int(size) for size in said.split()) or None
        )
        return graphs.sizes_of(listed, engine(row.get("framework")), max_num_seqs=max(concurrency, 256))
    except ValueError:
        missing.append("graph_sizes")
        return ()


def _length(row: Mapping[str, str], name: str, missing: list[str]) -> int:
    found = whole(row.get(name), most=_MOST[name])
    if found:
        return found
    missing.append(name)
    return _ASSUMED[name]


def _model(row: Mapping[str, str], missing: list[str]) -> Architecture:
    name = row.get("model") or ""
    try:
        return architecture(name)
    except UnknownModel:
        missing.append("model")
        return stand_in(name)


def _accelerator(row: Mapping[str, str], missing: list[str]) -> Accelerator:
    """What is not known has a name of its own: nothing measured of the other part counts as its own."""
    name = row.get("gpu") or ""
    try:
        part = accelerator(name)
    except UnknownAccelerator:
        part = None
    if part is None or not part.predicted:
        missing.append("gpu")
        called = f"{name.strip() or 'a part without a name'} (figures of {_ASSUMED_GPU})"
        return msgspec.structs.replace(accelerator(_ASSUMED_GPU), name=called)
    return part


def _bits(row: Mapping[str, str], model: Architecture, missing: list[str]) -> tuple[float, float]:
    """Weights follow the label; without one the name, else the published checkpoint. The cache has 8 bits
    beside quantised weights, else 16: rows do not say."""
    label = (row.get("precision") or "").lower() or (row.get("model") or "").lower()
    if any(word in label for word in _FOUR_BITS) or "gpt-oss" in model.name:
        return (4.0, 8.0)
    if any(word in label for word in _EIGHT_BITS):
        return (8.0, 8.0)
    if "16" in label:
        return (16.0, 16.0)
    if label and not (row.get("precision") or "").strip():
        return (16.0, 16.0)  # an unlabelled run of an unquantised checkpoint
    missing.append("precision")
    return (8.0, 8.0)


def _sides(row: Mapping[str, str], disaggregated: bool, missing: list[str]) -> tuple[Side, Side, int]:
    """Return how prefill and decode workers split the model, and over how many stages."""
    pairs = {name: _pair(row, name, missing) for name in ("tp", "ep", "attn_dp", "pp")}
    if not (row.get("tp") or "").strip():
        missing.append("tp")
    pp = min(pairs["pp"][1], _MOST_STAGES)
    if disaggregated:
        sides = [_worker(pairs["tp"][i], pairs["ep"][i], pairs["attn_dp"][i]) for i in (0, 1)]
        return sides[0], sides[1], pp
    side = _worker(*(pairs[name][0] for name in ("tp", "ep", "attn_dp")))
    if side.tp > _LARGEST_TP:
        missing.append("tp")
    return side, side, pp


def _narrowest(
    row: Mapping[str, str], model: Architecture, part: Accelerator, weight_bits: float, kv_bits: float
) -> Side:
    """Return the split to assume where none is stated: over the GPUs of the row, up to a node's eight; else
    the narrowest that holds the weights."""
    stated = whole(row.get("n_gpus"), most=MOST_SPLIT)
    if stated:
        return Side(tp=min(stated, _LARGEST_TP), ep=1, attn_dp=1)
    sizes = [n for n in (1, 2, 4, 8) if n <= _LARGEST_TP]
    for tp in sizes:
        replica = Deployment(
            architecture=model,
            accelerator=part,
            engine="",
            weight_bits=weight_bits,
            kv_bits=kv_bits,
            tp=tp,
        )
        if replica.kv_tokens() > 0:
            return Side(tp=tp, ep=1, attn_dp=1)
    return Side(tp=sizes[-1], ep=1, attn_dp=1)


def _worker(tp: int, ep: int, dp: int) -> Side:
    """Undo two ways of recording: a size multiplied by `ep`, and a worker of tp = 1 beside ep = its GPUs.

    The same measurements stand in the table under tp 8, ep 8 and under tp 64, ep 8 (64 GPUs of a part that
    comes in eights), so a `tp` or `attn_dp` of ep x ep is read as ep.
    """
    if ep > 1 and dp == 1 and tp == ep * ep:
        tp = ep
    if ep > 1 and tp == 1 and dp == ep * ep:
        dp = ep
    if ep > 1 and dp > 1 and tp == dp and ep == tp * dp:
        ep, dp = tp, 1
    if tp > 1 and dp > 1 and tp == dp:  # attention ranks inside the tensor group, counted twice
        tp = 1
    return Side(tp=tp, ep=min(max(ep, 1), tp * dp), attn_dp=dp)


def _pair(row: Mapping[str, str], name: str, missing: list[str]) -> tuple[int, int]:
    """Return a size of prefill and decode workers: `8`, or `p4/d8`. Blank and 0 say that it is not split;
    what cannot be read is named, and its first figure taken if it has one (`8x2`)."""
    text = (row.get(name) or "").strip().lower()
    if not text:
        return 1, 1
    both = re.fullmatch(r"p(\d+)\s*/\s*d(\d+)", text)
    sizes = (both[1], both[2]) if both else (text, text)
    found = [1 if re.fullmatch(r"0+(\.0*)?", size) else whole(size, most=MOST_SPLIT) for size in sizes]
    if found[0] and found[1]:
        return found[0], found[1]
    missing.append(name)
    first = re.match(r"(\d{1,3})\D", text)
    size = max(int(first[1]), 1) if first else 1
    return size, size
