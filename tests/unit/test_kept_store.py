"""The kept store: scoped, bounded, expiring, deletable, shared by processes, and absent until it is used."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.app.kept.schema import FORMAT
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.spec import (
    ROW_BYTES,
    Item,
    KeptLimits,
    KeptUnavailable,
    NoRoom,
    WrongKeptFormat,
)
from wattmill.app.kept.store import KeptStore

MIB = 1 << 20
FOREVER_US = 10**17


def item(id: str = "a", **more: object) -> Item:
    fields: dict[str, object] = {
        "kind": "cache", "node": 3, "data_class": "internal", "id": id, "created_us": 1,
        "expires_us": FOREVER_US, "body": b"body",
    }  # fmt: skip
    return Item(**(fields | more))  # type: ignore[arg-type]


class Wall:
    us = 1_000

    def __call__(self) -> int:
        return self.us


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.db"


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def store(path: Path, wall: Wall) -> Iterator[KeptStore]:
    store = KeptStore(path, limits=KeptLimits(item_mib=1, scope_mib=2, total_mib=3), wall_us=wall)
    yield store
    store.close()


def test_nothing_is_on_the_disk_before_something_is_kept(store: KeptStore, path: Path) -> None:
    assert store.get("cache", 3, "a") is None
    assert store.lines("cache", 3) == []
    assert store.owned("batch") == []
    assert not store.delete("cache", 3, "a")
    assert store.delete_all() == 0
    assert store.sweep() == 0
    assert store.held() == {}
    assert list(path.parent.iterdir()) == []


def test_only_the_owner_of_the_factory_may_read_its_files(store: KeptStore, path: Path) -> None:
    store.put(item())
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"kept.db": 0o600, "kept.db-wal": 0o600, "kept.db-shm": 0o600}


def test_what_is_put_is_got_whole(store: KeptStore) -> None:
    kept = item(body=bytes(range(256)), meta=b'{"n":1}', owner="0123456789ab", version=7)
    store.put(kept)
    assert store.get("cache", 3, "a") == kept


@pytest.mark.parametrize("node, data_class, found", [(3, "internal", True), (4, "internal", False),
                                                     (3, "public", False)])  # fmt: skip
def test_an_item_is_found_in_its_own_scope_and_class_only(
    store: KeptStore, node: int, data_class: str, found: bool
) -> None:
    store.put(item())
    assert (store.get("cache", node, "a", data_class=data_class) is not None) == found
    assert (len(store.lines("cache", node, data_class=data_class)) == 1) == found


def test_an_expired_item_is_not_there_and_the_sweep_takes_its_bytes(
    store: KeptStore, wall: Wall, path: Path
) -> None:
    store.put(item(expires_us=2_000, body=b"secret-that-ends"))
    wall.us = 1_999
    assert store.get("cache", 3, "a") is not None
    wall.us = 2_000
    assert store.get("cache", 3, "a") is None
    assert store.lines("cache", 3) == []
    assert store.add(item(kind="file")) is None
    assert store.sweep() == 1
    assert b"secret-that-ends" not in on_disk(path)


def on_disk(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir() if file.name.startswith(path.name))


@pytest.mark.parametrize("how", ["delete", "delete_all"])
def test_deleted_bytes_are_nowhere_in_the_files(store: KeptStore, path: Path, how: str) -> None:
    secret = b"the patient's name is in here"
    store.put(item(kind="response", body=secret * 400))
    store.put(item("b", kind="response", node=4))
    assert secret in on_disk(path)
    if how == "delete":
        assert store.delete("response", 3, "a")
    else:
        assert store.delete_all(node=3) == 1
    assert secret not in on_disk(path)
    assert store.get("response", 4, "b") is not None


def test_a_store_of_a_newer_format_is_refused_with_the_way_out(path: Path) -> None:
    first = KeptStore(path)
    first.put(item())
    first.close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()
    with pytest.raises(
        WrongKeptFormat, match=r"kept\.db has format 2, must be 1; use the wattmill that wrote"
    ):
        KeptStore(path).get("cache", 3, "a")


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(KeptUnavailable, match=r"kept\.db: file is not a database"):
        KeptStore(path).get("cache", 3, "a")


# ---- bounds


def test_the_oldest_cached_answers_of_a_scope_make_room_for_a_new_one(store: KeptStore) -> None:
    for at in range(4):
        store.put(item(f"c{at}", created_us=at, body=bytes(MIB // 2 - ROW_BYTES)))
    store.put(item("other", node=4, created_us=0))
    store.put(item("c4", created_us=4, body=bytes(MIB // 2 - ROW_BYTES)))
    assert [line.id for line in store.lines("cache", 3)] == ["c4", "c3", "c2", "c1"]
    assert store.get("cache", 4, "other") is not None


def test_a_stored_response_is_never_dropped_to_make_room(store: KeptStore) -> None:
    store.put(item("r", kind="response", created_us=0, body=bytes(MIB - ROW_BYTES)))
    store.put(item("c", created_us=1, body=bytes(MIB - ROW_BYTES)))
    store.put(item("f", kind="file", created_us=2, body=bytes(MIB - ROW_BYTES)))
    assert store.get("cache", 3, "c") is None
    with pytest.raises(NoRoom, match=r"do not fit below 2 MiB \(kept\.scope_mib\); delete something"):
        store.put(item("f2", kind="file", created_us=3, body=b"x"))
    assert store.get("response", 3, "r") is not None
    assert store.get("file", 3, "f") is not None


def test_all_scopes_together_are_bounded_too(store: KeptStore) -> None:
    for node in range(1, 5):
        store.put(item("c", node=node, created_us=node, body=bytes(MIB - ROW_BYTES)))
    assert [node for node in range(1, 5) if store.get("cache", node, "c")] == [2, 3, 4]


def test_an_item_that_is_too_large_is_refused_and_nothing_is_written_of_it(
    store: KeptStore, path: Path
) -> None:
    store.put(item("old", body=b"old"))
    with pytest.raises(NoRoom, match=r"1048577 bytes are more than one item may have \(kept\.item_mib\)"):
        store.put(item("old", body=b"\x7e" * (MIB + 1)))
    kept = store.get("cache", 3, "old")
    assert kept is not None and kept.body == b"old"
    assert b"\x7e" * 100 not in on_disk(path)


def test_what_somebody_works_on_is_not_dropped_to_make_room(store: KeptStore) -> None:
    store.put(item("run", kind="idempotency", created_us=0, owner="0123456789ab"))
    for at in range(6):
        store.put(item(f"c{at}", created_us=at + 1, body=bytes(MIB // 2)))
    assert store.get("idempotency", 3, "run") is not None


STEP = st.tuples(
    st.sampled_from(["put", "add", "change", "delete", "sweep"]),
    st.sampled_from(["cache", "file"]),
    st.integers(1, 3),
    st.sampled_from("abc"),
    st.integers(0, MIB),
    st.integers(1, 30),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, max_size=25))
def test_the_counted_bytes_are_the_bytes_that_are_there_and_never_above_a_bound(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int, str, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("kept") / "kept.db"
    wall = Wall()
    wall.us = 0
    store = KeptStore(path, limits=KeptLimits(item_mib=1, scope_mib=1, total_mib=2), wall_us=wall)
    try:
        for act, kind, node, id, size, life in steps:
            wall.us += 1
            made = item(
                id, kind=kind, node=node, body=bytes(size), created_us=wall.us, expires_us=wall.us + life
            )
            try:
                if act == "put":
                    store.put(made)
                    assert store.get(kind, node, id) == made
                elif act == "add":
                    store.add(made)
                elif act == "change":
                    store.change(made)
                elif act == "delete":
                    store.delete(kind, node, id)
                    assert store.get(kind, node, id) is None
                else:
                    store.sweep()
            except NoRoom:
                pass
            if not path.exists():
                continue
            with sqlite3.connect(path) as db:
                there = dict(
                    db.execute(
                        f"SELECT node, sum(length(body) + length(meta) + {ROW_BYTES}) FROM item GROUP BY 1"
                    )
                )
                counted = dict(db.execute("SELECT node, bytes FROM held"))
            db.close()
            assert counted.pop(0) == sum(there.values()) <= 2 * MIB
            assert {node: size for node, size in counted.items() if size} == there
            assert all(size <= MIB for size in there.values())
    finally:
        store.close()


# ---- several at once


def test_of_many_that_claim_the_same_id_one_gets_it(path: Path) -> None:
    stores = [KeptStore(path) for _ in range(8)]
    ready = threading.Barrier(8)
    answers: list[Item | None] = [None] * 8

    def claim(at: int) -> None:
        ready.wait()
        answers[at] = stores[at].add(
            item("k", kind="idempotency", owner=f"epoch-{at}", data_class=("public", "internal")[at % 2])
        )

    threads = [threading.Thread(target=claim, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    won = [at for at, answer in enumerate(answers) if answer is None]
    assert len(won) == 1
    assert {answer.owner for answer in answers if answer is not None} == {f"epoch-{won[0]}"}


def test_a_change_holds_only_for_who_saw_the_last_version(store: KeptStore) -> None:
    store.put(item(kind="batch", owner="one"))
    seen = store.get("batch", 3, "a")
    assert seen is not None
    assert store.change(msgspec.structs.replace(seen, owner="two", body=b"by two"))
    assert not store.change(msgspec.structs.replace(seen, owner="three", body=b"by three"))
    now = store.get("batch", 3, "a")
    assert now is not None and (now.owner, now.body, now.version) == ("two", b"by two", 2)
    assert not store.delete("batch", 3, "a", version=1)
    assert not store.delete("batch", 3, "a", owner="one")
    assert [line.id for line in store.owned("batch")] == ["a"]
    assert store.delete("batch", 3, "a", version=2, owner="two")


def test_what_one_process_kept_another_finds_also_when_the_first_was_killed(path: Path) -> None:
    code = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from wattmill.app.kept.spec import Item\n"
        "from wattmill.app.kept.store import KeptStore\n"
        "KeptStore(Path(sys.argv[1])).put(Item(kind='response', node=3, data_class='internal', id='a', "
        "created_us=1, expires_us=10**15, body=b'from the dead'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert died.returncode == -9
    store = KeptStore(path, wall_us=Wall())
    kept = store.get("response", 3, "a")
    store.close()
    assert kept is not None and kept.body == b"from the dead"


def test_pages_of_a_list_follow_each_other_newest_first(store: KeptStore) -> None:
    for at in range(7):
        store.put(item(f"r{at}", kind="response", created_us=at // 2))
    pages: list[list[str]] = []
    after = ""
    while page := store.lines("response", 3, after=after, limit=3):
        pages.append([line.id for line in page])
        after = page[-1].id
    assert pages == [["r6", "r5", "r4"], ["r3", "r2", "r1"], ["r0"]]


def test_the_event_loop_goes_on_while_the_file_is_locked_by_another(path: Path) -> None:
    store = KeptStore(path)
    store.put(item())

    async def main() -> None:
        shelf = Shelf(store)
        locked = sqlite3.connect(path, isolation_level=None)
        locked.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(shelf.put(item("b")))
        worst_s, last_s = 0.0, time.monotonic()
        for _ in range(100):
            await asyncio.sleep(0.001)
            now_s = time.monotonic()
            worst_s, last_s = max(worst_s, now_s - last_s), now_s
        assert not waiting.done()
        locked.execute("ROLLBACK")
        locked.close()
        await waiting
        assert worst_s < 0.5  # a call on the loop would have blocked it for good
        shelf.close()

    asyncio.run(main())


def test_a_store_that_stays_locked_says_so_and_does_not_hang(path: Path) -> None:
    first = KeptStore(path)
    first.put(item())
    first.close()
    locked = sqlite3.connect(path, isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    store = KeptStore(path, busy_s=0.05)
    with pytest.raises(KeptUnavailable, match="database is locked"):
        store.put(item("b"))
    locked.execute("ROLLBACK")
    locked.close()
    store.put(item("b"))
    store.close()


def test_a_worker_learns_what_the_others_have_kept_since_it_looked(store: KeptStore, path: Path) -> None:
    assert store.since("cache", 0) == (0, [])
    store.put(item("a"))
    row, found = store.since("cache", 0)
    assert found == [(3, "a")]
    other = KeptStore(path, wall_us=Wall())
    assert other.put_many([item("b"), item("big", body=bytes(65 * MIB)), item("c", node=4)]) == 2
    other.close()
    assert store.since("cache", row)[1] == [(3, "b"), (4, "c")]
    assert store.since("cache", store.since("cache", row)[0])[1] == []


def test_deleting_everything_leaves_claims_that_run(store: KeptStore) -> None:
    store.put(item("runs", kind="idempotency", owner="0123456789ab", body=b""))
    store.put(item("done", kind="idempotency"))
    store.put(item("c"))
    assert store.delete_all() == 2
    assert store.get("idempotency", 3, "runs") is not None


def test_what_one_of_two_stores_of_a_process_writes_is_seen_after_another_process_has_looked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "kept.db"
    look = (
        "import sys; from pathlib import Path; from wattmill.app.kept.store import KeptStore\n"
        "store = KeptStore(Path(sys.argv[1])); print(sum(n for n, _ in store.held().values())); store.close()"
    )

    def seen() -> int:
        return int(subprocess.run([sys.executable, "-c", look, path], check=True, capture_output=True).stdout)

    now_us = time.time_ns() // 1_000
    first, second = KeptStore(path), KeptStore(path)
    for n, store in enumerate((first, second, first)):
        item = Item(
            kind="cache",
            node=2,
            data_class="internal",
            id=f"{n:064x}",
            created_us=now_us,
            expires_us=now_us + 10**9,
            meta=b"",
            body=b"x",
        )
        store.put(item)
        assert seen() == n + 1, "the log that it was written to was removed by the process that looked"
    first.close()
    second.close()
