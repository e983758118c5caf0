"""`wattmill twin known`: the catalogues that plans and predictions stand on, each row with its source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from wattmill.cli.control_door import JsonOption, fail, show_json, show_table

if TYPE_CHECKING:
    from wattmill.compute.prices import GpuPrice
    from wattmill.models.architecture import Architecture

Table = Literal["accelerators", "models", "prices"]

_TERA, _GIGA, _KILO = 1e12, 1e9, 1e3
_TOLD = 12
"""Up to so many rows are told with source and what disagrees; of more, the table says how to ask."""
_BYTES = 2
"""Bytes of a cache element of 16 bits."""


def known(
    table: Annotated[Table, typer.Argument(help="accelerators, models or prices.")],
    name: Annotated[
        str | None, typer.Argument(help="Rows whose name has this in it; a model's may be as it is served.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what is known of accelerators, models and prices of GPU-hours, where from, and what disagrees.

    `verified` is a vendor's or publisher's own figure; the rest is press or memory. Of figures that disagree
    the lower one is used, and all stand in the notes.
    """
    match table:
        case "accelerators":
            _accelerators(name, json)
        case "models":
            _models(name, json)
        case "prices":
            _prices(name, json)


def _accelerators(name: str | None, json: bool) -> None:
    from wattmill.compute.catalogue import UnknownAccelerator, accelerator, accelerators

    found = [p for p in accelerators() if _has(name, p.name, p.part)]
    if not found and name:
        try:
            found = [accelerator(name)]
        except UnknownAccelerator as unknown:
            fail(str(unknown.args[0]))
    if json:
        show_json(msgspec.to_builtins(found))
        return
    headers = [
        "accelerator",
        "bf16 TF",
        "fp8 TF",
        "fp4 TF",
        "GB",
        "TB/s",
        "link GB/s",
        "W",
        "a node",
        "fabric",
    ]
    show_table(
        [*headers, "predicted", "verified"],
        [
            [
                p.name,
                *(_in(f, _TERA) for f in (p.bf16_flop_per_s, p.fp8_flop_per_s, p.fp4_flop_per_s)),
                _in(p.memory_bytes, _GIGA),
                _in(p.bandwidth_bytes_per_s, _TERA),
                _in(p.link_bytes_per_s, _GIGA),
                _in(p.tdp_w, 1.0),
                str(p.gpus_per_node),
                str(p.scale_up_gpus),
                _yes(p.predicted),
                _yes(p.verified),
            ]
            for p in found
        ],
        numbers=headers[1:],
        always=["verified"],
    )
    _told([(p.name, p.source, p.as_of, p.notes) for p in found], "accelerators", name)


def _models(name: str | None, json: bool) -> None:
    from wattmill.models.architectures import UnknownModel, architecture, architectures

    found = [m for m in architectures() if _has(name, m.name)]
    if not found and name:
        try:
            found = [architecture(name)]
        except UnknownModel as unknown:
            fail(str(unknown.args[0]))
    if json:
        show_json([_model_facts(m) for m in found])
        return
    headers = ["model", "attention", "B params", "B a token", "GFLOP a token", "kB cache a token", "experts"]
    show_table(
        [*headers, "context", "verified"],
        [
            [
                m.name,
                m.kv_law,
                f"{m.params / _GIGA:.1f}",
                f"{m.active_params / _GIGA:.1f}",
                f"{m.linear_flop_per_tok / _GIGA:.1f}",
                f"{m.kv_elements_per_tok() * _BYTES / _KILO:.1f}",
                f"{m.active_experts} of {m.experts}" if m.experts else "",
                str(m.max_context_tok),
                _yes(m.verified),
            ]
            for m in found
        ],
        numbers=[*headers[2:], "context"],
        always=["verified"],
    )
    typer.echo("cache at 16 bits, per further token once windows are full; FLOPs without attention")
    _told([(m.name, m.source, m.as_of, m.caveat) for m in found], "models", name)


def _prices(name: str | None, json: bool) -> None:
    from wattmill.compute.prices import gpu_prices

    found = [p for p in gpu_prices() if _has(name, p.accelerator or "", p.gpu)]
    if not found and name:
        there = sorted({p.accelerator or p.gpu for p in gpu_prices()})
        fail(f"no price is listed for {name!r}; there are some for {', '.join(there)}")
    if json:
        show_json([msgspec.to_builtins(p) | {"contains": msgspec.to_builtins(p.contains)} for p in found])
        return
    show_table(
        ["accelerator", "kind", "provider", "USD a GPU-hour", "all-in kW", "contains", "as of"],
        [
            [
                p.accelerator or f"{p.gpu} (not in the catalogue)",
                p.kind,
                p.provider,
                f"{p.usd_per_gpu_h:g}",
                _in(p.all_in_w_per_gpu, _KILO),
                _contains(p),
                p.as_of or "",
            ]
            for p in found
        ],
        numbers=["USD a GPU-hour", "all-in kW"],
    )
    typer.echo("what a price contains is our reading of its kind (declared); no source itemises it")
    _told([(f"{p.gpu}, {p.provider}", p.source, p.as_of or "", p.note) for p in found], "prices", name)


def _told(rows: Sequence[tuple[str, str, str, str]], table: str, name: str | None) -> None:
    """Say where each row is from and what disagrees; of many rows, how to ask."""
    if len(rows) > _TOLD:
        of = f"{table} NAME" if name is None else f"{table} {name} --json"
        typer.echo(f"{len(rows)} rows; `wattmill twin known {of}` tells sources, dates and what disagrees")
        return
    for called, source, as_of, notes in rows:
        date = f" ({as_of})" if as_of and as_of not in source else ""
        typer.echo(f"{called}: {source}{date}" + (f"; {notes}" if notes else ""))


def _model_facts(m: Architecture) -> dict[str, object]:
    facts: dict[str, object] = msgspec.to_builtins(m)
    return facts | {
        "kv_law": m.kv_law,
        "kv_elements_per_tok": m.kv_elements_per_tok(),
        "linear_flop_per_tok": m.linear_flop_per_tok,
    }


def _contains(p: GpuPrice) -> str:
    parts = {name: getattr(p.contains, name) for name in ("capital", "hosting", "energy", "margin")}
    paid = "by the hour" if p.contains.per_use else "every hour"
    return ", ".join([*(name for name, inside in parts.items() if inside), paid])


def _has(asked: str | None, *names: str) -> bool:
    plain = "".join(c for c in (asked or "").lower() if c.isalnum())
    return any(plain in "".join(c for c in name.lower() if c.isalnum()) for name in names)


def _in(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:g}"


def _yes(so: bool) -> str:
    return "yes" if so else "no"
