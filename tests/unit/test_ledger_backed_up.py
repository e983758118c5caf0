"""A factory's folder backed up and restored, swept, and followed by the ledger process."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger_by_hand import NOW, Factory, by_hand, holds
from wattmill.app.home import Home
from wattmill.app.ledger_process import follower
from wattmill.app.running.lag import read_lag
from wattmill.app.seeing.auditing import audit_home
from wattmill.app.seeing.explain import explain
from wattmill.ledger import epoch as epochs
from wattmill.ledger.backup import BackupError, backup, restore
from wattmill.ledger.journal import Journal
from wattmill.ledger.retention import sweep
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.sqlite_read import Books


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[Factory]:
    yield from by_hand(tmp_path)


def test_a_backup_of_a_running_factory_restores_to_the_same_books(factory: Factory, tmp_path: Path) -> None:
    for _ in range(5):
        factory.end(factory.intent())
    factory.book()
    factory.end(factory.intent())  # not booked yet: only in the journal
    file = tmp_path / "b.tar"
    home = factory.home
    backup(file, ledger_db=home.ledger_db, control_db=home.control_db, journal=home.journal, at_us=NOW)
    other = Home(tmp_path / "other")
    restore(file, other.root)
    other.create()
    factory.book()
    with Control(other.control_db) as control:
        loop = follower(other, control)
        loop.catch_up()
        loop.close()
    with Books(home.ledger_db) as one, Books(other.ledger_db) as two:
        assert one.balances() == two.balances() and one.recent() == two.recent()
    a, b = audit_home(home), audit_home(other)
    assert holds(a) and holds(b) and a.places == b.places and a.attempts == b.attempts == 6
    with pytest.raises(BackupError, match="is not empty"):
        restore(file, other.root)
    with pytest.raises(BackupError, match="exists"):
        backup(file, ledger_db=home.ledger_db, control_db=home.control_db, journal=home.journal, at_us=NOW)


def test_a_backup_into_no_folder_says_so(factory: Factory, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"nowhere is no folder; make it, or"):
        home, file = factory.home, tmp_path / "nowhere" / "b.tar"
        backup(file, ledger_db=home.ledger_db, control_db=home.control_db, journal=home.journal, at_us=NOW)


def test_a_damaged_backup_restores_nothing(factory: Factory, tmp_path: Path) -> None:
    factory.end(factory.intent())
    factory.book()
    file = tmp_path / "b.tar"
    home = factory.home
    backup(file, ledger_db=home.ledger_db, control_db=home.control_db, journal=home.journal, at_us=NOW)
    data = bytearray(file.read_bytes())
    at = data.index(b"SQLite format 3") + 5000
    data[at] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(BackupError, match="checksum"):
        restore(file, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "name", ["{outside}", "../outside", "admin.token", "journal/../outside", "journal/a/../b"]
)
def test_a_backup_that_names_anything_else_is_refused_and_nothing_outside_is_touched(
    tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"x")
    outside.chmod(0o644)
    name = name.format(outside=outside)
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    head = json.dumps({"format": 1, "at_us": 0, "files": {name: entry}}).encode()
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for member, data in (("manifest.json", head), (name, b"x")):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(BackupError, match="its manifest names"):
        restore(tmp_path / "b.tar", tmp_path / "other")
    assert outside.stat().st_mode & 0o777 == 0o644
    assert not (tmp_path / "other").exists()


def test_a_backup_is_readable_by_its_owner_alone(factory: Factory, tmp_path: Path) -> None:
    file, home = tmp_path / "b.tar", factory.home
    backup(file, ledger_db=home.ledger_db, control_db=home.control_db, journal=home.journal, at_us=NOW)
    assert file.stat().st_mode & 0o777 == 0o600


def test_only_booked_old_segments_are_swept_and_an_empty_dead_epoch_goes_with_them(tmp_path: Path) -> None:
    factory = Factory(tmp_path / "home")
    factory.gateway.close()
    factory.gateway = Journal(
        factory.home.journal, kind="gateway", worker=0, wall_us=lambda: NOW, segment_bytes=2_000
    )
    for _ in range(20):
        factory.end(factory.intent())
    folder = factory.gateway.folder
    before = epochs.segments(folder)
    with Control(factory.home.control_db) as control:
        loop = follower(factory.home, control)
        assert sweep(loop.books.db, factory.home.journal, before_us=1 << 60) == []
        loop.catch_up()
        sweep(loop.books.db, factory.home.journal, before_us=factory.now - 3_000_000)
        some = epochs.segments(folder)
        assert before[-1] in some and len(some) < len(before)
        factory.gateway.close()
        loop.catch_up()
        sweep(loop.books.db, factory.home.journal, before_us=1 << 60)
        loop.close()
    assert not folder.exists()
    story = explain(factory.home, factory.id(1))
    assert story.tries[0].booked and not story.journal_kept
    assert holds(audit_home(factory.home))


def test_the_ledger_process_books_says_its_lag_and_leaves_at_sigterm(factory: Factory) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "wattmill.app.ledger_process", "--home", str(factory.home.root)],
        stderr=subprocess.DEVNULL,
    )
    try:
        factory.end(factory.intent())
        for _ in range(500):
            lag = read_lag(factory.home)
            if lag is not None and lag.committed_us is not None:
                break
            time.sleep(0.02)
        assert lag is not None and lag.behind_records == 0 and lag.committed_us is not None
        factory.end(factory.intent())
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
        with Books(factory.home.ledger_db) as books:
            assert len(books.recent()) == 2, "what stood in the journal at SIGTERM is booked"
    finally:
        child.kill()
        child.wait()
    shutil.rmtree(factory.home.run, ignore_errors=True)


def test_a_long_batch_lets_others_by_again_and_again_and_the_books_are_the_same(factory: Factory) -> None:
    for _ in range(100):
        factory.end(factory.intent())
    let_by: list[int] = []
    with Control(factory.home.control_db) as control:
        loop = follower(factory.home, control)
        loop.books.give_way = lambda: let_by.append(1)
        booked = loop.step().records
        loop.close()
    assert booked >= 200
    assert len(let_by) == booked // 32
    assert audit_home(factory.home).holds
