"""Calibrations in a factory's data folder: one file a model, written whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

import msgspec

from wattmill.twin.calibration.spec import FORMAT, Calibration


def folder(home: Path) -> Path:
    return home / "twin"


def path_of(home: Path, model: str) -> Path:
    """Return the file of a model; two models never share one, as `a/b` and `a_b` once did."""
    return folder(home) / (quote(model, safe="") + ".json")


def _path_before(home: Path, model: str) -> Path:
    """Return where a calibration of a model stood until 2026-11-28."""
    return folder(home) / (re.sub(r"[^A-Za-z0-9._-]", "_", model) + ".json")


def keep(home: Path, calibration: Calibration) -> Path:
    """Write `calibration`, in place of an older one of the same model. Returns its file."""
    path = path_of(home, calibration.model)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=1))
    os.replace(fresh, path)
    before = _path_before(home, calibration.model)
    if before != path and _at(before, calibration.model) is not None:
        before.unlink(missing_ok=True)
    return path


def kept(home: Path, model: str) -> Calibration | None:
    """Return the calibration of `model`, or None. Raises `ValueError` where a file is not one."""
    try:
        return read(path_of(home, model))
    except FileNotFoundError:
        return _at(_path_before(home, model), model)


def read(path: Path) -> Calibration:
    """Return the calibration in a file. Raises `FileNotFoundError`, or `ValueError` where it is none."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no calibration: {error}; calibrate again") from error
    if found.format != FORMAT:
        raise ValueError(f"{path} has format {found.format}, not {FORMAT}; calibrate again")
    return found


def _at(path: Path, model: str) -> Calibration | None:
    """Return the calibration in an older file if it is one of `model`."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if found.model == model and found.format == FORMAT else None
