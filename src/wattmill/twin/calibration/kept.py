"""Calibrations in a factory's data folder: one file a model, written whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from wattmill.twin.calibration.spec import FORMAT, Calibration


def folder(home: Path) -> Path:
    return home / "twin"


def path_of(home: Path, model: str) -> Path:
    return folder(home) / (re.sub(r"[^A-Za-z0-9._-]", "_", model) + ".json")


def keep(home: Path, calibration: Calibration) -> Path:
    """Write `calibration`, in place of an older one of the same model."""
    path = path_of(home, calibration.model)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=1))
    os.replace(fresh, path)
    return path


def kept(home: Path, model: str) -> Calibration | None:
    """Return the calibration of `model`, or None. Raises `ValueError` where a file is not one."""
    try:
        found = msgspec.json.decode(path_of(home, model).read_bytes(), type=Calibration)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path_of(home, model)} is no calibration: {error}; calibrate again") from error
    if found.format != FORMAT:
        raise ValueError(f"{path_of(home, model)} has format {found.format}, not {FORMAT}; calibrate again")
    return found
