"""Copies of the books that can be taken while they are written, and brought back whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

# What a backup may hold. A name is a path that restoring writes to: no other one is even looked at.
_NAME = re.compile(r"ledger\.db|control\.db|journal/(?!\.)[\w.-]+/(?!\.)[\w.-]+", re.ASCII)


class Entry(msgspec.Struct, frozen=True):
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds. The first file of the archive."""

    format: int
    at_us: int
    files: dict[str, Entry]


class BackupError(RuntimeError):
    """A backup that cannot be made or brought back; the message says why and what to do."""


def backup(target: Path, *, ledger_db: Path, control_db: Path, journal: Path, at_us: int) -> Manifest:
    """Write one tar file. The books first, then the journals: what was written in between is in the
    journals, and is booked when the copy starts. A crash leaves no half file."""
    if target.exists():
        raise BackupError(f"{target} exists; name another file, backups are never overwritten")
    if not target.parent.is_dir():
        raise BackupError(f"{target.parent} is no folder; make it, or name a file in another one")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".backup-") as work:
        root = Path(work)
        for path in (ledger_db, control_db):
            if path.exists():
                _copy_database(path, root / path.name)
        # A journal may lose booked segments while it is copied: what is gone is in the books that we have.
        for source in sorted(journal.glob("*/*")):
            copy = root / "journal" / source.parent.name / source.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source, copy)
            except FileNotFoundError:
                continue
        files = {
            str(path.relative_to(root)): _entry(path) for path in sorted(root.rglob("*")) if path.is_file()
        }
        manifest = Manifest(format=FORMAT_VERSION, at_us=at_us, files=files)
        draft = root / "draft.tar"
        draft.touch(mode=0o600)  # whoever may read it, reads the books
        with tarfile.open(draft, "w") as tar:
            head = msgspec.json.format(msgspec.json.encode(manifest))
            info = tarfile.TarInfo(MANIFEST)
            info.size, info.mode, info.mtime = len(head), 0o600, at_us // 1_000_000
            tar.addfile(info, io.BytesIO(head))
            for name in files:
                tar.add(root / name, arcname=name)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, target)
    return manifest


def restore(source: Path, home: Path) -> Manifest:
    """Bring a backup back into an empty or absent folder: all of it, checked, or nothing."""
    if home.exists() and any(home.iterdir()):
        raise BackupError(
            f"{home} is not empty; restore into a new folder, then run `wattmill audit --home` on it"
        )
    home.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=home.parent, prefix=".restore-"))
    try:
        manifest = _unpack(source, work)
        if home.exists():
            home.rmdir()
        os.replace(work, home)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return manifest


def _unpack(source: Path, work: Path) -> Manifest:
    try:
        with tarfile.open(source, "r:") as tar:
            first = tar.next()
            stream = tar.extractfile(first) if first is not None and first.name == MANIFEST else None
            if stream is None:
                raise BackupError(f"{source} is no wattmill backup: it does not begin with {MANIFEST}")
            manifest = msgspec.json.decode(stream.read(), type=Manifest)
            if manifest.format > FORMAT_VERSION:
                raise BackupError(
                    f"{source} has format {manifest.format}, this wattmill reads {FORMAT_VERSION}; upgrade"
                )
            strange = next((name for name in manifest.files if not _NAME.fullmatch(name)), None)
            if strange is not None:
                raise BackupError(f"{source} is no wattmill backup: its manifest names {strange!r}")
            for member in tar:
                if member.name == MANIFEST:
                    continue
                if member.name not in manifest.files or not member.isreg():
                    raise BackupError(f"{source} holds {member.name!r}, which its manifest does not name")
                # By hand: Debian's Python 3.11.2 has no filters of `extract`, and the name is one of ours.
                path, data = work / member.name, tar.extractfile(member)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    shutil.copyfileobj(data or io.BytesIO(), file)
    except (tarfile.TarError, msgspec.DecodeError, OSError) as error:
        raise BackupError(f"{source} cannot be read as a backup: {error}") from error
    for name, entry in manifest.files.items():
        path = work / name
        if not path.is_file() or _entry(path) != entry:
            raise BackupError(
                f"{source}: {name} is missing or damaged (its checksum does not hold); nothing was restored"
            )
        path.chmod(0o600)
    for folder in (work, *(path for path in work.rglob("*") if path.is_dir())):
        folder.chmod(0o700)
    return manifest


def _copy_database(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as db,
        closing(sqlite3.connect(target)) as copy,
    ):
        db.backup(copy)


def _entry(path: Path) -> Entry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(path.stat().st_size, digest)
