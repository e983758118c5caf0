"""Write a GGUF file again with another quantisation of its matrices.

It changes speed and size, never quality for the better: what the origin's grid rounded away stays away.
Needs numpy and gguf, which are imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class BadWeights(Exception):
    """A weights file is not what it should be; the message says which, and the way out."""


def requantise(source: Path, target: Path, kind: str, *, say: Callable[[str], None] = lambda _: None) -> None:
    """Write `source` to `target` with its quantised matrices as `kind` ("Q8_0", "Q4_0").

    Norms stay in their own type, and so do matrices that have more bits than `kind` (embeddings in Q8_0).
    The file appears under its name only when it is whole and was read back.
    """
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
    from gguf.quants import dequantize, quantize

    wanted = GGMLQuantizationType[kind]
    reader = GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        writer = GGUFWriter(part, architecture)
        for name, field in reader.fields.items():
            _copy_field(writer, name, field, wanted)
        for number, tensor in enumerate(reader.tensors):
            data, held = tensor.data, tensor.tensor_type
            if (
                (held.name in ("F32", "F16", "BF16") and len(tensor.shape) < 2)
                or held == wanted
                or (held.name == "Q8_0" and tensor.name == "token_embd.weight")
            ):
                writer.add_tensor(tensor.name, data, raw_dtype=held)
            else:
                writer.add_tensor(tensor.name, quantize(dequantize(data, held), wanted), raw_dtype=wanted)
            if number % 90 == 0:
                say(f"requantising to {kind}: {number} of {len(reader.tensors)} tensors")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        _read_back(part, names=[t.name for t in reader.tensors])
        _sync(part)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def _copy_field(writer: Any, name: str, field: Any, wanted: Any) -> None:
    """Copy one value of the origin's metadata; the header's own counts are made anew."""
    from gguf import GGUFValueType, LlamaFileType

    if name.startswith("GGUF.") or name == "general.architecture":
        return
    value = field.contents()
    if name == "general.file_type":
        value = int(LlamaFileType[f"MOSTLY_{wanted.name}"])
    kind = field.types[0]
    if kind == GGUFValueType.ARRAY:
        writer.add_key_value(name, value, kind, sub_type=field.types[-1])
    else:
        writer.add_key_value(name, value, kind)


def _read_back(path: Path, *, names: list[str]) -> None:
    from gguf import GGUFReader

    found = [tensor.name for tensor in GGUFReader(path).tensors]
    if found != names:
        raise BadWeights(f"{path}: wrote {len(names)} tensors, read {len(found)} back; is the disk full?")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
