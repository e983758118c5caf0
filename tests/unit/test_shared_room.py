"""Workers of one machine see each other's slots and who waits there, without asking."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wattmill.app.gates import shared_room
from wattmill.app.gates.shared_room import SharedRoom
from wattmill.scheduling.admission.fair import FairQueue
from wattmill.scheduling.admission.spec import Ticket


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[SharedRoom, SharedRoom]]:
    a, b = SharedRoom(tmp_path / "room", 0), SharedRoom(tmp_path / "room", 1)
    a.use(["edge", "local"])
    b.use(["local", "edge"])  # numbered in another order, as between two reloads
    a.look()
    yield a, b
    a.close()
    b.close()


def put(room: SharedRoom, pool: int, busy: int) -> None:
    cells, at = room.busy_cell(pool)
    cells[at] = busy


def test_each_sees_the_slots_that_the_other_has_taken(two: tuple[SharedRoom, SharedRoom]) -> None:
    a, b = two
    put(a, 0, 3)
    put(b, 0, 5)
    assert b.busy_elsewhere(1) == 3 and b.busy_elsewhere(0) == 0
    assert a.busy_elsewhere(1) == 5 and a.busy_elsewhere(0) == 0
    cells, at = a.pending_cell()
    cells[at] = 2
    assert b.pending_elsewhere() == 2


def test_a_worker_that_begins_anew_holds_nothing(tmp_path: Path, two: tuple[SharedRoom, SharedRoom]) -> None:
    a, b = two
    put(b, 0, 5)
    again = SharedRoom(tmp_path / "room", 1)
    again.use(["edge", "local"])
    assert a.busy_elsewhere(1) == 0
    again.close()


def test_the_slots_of_a_dead_worker_are_free(tmp_path: Path, two: tuple[SharedRoom, SharedRoom]) -> None:
    a, _ = two
    script = (
        "import sys; from pathlib import Path; from wattmill.app.gates.shared_room import SharedRoom\n"
        "r = SharedRoom(Path(sys.argv[1]), 2); r.use(['edge'])\n"
        "cells, at = r.busy_cell(0); cells[at] = 7; print('ok', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "room")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None and child.stdout.readline() == b"ok\n"
    a.look()
    assert a.busy_elsewhere(0) == 7
    child.kill()
    child.wait()
    a.look()
    assert a.busy_elsewhere(0) == 0
    child.stdout.close()
    assert child.stdin is not None
    child.stdin.close()


def test_who_has_the_better_right_to_a_slot_is_told(
    two: tuple[SharedRoom, SharedRoom], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two
    assert not a.somebody_waits_elsewhere()
    b.tell_waiting({1: (30, 500.0)})  # edge
    assert a.somebody_waits_elsewhere()
    assert a.better_elsewhere(0, 0, 0.0, 10.0)  # a higher tier
    assert not a.better_elsewhere(0, 40, 0.0, 10.0)  # a lower one
    assert a.better_elsewhere(0, 30, 520.0, 10.0)  # the same tier, which has had less of it
    assert not a.better_elsewhere(0, 30, 505.0, 10.0)
    assert not a.better_elsewhere(1, 0, 0.0, 10.0)  # another place
    monkeypatch.setattr(shared_room, "STALE_S", -1.0)
    assert not a.better_elsewhere(0, 0, 0.0, 10.0)  # it has not said so lately: it may be stopped
    b.tell_waiting({})
    assert not a.somebody_waits_elsewhere()


def test_a_tenants_share_counts_over_all_workers(two: tuple[SharedRoom, SharedRoom]) -> None:
    a, b = two
    here, there = FairQueue(0, a), FairQueue(0, b)
    number = 0
    for queue in (here, there):
        for tenant in (1, 2):
            for _ in range(10):
                number += 1
                ticket = Ticket(tier=0, tenant=tenant, pools=(0,), work=1.0, at_s=0.0)
                ticket.number = number
                queue.put(ticket)
    for _ in range(6):  # the other worker serves tenant 1 only: its other tenant's clients are all here
        there.head()
        b.charge(0, 1, 1.0)
    first = [here.take().tenant for _ in range(6)]  # type: ignore[union-attr]
    assert first.count(2) >= 5


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "room").write_bytes(b"x" * (shared_room.SIZE + 1))
    with pytest.raises(ValueError, match="no room file"):
        SharedRoom(tmp_path / "room", 0)


def test_names_of_places_keep_their_rows_over_reloads(two: tuple[SharedRoom, SharedRoom]) -> None:
    a, b = two
    put(a, 1, 4)  # local
    b.use(["cloud", "edge", "local"])
    assert b.busy_elsewhere(2) == 4 and b.busy_elsewhere(0) == 0
