"""The journal as its readers see it: order, rotation, torn tails, damage, full disks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from wattmill.ledger import epoch as epochs
from wattmill.ledger.frame import HEADER_BYTES, segment_name
from wattmill.ledger.journal import MAX_END_BYTES, Journal
from wattmill.ledger.tail import Position, Tail
from wattmill.ports import JournalUnavailable
from wattmill.vocab.fact import End, Intent, Progress
from wattmill.vocab.usage import Usage

INTENT = Intent(0, 0, 0, 1_000, (1, 2, 3), "edge", "m", "chat", True, 10, 20, 1_000, 1, 2)
END = End(0, 2_000, "finished", Usage(5, 7), "measured", 3, 4)


def intent(seq: int, **more: object) -> Intent:
    return replace(INTENT, **({"seq": seq, "request": seq} | more))


def end(seq: int, **more: object) -> End:
    return replace(END, **({"seq": seq} | more))


@pytest.fixture
def journal(tmp_path: Path):
    made = Journal(tmp_path, kind="gateway", worker=0)
    yield made
    made.close()


def facts(folder: Path, *, final: bool = False) -> list[object]:
    return [found.fact for found in Tail(folder).read(10**9, final=final).records]


def test_what_is_appended_is_read_at_once_and_in_order(journal: Journal) -> None:
    journal.append_intent(intent(1))
    assert journal.append_note(Progress(1, 5, 3))
    journal.append_end(end(1))
    assert facts(journal.folder) == [intent(1), Progress(1, 5, 3), end(1)]


def test_a_reader_that_starts_at_a_position_goes_on_there(journal: Journal) -> None:
    tail = Tail(journal.folder)
    journal.append_intent(intent(1))
    batch = tail.read()
    journal.append_end(end(1))
    assert [f.fact for f in Tail(journal.folder, batch.position).read().records] == [end(1)]
    assert [f.fact for f in tail.read().records] == [end(1)]


def test_segments_rotate_and_the_reader_follows(tmp_path: Path) -> None:
    journal = Journal(tmp_path, kind="gateway", worker=0, segment_bytes=2_000)
    tail = Tail(journal.folder)
    seen: list[object] = []
    for seq in range(100):
        journal.append_intent(intent(seq))
        journal.append_end(end(seq))
        if seq % 7 == 0:
            seen += [f.fact for f in tail.read().records]
    journal.close()
    seen += [f.fact for f in tail.read().records]
    assert len(epochs.segments(journal.folder)) > 5
    assert seen == [fact for seq in range(100) for fact in (intent(seq), end(seq))]
    assert tail.closed


def test_a_living_epoch_a_closed_one_and_a_dead_one_are_told_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, kind="gateway", worker=3)
    assert epochs.alive(journal.folder)
    assert epochs.who(journal.folder)[:3] == ("gateway", 3, os.getpid())
    journal.close()
    tail = Tail(journal.folder)
    tail.read(final=True)
    assert not epochs.alive(journal.folder) and tail.closed
    assert epochs.names(tmp_path) == [journal.epoch]


def test_a_writer_killed_at_any_moment_leaves_only_whole_records(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from wattmill.ledger.journal import Journal\n"
        "from wattmill.vocab.fact import Progress\n"
        f"j = Journal(Path({str(tmp_path)!r}), kind='gateway', worker=0)\n"
        "print(j.epoch, flush=True)\n"
        "n = 0\n"
        "while True:\n"
        "    j.append_note(Progress(n, n, n)); n += 1\n"
        "    if n % 1000 == 0: print(n, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    epoch = child.stdout.readline().strip()
    said = int(child.stdout.readline())
    assert epochs.alive(tmp_path / epoch)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    tail = Tail(tmp_path / epoch)
    batch = tail.read(10**9, final=True)
    assert not epochs.alive(tmp_path / epoch) and not tail.closed and not batch.damages
    seqs = [f.fact.seq for f in batch.records]  # type: ignore[union-attr]
    assert seqs == list(range(len(seqs))) and len(seqs) >= said


def test_a_torn_last_record_of_a_dead_epoch_is_ignored_and_named(journal: Journal) -> None:
    for seq in range(3):
        journal.append_note(Progress(seq, seq, seq))
    last = Tail(journal.folder).read().records[-1]
    journal.close()
    path = journal.folder / segment_name(1)
    os.truncate(path, last.offset + 9)
    batch = Tail(journal.folder).read(final=True)
    assert [f.fact.seq for f in batch.records] == [0, 1]  # type: ignore[union-attr]
    assert [(d.kind, d.offset) for d in batch.damages] == [("torn", last.offset)]


@pytest.mark.parametrize("byte", [0, 5, 9])
def test_a_corrupted_byte_is_located_and_the_records_behind_it_are_read(journal: Journal, byte: int) -> None:
    for seq in range(5):
        journal.append_note(Progress(seq, seq, seq))
    bad = Tail(journal.folder).read().records[2]
    journal.close()
    with open(journal.folder / segment_name(1), "r+b") as file:
        file.seek(bad.offset + byte)
        old = file.read(1)
        file.seek(bad.offset + byte)
        file.write(bytes([old[0] ^ 0x41]))
    batch = Tail(journal.folder).read(final=True)
    assert [f.fact.seq for f in batch.records] == [0, 1, 3, 4]  # type: ignore[union-attr]
    (damage,) = batch.damages
    assert (damage.epoch, damage.segment, damage.offset, damage.kind) == (
        journal.epoch,
        1,
        bad.offset,
        "corrupt",
    )
    assert f"{journal.epoch}/000001.wmj offset {bad.offset}" in str(damage)


def test_an_end_record_fits_its_room_whatever_its_texts_say(journal: Journal) -> None:
    big = 2**63 - 1
    fact = End(
        big, big, "finished", Usage(big, big, big, big, big, big, big), "unmetered", big, big, big, big,
        big, big,
        big, big, big, big, "é" * 4000, "💥" * 4000, "x" * 4000,
    )  # fmt: skip
    journal.append_intent(intent(1))
    journal.append_end(fact)
    (_, found) = Tail(journal.folder).read().records
    assert isinstance(found.fact, End) and found.fact.seq == big and found.fact.error
    assert journal._at - found.offset <= MAX_END_BYTES


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a 64 kB tmpfs needs root")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"this machine does not let us mount a tmpfs: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("segment_bytes", [64 * 1024 * 1024, 8_000])
def test_a_full_disk_refuses_new_work_and_keeps_every_end_of_old_work(
    small_disk: Path, segment_bytes: int
) -> None:
    journal = Journal(small_disk, kind="gateway", worker=0, segment_bytes=segment_bytes)
    taken = 0
    with pytest.raises(JournalUnavailable, match="no room on the disk"):
        while True:
            journal.append_intent(intent(taken))
            taken += 1
    assert taken > 10
    for seq in range(taken):
        journal.append_end(end(seq, error="x" * 5000))
    read = facts(journal.folder)
    assert read[:taken] == [intent(seq) for seq in range(taken)]
    assert [fact.seq for fact in read[taken:]] == list(range(taken))  # type: ignore[attr-defined]
    journal.append_intent(intent(taken))  # ends gave room back: serving goes on by itself
    journal.append_end(end(taken))
    journal.close()
    assert Tail(journal.folder).read(final=True).damages == []


def test_a_short_write_leaves_nothing_that_looks_like_a_record(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append_intent(intent(1))
    real, calls = os.pwrite, []

    def short(fd: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        return real(fd, data[: max(1, len(data) // 2)] if len(calls) == 1 else data, offset)

    monkeypatch.setattr(os, "pwrite", short)
    journal.append_end(end(1))
    monkeypatch.undo()
    assert facts(journal.folder) == [intent(1), end(1)]


def test_after_a_failed_flush_nothing_new_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, kind="gateway", worker=0, sync_s=0.01)

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    journal.append_intent(intent(1))
    for _ in range(200):
        if journal._failed:
            break
        time.sleep(0.01)
    with pytest.raises(JournalUnavailable, match="Input/output error"):
        journal.append_intent(intent(2))
    monkeypatch.undo()
    journal.append_end(end(1))
    journal.close()


def test_reading_from_the_middle_of_an_epoch_whose_first_segments_are_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path, kind="gateway", worker=0, segment_bytes=1_000)
    for seq in range(60):
        journal.append_intent(intent(seq))
        journal.append_end(end(seq))
    journal.close()
    first = epochs.segments(journal.folder)[0]
    os.unlink(journal.folder / segment_name(first))
    batch = Tail(journal.folder).read(10**9, final=True)
    assert batch.records and not batch.damages
    gone = epochs.segments(journal.folder)[3]
    os.unlink(journal.folder / segment_name(gone))
    batch = Tail(journal.folder, Position(first + 1, HEADER_BYTES)).read(10**9, final=True)
    assert [(d.kind, d.segment) for d in batch.damages] == [("missing", gone)]
