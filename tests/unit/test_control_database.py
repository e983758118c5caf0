"""The control database: the tree of spenders, keys, prices and configuration, safe for several processes."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import Ask, ControlError, EpochClosed, Holding, NoSuch, Taken
from wattmill.ledger.stores.control_schema import WrongFormat, _ensure_tables
from wattmill.ledger.tenancy import name_of, path_of

RATES = (150, 75, 150, None, 600, 600, None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.db"


@pytest.fixture
def control(path: Path) -> Iterator[Control]:
    with Control(path) as control:
        yield control


def test_only_the_owner_may_read_any_of_its_files(control: Control, path: Path) -> None:
    control.put_org("demo")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"control.db": 0o600, "control.db-wal": 0o600, "control.db-shm": 0o600}


def test_a_full_disk_is_told_as_that_when_the_file_is_made(tmp_path: Path) -> None:
    """SQLite rolls back by itself then: that there is nothing to roll back is not the news."""

    class Full(sqlite3.Connection):
        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            if sql.lstrip().startswith("CREATE"):
                super().execute("ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *more)

    db = sqlite3.connect(tmp_path / "new.db", isolation_level=None, factory=Full)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        _ensure_tables(db, tmp_path / "new.db")
    db.close()


def test_a_file_of_another_format_is_refused_with_the_way_out(path: Path) -> None:
    Control(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(WrongFormat, match=r"has format 99, must be 1 to 2; use the wattmill that wrote it"):
        Control(path)


def test_a_database_that_is_no_control_database_is_left_alone(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE other (x)")
    db.close()
    with pytest.raises(WrongFormat, match="has format 0"):
        Control(path)


def test_processes_that_open_a_new_file_together_all_get_it(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from wattmill.ledger.stores.control import Control\n"
        "sys.stdin.readline()\n"
        "c = Control(Path(sys.argv[1])); print(c.put_org('demo'), c.put_team('demo', sys.argv[2]))"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path), f"team-{i}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=60)[0].split() for child in children]
    assert len({org for org, _ in answers}) == 1
    assert len({team for _, team in answers}) == 4


def test_names_are_unique_under_their_parent_and_made_once(control: Control) -> None:
    demo, other = control.put_org("demo", 5), control.put_org("other")
    load = control.put_team("demo", "load")
    assert control.put_org("demo", 5) == demo
    assert control.put_team(demo, "load") == load != control.put_team(other, "load")
    key, _ = control.create_key(load, "ci")
    tree = control.nodes()
    assert path_of(tree, key.id) == key.path == (demo, load, key.id)
    assert name_of(tree, key.id) == key.full_name == "demo/load/ci"
    assert control.find("demo/load").id == load
    with pytest.raises(NoSuch, match=r"there is: demo/load, other/load$"):
        control.find("x/load")
    with pytest.raises(Taken, match="name of a key"):
        control.put_team(load, "ci")


def test_a_cap_set_at_run_time_outlives_a_start_that_keeps_caps(control: Control) -> None:
    demo = control.put_org("demo", 5)
    control.set_cap(demo, 9)
    control.put_org("demo", 5, keep_cap=True)
    assert control.nodes()[demo].cap_nusd == 9
    control.put_org("demo", 5)
    assert control.nodes()[demo].cap_nusd == 5


@pytest.mark.parametrize("name", ["", "<img src=x>", "a/b", " a", "a\n", "x" * 65, "\x7f"])
def test_a_bad_name_is_refused_with_its_value(control: Control, name: str) -> None:
    with pytest.raises(ControlError, match=r"name is .*, must be 1 to 64 letters"):
        control.put_org(name)


def test_a_bad_cap_is_refused(control: Control) -> None:
    with pytest.raises(ControlError, match="cap is -1 nano-dollars"):
        control.put_org("demo", -1)
    with pytest.raises(NoSuch, match="no node 77"):
        control.set_cap(77, 1)


def test_what_others_change_is_seen_by_a_cheap_look(control: Control, path: Path) -> None:
    demo = control.put_org("demo", 5)
    seen, generation = control.data_version(), control.generation()
    with Control(path) as other:
        other.lease("aaaaaaaaaaaa", [Ask(demo, 1, 1, 0)])
        assert control.data_version() != seen
        assert control.generation() == generation, "a lease is no news for keys and caps"
        other.set_cap(demo, 6)
    assert control.generation() > generation


def test_every_change_of_keys_caps_prices_and_configuration_is_a_new_generation(control: Control) -> None:
    seen = [control.generation()]

    def moved() -> bool:
        seen.append(control.generation())
        return seen[-1] > seen[-2]

    team = control.put_team(control.put_org("demo"), "load")
    assert moved()
    key, _ = control.create_key(team, "ci")
    assert moved()
    control.rotate_key(key.id)
    assert moved()
    control.revoke_key(key.id)
    assert moved()
    control.publish_price("book", "m", RATES)
    assert moved()
    control.put_config("text", 1)
    assert moved()
    control.put_config("text", 2)
    control.publish_price("book", "m", RATES)
    control.revoke_key(key.id)
    control.put_org("demo")
    assert not moved()


# --- prices ----------------------------------------------------------------------------------------------


def test_publishing_the_same_price_again_gives_the_same_version(control: Control) -> None:
    first = control.publish_price("cloud", "m", RATES, 0, 100, "list", "declared")
    assert control.publish_price("cloud", "m", RATES, 0, 100, "list", "declared") == first
    later = control.publish_price("cloud", "m", RATES, 0, 200, "list", "declared")
    assert later.id != first.id
    assert control.prices() == {first.id: first, later.id: later}


def test_the_price_of_an_instant_is_the_last_that_began(control: Control) -> None:
    dear = tuple(rate and rate * 2 for rate in RATES)
    old = control.publish_price("cloud", "m", RATES, 0, 100)
    new = control.publish_price("cloud", "m", dear, 0, 200)
    assert control.price_at("cloud", "m", 99) is None
    assert control.price_at("cloud", "m", 199) == old
    assert control.price_at("cloud", "m", 200) == new
    back = control.publish_price("cloud", "m", RATES, 0, 200)
    assert control.price_at("cloud", "m", 200) == back, (
        "of those that begin together the last published counts"
    )
    assert back.id not in {old.id, new.id}


def test_a_price_without_a_date_holds_from_now_on_and_the_first_since_ever(path: Path) -> None:
    now = [1_000]
    with Control(path, wall_us=lambda: now[0]) as control:
        first = control.publish_price("edge cost", "m", RATES)
        now[0] = 2_000
        assert control.publish_price("edge cost", "m", RATES) == first, "a restart publishes nothing"
        second = control.publish_price("edge cost", "m", RATES, 7)
        assert (first.effective_us, second.effective_us) == (0, 2_000)
        now[0] = 3_000
        assert control.publish_price("edge cost", "m", RATES, 7) == second


def test_a_price_version_cannot_be_edited_even_by_hand(control: Control, path: Path) -> None:
    control.publish_price("cloud", "m", RATES)
    db = sqlite3.connect(path)
    for statement in ("UPDATE price SET request_nusd = 1", "DELETE FROM price"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((1, 2), "2 rates, must be 7: input, cached_input"),
        ((-1, *RATES[1:]), "input rate is -1, must be whole nano-dollars >= 0"),
        ((0.5, *RATES[1:]), "input rate is 0.5"),
    ],
)
def test_an_impossible_price_is_refused(
    control: Control, rates: tuple[int | None, ...], message: str
) -> None:
    with pytest.raises(ControlError, match=message):
        control.publish_price("cloud", "m", rates)


# --- configuration and the admin token -------------------------------------------------------------------


def test_declarations_are_kept_as_versions(control: Control, path: Path) -> None:
    assert control.config() is None
    assert control.put_config("one", 1) == control.put_config("one", 2) == 1
    assert control.put_config("two", 3) == 2
    assert control.put_config("one", 4) == 3
    assert control.config() == (3, "one")
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM config").fetchone() == (3,)
    db.close()


def test_the_admin_token_is_shown_once_and_can_be_renewed(control: Control) -> None:
    token = control.ensure_admin_token()
    assert token is not None and token.startswith("wma-") and len(token) >= 36
    assert control.ensure_admin_token() is None
    assert control.check_admin_token(token) and not control.check_admin_token(token + "x")
    renewed = control.ensure_admin_token(renew=True)
    assert renewed is not None and control.check_admin_token(renewed) and not control.check_admin_token(token)


# --- leases, seen one by one (the laws are in tests/property) --------------------------------------------


def test_a_closed_epoch_gets_nothing_and_may_not_report(control: Control) -> None:
    demo = control.put_org("demo", 100)
    control.lease("aaaaaaaaaaaa", [Ask(demo, 10, 10, 0)])
    assert control.live_epochs() == ["aaaaaaaaaaaa"]
    control.close_epoch("aaaaaaaaaaaa", {demo: 4})
    assert control.live_epochs() == []
    with pytest.raises(EpochClosed):
        control.lease("aaaaaaaaaaaa", [Ask(demo, 10, 10, 0)])
    with pytest.raises(EpochClosed):
        control.report("aaaaaaaaaaaa", {demo: Holding(10, 10, 0)})


def test_recovery_books_use_at_nodes_that_were_never_capped(control: Control) -> None:
    demo = control.put_org("demo")
    control.close_epoch("aaaaaaaaaaaa", {demo: 4})
    control.set_cap(demo, 10)
    assert control.summary(demo).left_nusd == 6


def test_a_doubt_that_settles_lower_returns_money_once(control: Control) -> None:
    demo = control.put_org("demo", 100)
    control.close_epoch("aaaaaaaaaaaa", {demo: 40})
    assert control.adjust_used("req_aaaaaaaaaaaa_1", {demo: -15})
    assert not control.adjust_used("req_aaaaaaaaaaaa_1", {demo: -15})
    assert control.summary(demo).used_nusd == 25


def test_closed_epochs_do_not_pile_up_rows_of_leases(control: Control, path: Path) -> None:
    demo = control.put_org("demo", 10_000)
    for i in range(20):
        control.lease(f"{i:012x}", [Ask(demo, 10, 10, 0)])
        control.close_epoch(f"{i:012x}", {demo: 3})
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT (SELECT count(*) FROM lease), (SELECT count(*) FROM spent)").fetchone() == (
            0,
            1,
        )
    db.close()
    assert control.summary(demo).used_nusd == 60
