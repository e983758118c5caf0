"""A control database that an older wattmill wrote is brought up to date, once, and loses nothing."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.ledger.stores.control_records import Ask
from wattmill.ledger.stores.control_runs import Runs
from wattmill.ledger.stores.control_schema import APPLICATION_ID, FORMAT, MIGRATIONS

FIXTURES = Path(__file__).parent / "fixtures"
SECRET = "wm-dLqqIm3EFyYT5iLQJChSlga0rENy000rfZmlbcSe8WU"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "control.db"
    db = sqlite3.connect(path)
    db.executescript((FIXTURES / "control_v1" / "control.sql").read_text())
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.close()
    return path


def tables(path: Path) -> dict[str, list[tuple[str, str, int]]]:
    db = sqlite3.connect(path)
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {
        name: sorted((row[1], row[2], row[3]) for row in db.execute(f"PRAGMA table_info({name})"))
        for name in names
    }
    db.close()
    return found


def test_a_file_of_format_1_keeps_its_tree_keys_prices_and_leases(old: Path) -> None:
    with Control(old) as control:
        assert {n.name: n.cap_nusd for n in control.nodes().values()} == {
            "demo": 5_000_000_000,
            "load": 1_000_000_000,
            "free": None,
            "one": 300_000_000,
            "two": None,
        }
        first, second = control.keys()
        assert (first.models, first.revoked_us, first.requires_run) == (("m",), None, False)
        assert second.revoked_us is not None
        assert len(control.prices()) == 1 and control.config() == (1, "[pools]")
        one = control.summary(first.id)
        assert one.used_nusd == 10 + 7 and one.idle_nusd > 0
        assert control.live_epochs() == ["aaaaaaaaaaaa"]
        assert set(control.recalls("aaaaaaaaaaaa")) == {first.path[0]}
        assert isinstance(control.lease("aaaaaaaaaaaa", [Ask(first.id, 5, 5, 0)]), dict)
        assert control.close_epoch("aaaaaaaaaaaa", dict.fromkeys(first.path, 9))
        assert {control.summary(node).used_nusd for node in first.path} == {19}
        assert not control.close_epoch("bbbbbbbbbbbb", {})
        assert not control.adjust_used("x", {first.id: 1}), "corrections that were made stay made"


def test_a_migrated_file_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    Control(old).close()
    Control(tmp_path / "new.db").close()
    assert tables(old) == tables(tmp_path / "new.db")


def test_a_migrated_file_takes_runs_and_limits(old: Path) -> None:
    with Control(old) as control:
        key = control.keys()[0]
        run, id = Runs(control).open(key.id, cap_nusd=5)
        assert Runs(control).find(id).path == (*key.path, run.node)
        assert Limits(control).put(run.node, "requests", "minute", 3) is not None


def test_several_processes_that_open_an_old_file_at_once_migrate_it_once(old: Path) -> None:
    start = threading.Barrier(4)
    failures: list[Exception] = []

    def opened() -> None:
        start.wait()
        try:
            with Control(old) as control:
                assert len(control.nodes()) == 5
        except Exception as error:  # noqa: BLE001  # carried to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=opened) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_migration_that_fails_leaves_the_old_file_as_it_was(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(old)
    monkeypatch.setitem(MIGRATIONS, 1, MIGRATIONS[1] + "\nINSERT INTO no_such_table VALUES (1);\n")
    with pytest.raises(sqlite3.OperationalError, match="no_such_table"):
        Control(old)
    assert tables(old) == before
    db = sqlite3.connect(old)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()


def test_every_older_format_has_its_way_up() -> None:
    assert sorted(MIGRATIONS) == list(range(1, FORMAT))
