"""Offline rows as they are published, and what each ran: model, parts, lengths, splits to choose from.

Tables state the split (TensorRT-LLM's overview) or leave it to the submitter (MLPerf, who also fixes the data
set instead of lengths). What a row leaves out is declared here and named in `missing`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from math import log

import msgspec

from wattmill.compute.catalogue import UnknownAccelerator, accelerator
from wattmill.compute.spec import Accelerator
from wattmill.models.architecture import Architecture
from wattmill.models.architectures import UnknownModel, architecture, stand_in
from wattmill.twin.law.reading import MOST_SPLIT, MOST_TOK, number, whole
from wattmill.twin.law.reading import engine as engine_of

THROUGHPUT = ("output_throughput", "output_throughput_per_gpu")

GENERATIONS = {
    "A100": "ampere",
    "H100": "hopper",
    "H200": "hopper",
    "GH200": "hopper",
    "B200": "blackwell",
    "B300": "blackwell",
    "GB200": "blackwell",
    "GB300": "blackwell",
    "RTX": "blackwell-rtx",
    "L4": "ada",
    "L40S": "ada",
    "L40": "ada",
    "L20": "ada",
    "RTX-4090": "ada",
    "RTX-6000-Ada": "ada",
    "A10": "ampere",
    "A30": "ampere",
    "A10G": "ampere",
    "A6000": "ampere",
    "H20": "hopper",
    "H800": "hopper",
    "MI300X": "cdna3",
    "MI300A": "cdna3",
    "MI308X": "cdna3",
    "MI325X": "cdna3",
    "MI350X": "cdna4",
    "MI355X": "cdna4",
}
"""By the part's name, or by it up to its first hyphen; others are their own generation."""

_REQUESTS = {
    (128, 128): 30_000,
    (20_000, 2_000): 1_000,
    (1_024, 32_768): 1_000,
    (32_768, 1_024): 1_000,
    (128, 4_096): 1_500,
    (1_000, 2_000): 1_500,
    (2_048, 2_048): 1_500,
    (5_000, 500): 1_500,
    (1_024, 8_192): 1_500,
    (8_192, 1_024): 1_500,
}
"""Requests of one run of TensorRT-LLM's overview by (isl, osl): declared, from memory of its benchmarking
page; 3,000 for the other lengths. A run of few waves ends with a batch that is not full."""
_OTHER_REQUESTS = 3_000

_DEFAULT_SLOTS = {"vllm": 256}
"""`max_num_seqs` of vLLM before its second engine: of a system that says it ran the default configuration."""

_COLUMNS = (
    *("source", "model", "precision", "gpu", "n_gpus", "tp", "pp", "ep", "attn_dp", "framework"),
    *("framework_version", "isl", "osl", "scenario", "metric", "value", "system"),
)
_MOST_GPUS = 1_000_000
_ASSUMED_PART = "H100-SXM"
_SAME = 0.002  # results of one cell that lie closer are one run, submitted again


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """One way to spread a replica."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    attn_dp: int = 1


class DataSet(msgspec.Struct, frozen=True, kw_only=True):
    """Mean lengths of an MLPerf data set, and the time per output token that scenarios allow at the p99."""

    isl: int
    osl: float
    tpot_limit_s: dict[str, float]
    source: str


class OfflineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of throughput, and everything that the law needs to repeat it."""

    architecture: Architecture
    accelerator: Accelerator
    gpus: int
    engine: str
    weight_bits: float
    kv_bits: float
    isl: int
    osl: float
    splits: tuple[Split, ...]  # the best of them is what a submitter would run
    slots: int | None  # sequences of an attention rank, where the engine kept its default; None: tuned
    requests: int | None  # of the run; None: long enough for a steady state
    tpot_limit_s: float | None
    scenario: str
    family: str  # who measured: table, engine, round
    tok_per_s_per_gpu: float | None  # measured; None: to be predicted only
    missing: tuple[str, ...]
    capped: bool  # a run under an unpublished power cap ("MaxQ" in the system's name)

    @property
    def cell(self) -> tuple[str, str]:
        """Return (accelerator, architecture): the unit of the folds."""
        return self.accelerator.name, self.architecture.name

    @property
    def generation(self) -> str:
        """Return the family of parts that share a design."""
        return generation(self.accelerator.name)

    @property
    def workload(self) -> str:
        """Return the calibration group inside the cell: scenario, split if stated, devices and lengths."""
        split = self.splits[0] if len(self.splits) == 1 else None
        return f"{self.cell} {self.scenario} {split} {self.gpus} {self.isl}/{self.osl:.0f} {self.engine}"


def generation(part: str) -> str:
    """Return the family of the accelerator named `part`, see `GENERATIONS`."""
    head = part.split("-")[0]
    return GENERATIONS.get(part) or GENERATIONS.get(head, head)


@cache
def data_sets() -> dict[str, DataSet]:
    """Return the declared data sets by architecture name."""
    text = (files("wattmill") / "data" / "mlperf_datasets.csv").read_text(encoding="utf-8")
    found = {}
    for row in csv.DictReader(text.splitlines()):
        limits = {
            scenario: float(row[f"{scenario.lower()}_tpot_s"])
            for scenario in ("Server", "Interactive")
            if row[f"{scenario.lower()}_tpot_s"]
        }
        found[architecture(row["model"]).name] = DataSet(
            isl=int(row["isl"]), osl=float(row["osl"]), tpot_limit_s=limits, source=row["source"]
        )
    return found


def offline_row(row: Mapping[str, str]) -> OfflineRow:
    """Return what a table's row describes. Never fails: what is left out or unknown is declared, and named in
    `missing`. Columns that `row` does not have count as empty."""
    row = dict.fromkeys(_COLUMNS, "") | {name: (value or "").strip() for name, value in row.items() if name}
    missing: list[str] = []
    model, part = _model(row, missing), _part(row, missing)
    mlperf = row["source"].startswith("MLPerf")
    unread: list[str] = []
    splits = _splits(row, model, unread)
    gpus = _gpus(row, splits, unread)
    engine = _engine(row["framework"])
    weight_bits = _weight_bits(row, part, model, missing)
    narrow = weight_bits == 4.0 and part.fp4_flop_per_s is None
    isl, osl = whole(row["isl"], most=MOST_TOK) or 0, number(row["osl"]) or 0.0
    osl = osl if osl <= MOST_TOK else 0.0
    limit = None
    if not isl or not osl:
        missing.extend(name for name, given in (("isl", isl), ("osl", osl)) if not given)
        known = data_sets().get(model.name, DataSet(isl=1024, osl=1024.0, tpot_limit_s={}, source="assumed"))
        isl, osl = isl or known.isl, osl or known.osl
    if mlperf and model.name in data_sets():
        limit = data_sets()[model.name].tpot_limit_s.get(row["scenario"])
    missing += unread
    untuned = "default_config" in row["system"].lower()
    splits = splits or ((_whole_system(gpus),) if untuned else _usual(model, gpus))
    measured = number(row["value"]) if row["metric"] in THROUGHPUT else None
    if measured is not None and not row["metric"].endswith("per_gpu"):
        measured /= gpus
    round_ = row["source"].rsplit("-", 1)[-1] if mlperf else row["framework_version"]
    return OfflineRow(
        architecture=model,
        accelerator=part,
        gpus=gpus,
        engine=engine,
        weight_bits=weight_bits,
        # An FP8 cache is what both tables' engines use beside quantised weights; gpt-oss declares none, and
        # on parts without 4-bit units its kernels keep 16 bits.
        kv_bits=16.0 if weight_bits == 16.0 or (narrow and model.name.startswith("openai/")) else 8.0,
        isl=isl,
        osl=osl,
        splits=splits,
        slots=_DEFAULT_SLOTS.get(engine) if untuned else None,
        requests=_requests(row, isl, osl, mlperf=mlperf),
        tpot_limit_s=limit,
        scenario=row["scenario"] if mlperf else "Offline",
        family=f"{'mlperf' if mlperf else 'overview'} {engine} {round_}",
        tok_per_s_per_gpu=measured,
        missing=tuple(missing),
        capped="maxq" in row["system"].lower(),
    )


def distinct(rows: Iterable[OfflineRow]) -> list[int]:
    """Return the positions of the rows that are not a run submitted again: same cell, round, scenario,
    devices and result within 0.2 % (a -99.9 beside a -99, a reseller's copy)."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for at, row in enumerate(rows):
        if row.tok_per_s_per_gpu is None:
            continue
        result: object = row.tok_per_s_per_gpu
        if row.family.startswith("mlperf"):
            result = round(log(row.tok_per_s_per_gpu) / _SAME)
        split = row.splits[0] if len(row.splits) == 1 else None
        key = (
            row.cell,
            row.family,
            row.scenario,
            row.gpus,
            row.isl,
            round(row.osl) if split else 0,
            split,
            result,
        )
        if key not in seen:
            seen.add(key)
            kept.append(at)
    return kept


def _model(row: Mapping[str, str], missing: list[str]) -> Architecture:
    name = re.sub(r"-(99(\.9)?|edge)$", "", row["model"])
    try:
        return architecture(name)
    except UnknownModel:
        missing.append("model")
        return stand_in(name)


def _part(row: Mapping[str, str], missing: list[str]) -> Accelerator:
    name = row["gpu"]
    if name.startswith("mixed"):  # "mixed AMD Instinct MI300X 192GB HBM3 (x32), ...": the first, most of them
        missing.append("gpu")
        for word in re.findall(r"[A-Z]+\d+[A-Z]*", name):
            try:
                return accelerator(word)
            except UnknownAccelerator:
                continue
    try:
        part = accelerator(name)
    except UnknownAccelerator:
        part = None
    if part is None or not part.predicted:
        missing.append("gpu")
        called = f"{name or 'a part without a name'} (figures of {_ASSUMED_PART})"
        return msgspec.structs.replace(accelerator(_ASSUMED_PART), name=called)
    return part


def _engine(framework: str) -> str:
    named = framework.lower()
    if "cuda" in named:  # MLPerf's "CUDA 12.2" is a TensorRT-LLM submission
        return "trtllm"
    return "vllm" if "mango" in named else engine_of(framework).split(" ")[0]


def _weight_bits(row: Mapping[str, str], part: Accelerator, model: Architecture, missing: list[str]) -> float:
    """MLPerf v4.1's "fp16" names the data, not the weights, which had 4 bits on a B200 and 8 elsewhere."""
    label = row["precision"].lower().replace("e4m3", "8")
    if model.name.startswith("openai/gpt-oss") or "4" in label or label in ("awq", "gptq"):
        return 4.0
    if label == "fp16" and row["source"].startswith("MLPerf-Inference-v4"):
        return 4.0 if part.fp4_flop_per_s is not None else 8.0
    if "8" in label:
        return 8.0
    if "16" in label:
        return 16.0
    missing.append("precision")
    return 8.0


def _requests(row: Mapping[str, str], isl: int, osl: float, *, mlperf: bool) -> int | None:
    """Return the requests of a run that bound its batch: one at a time in a single stream."""
    if row["scenario"].lower().replace(" ", "") == "singlestream":
        return 1
    return None if mlperf else _REQUESTS.get((isl, round(osl)), _OTHER_REQUESTS)


def _gpus(row: Mapping[str, str], splits: tuple[Split, ...], missing: list[str]) -> int:
    """Return the devices of the run: as stated, else those of its split."""
    found = whole(row["n_gpus"], most=_MOST_GPUS)
    if found:
        return found
    if splits:
        return splits[0].tp * splits[0].pp * splits[0].attn_dp
    missing.append("n_gpus")
    return 1


def _splits(row: Mapping[str, str], model: Architecture, missing: list[str]) -> tuple[Split, ...]:
    """Return the stated split; none: it is the submitter's, see `_usual`. A size that cannot be read is
    named, and its first figure taken if it has one (`8x2`)."""
    sizes = {}
    for name in ("tp", "pp", "ep", "attn_dp"):
        found = whole(row[name], most=MOST_SPLIT)
        if found is None and row[name] and not re.fullmatch(r"0+(\.0*)?", row[name]):
            missing.append(name)
            first = re.match(r"(\d{1,3})\D", row[name])
            found = int(first[1]) if first else None
        sizes[name] = found or 0
    tp, pp, ep, dp = sizes.values()
    if tp or pp or ep or dp:
        if dp > 1 or ep > 1:
            tp = 1 if dp > 1 else tp
            return (Split(tp=tp or 1, pp=pp or 1, ep=ep or 1, attn_dp=dp or 1),)
        return (Split(tp=tp or 1, pp=pp or 1),)
    missing.append("tp")
    return ()


def _whole_system(gpus: int) -> Split:
    """Return the split of a server that was started without tuning: one engine over the devices of a node."""
    return Split(tp=max(n for n in (1, 2, 4, 8) if n <= gpus))


def _usual(model: Architecture, gpus: int) -> tuple[Split, ...]:
    """Return every usual way to spread a replica: tensor, pipeline, or attention ranks for many experts."""
    sizes = [n for n in (1, 2, 4, 8) if n <= gpus]
    if model.experts > 64:
        ranks = [n for n in sizes if n >= 4] or sizes[-1:]
        return tuple(Split(ep=n, attn_dp=n) for n in ranks)
    tensor = [Split(tp=n) for n in sizes]
    pipeline = [Split(pp=n) for n in sizes if n > 1]
    both = [Split(tp=2, pp=n // 2) for n in sizes if n > 2]
    return tuple(tensor + pipeline + both)
