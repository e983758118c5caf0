"""The lane over a real store and a gateway that does as told: order, deadlines, cancellation, death."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.app.batches.inside import Answered, BrokenOff, InsideKeys
from wattmill.app.batches.lane import Lane
from wattmill.app.batches.reading import read_lines
from wattmill.app.batches.shelf import BatchShelf
from wattmill.app.batches.spec import Batch, BatchSettings, FileMeta
from wattmill.app.batches.upload import Form, read_form
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.spec import KeptLimits
from wattmill.app.kept.store import KeptStore
from wattmill.vocab.refusal import Refusal

NODE = 7
CHAT = "/v1/chat/completions"
Test = Callable[[BatchShelf, Lane], Awaitable[None]]
Answer = Callable[[str, dict[bytes, bytes], bytes], Awaitable[Answered]]


def line(number: int, **body: Any) -> dict[str, Any]:
    return {
        "custom_id": f"c{number}",
        "method": "POST",
        "url": CHAT,
        "body": {"model": "m", "n": number, **body},
    }


def answered(status: int = 200, body: bytes = b'{"ok":1}', **headers: str) -> Answered:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answered(status, named, body, "internal", "req_1")


TWO = BatchSettings(at_once=2)


class World:
    """A store, a clock that a test turns, and what was asked of the gateway."""

    def __init__(self, path: Path, answer: Answer, settings: BatchSettings = TWO) -> None:
        self.path = path
        self.now_s = 1_000_000.0
        self.asked: list[str] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.answer = answer
        self.settings = settings
        self.limits = KeptLimits()
        self.id = "batch_1"
        self.may_begin = True

    def wall_us(self) -> int:
        return int(self.now_s * 1e6)

    async def ask(self, path: str, headers: dict[bytes, bytes], body: bytes) -> Answered:
        self.asked.append(json.loads(body)["n"])
        self.headers.append(headers)
        return await self.answer(path, headers, body)

    def open(self) -> BatchShelf:
        store = KeptStore(self.path / "kept.db", wall_us=self.wall_us, limits=self.limits)
        return BatchShelf(Shelf(store), lambda: self.settings, self.wall_us)

    def lane(self, shelf: BatchShelf) -> Lane:
        return Lane(
            shelf, self.ask, InsideKeys(), lock=self.path / "lane.lock", tier=lambda: "batch",
            may_begin=lambda: self.may_begin,
        )  # fmt: skip

    async def batch(self, shelf: BatchShelf, lines: list[Any], *, window_s: int = 86_400) -> None:
        content = b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines)
        meta = FileMeta(filename="in", purpose="batch", size=len(content), key=3)
        item = await shelf.add_file(NODE, meta, content, privacy="internal", keep_s=None)
        now = int(self.now_s)
        await shelf.add_batch(
            NODE,
            Batch(
                id=self.id,
                endpoint=CHAT,
                input_file_id=item.id,
                completion_window="24h",
                created_at=now,
                expires_at=now + window_s,
                key=3,
            ),
        )

    async def until(self, shelf: BatchShelf, *states: str) -> Batch:
        while True:
            kept = await shelf.batch(NODE, self.id, privacy="private")
            assert kept is not None
            if kept.batch.status in states:
                return kept.batch
            await asyncio.sleep(0.01)

    async def lines_of(self, shelf: BatchShelf, id: str | None) -> list[Any]:
        if id is None:
            return []
        found = await shelf.file(NODE, id, privacy="private")
        assert found is not None
        return [json.loads(one) for one in found[0].body.splitlines()]


def going(world: World, lines: list[Any], test: Test, **more: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            shelf = world.open()
            await world.batch(shelf, lines, **more)
            lane = world.lane(shelf)
            running = asyncio.create_task(lane.run())
            try:
                await test(shelf, lane)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                shelf._shelf.close()

    asyncio.run(main())


async def well(path: str, headers: dict[bytes, bytes], body: bytes) -> Answered:
    return answered(200, b'{"n":%d}' % json.loads(body)["n"])


def test_each_line_is_asked_once_in_order_and_answered_in_order(tmp_path: Path) -> None:
    world = World(tmp_path, well)

    async def test(shelf: BatchShelf, lane: Lane) -> None:
        batch = await world.until(shelf, "completed")
        assert world.asked == list(range(9))
        told = await world.lines_of(shelf, batch.output_file_id)
        assert [(one["custom_id"], one["response"]["body"]["n"]) for one in told] == [
            (f"c{n}", n) for n in range(9)
        ]
        assert (batch.counts.total, batch.counts.completed, batch.counts.failed) == (9, 9, 0)
        assert batch.error_file_id is None
        while await shelf.numbers_done(NODE, batch):  # forgotten when the files are there
            await asyncio.sleep(0.01)
        first = world.headers[0]
        assert first[b"x-wattmill-tier"] == b"batch" and first[b"x-wattmill-privacy"] == b"internal"
        assert first[b"idempotency-key"] == b"batch_1/0"

    going(world, [line(n, stream=True) for n in range(9)], test)


def test_a_line_that_waiting_can_cure_waits_and_one_that_it_cannot_is_told(tmp_path: Path) -> None:
    tries: dict[int, int] = {}

    async def answer(path: str, headers: dict[bytes, bytes], body: bytes) -> Answered:
        n = json.loads(body)["n"]
        tries[n] = tries.get(n, 0) + 1
        if n == 0 and tries[n] < 3:
            return answered(503, b'{"error":{"code":"overloaded"}}', retry_after="0")
        if n == 1:
            return answered(429, b'{"error":{"code":"budget_exceeded"}}', x_should_retry="false")
        if n == 2:
            raise BrokenOff
        return answered()

    world = World(tmp_path, answer)

    async def test(shelf: BatchShelf, lane: Lane) -> None:
        batch = await world.until(shelf, "completed")
        assert tries == {0: 3, 1: 1, 2: 3, 3: 1}
        bad = await world.lines_of(shelf, batch.error_file_id)
        assert bad[0]["response"]["status_code"] == 429 and bad[0]["response"]["body"]["error"]
        assert bad[1]["response"] is None and bad[1]["error"]["code"] == "upstream_failed"
        assert (batch.counts.completed, batch.counts.failed) == (2, 2)

    going(world, [line(n) for n in range(4)], test)


def test_whoever_comes_after_a_death_goes_on_behind_what_was_finished(tmp_path: Path) -> None:
    """The process dies with two lines finished, one at work, and the lock held."""
    hang = asyncio.Event

    async def dies(path: str, headers: dict[bytes, bytes], body: bytes) -> Answered:
        if json.loads(body)["n"] >= 2:
            await hang().wait()
        return await well(path, headers, body)

    world = World(tmp_path, dies, BatchSettings(at_once=1))

    async def before(shelf: BatchShelf, lane: Lane) -> None:
        while len(world.asked) < 3:
            await asyncio.sleep(0.01)

    going(world, [line(n) for n in range(5)], before)
    assert world.asked == [0, 1, 2]
    world.answer = well

    async def after() -> None:
        async with asyncio.timeout(20):
            shelf = world.open()
            running = asyncio.create_task(world.lane(shelf).run())
            batch = await world.until(shelf, "completed")
            assert world.asked == [0, 1, 2, 2, 3, 4]  # what was at work is asked again, nothing else is
            assert len(await world.lines_of(shelf, batch.output_file_id)) == 5
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            shelf._shelf.close()

    asyncio.run(after())


@pytest.mark.parametrize("dies_in", ["its middle", "its end"])
def test_answers_that_were_paid_for_are_kept_when_the_input_is_deleted_and_the_worker_dies(
    tmp_path: Path, dies_in: str
) -> None:
    async def hangs(path: str, headers: dict[bytes, bytes], body: bytes) -> Answered:
        if dies_in == "its middle" and json.loads(body)["n"] == 2:
            await asyncio.Event().wait()
        return await well(path, headers, body)

    world = World(tmp_path, hangs, BatchSettings(at_once=1))

    async def before(shelf: BatchShelf, lane: Lane) -> None:
        async def no_room(*args: Any, **more: Any) -> Any:
            await asyncio.Event().wait()  # the file never gets there

        shelf.add_file = no_room  # type: ignore[method-assign]
        while len(world.asked) < 3:
            await asyncio.sleep(0.01)
        if dies_in == "its end":
            await world.until(shelf, "finalizing")
        kept = await shelf.batch(NODE, world.id, privacy="private")
        assert kept is not None and await shelf.delete_file(NODE, kept.batch.input_file_id)

    going(world, [line(n) for n in range(3)], before)

    async def after() -> None:
        async with asyncio.timeout(20):
            shelf = world.open()
            running = asyncio.create_task(world.lane(shelf).run())
            batch = await world.until(shelf, "completed", "failed")
            told = await world.lines_of(shelf, batch.output_file_id)
            if dies_in == "its middle":
                assert batch.status == "failed" and batch.errors is not None
                assert batch.errors[0]["code"] == "input_file_gone"
                assert [one["custom_id"] for one in told] == ["c0", "c1"]
            else:
                assert batch.status == "completed" and len(told) == 3
            assert (batch.counts.total, batch.counts.completed) == (3, len(told))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            shelf._shelf.close()

    asyncio.run(after())


def test_a_batch_that_expired_says_so_though_its_worker_died_while_it_ended(tmp_path: Path) -> None:
    async def late(path: str, headers: dict[bytes, bytes], body: bytes) -> Answered:
        world.now_s += 100.0
        return answered()

    world = World(tmp_path, late, BatchSettings(at_once=1))

    async def before(shelf: BatchShelf, lane: Lane) -> None:
        async def never(*args: Any, **more: Any) -> Any:
            await asyncio.Event().wait()

        shelf.add_file = never  # type: ignore[method-assign]
        await world.until(shelf, "finalizing")

    going(world, [line(n) for n in range(2)], before, window_s=60)

    async def after() -> None:
        async with asyncio.timeout(20):
            shelf = world.open()
            running = asyncio.create_task(world.lane(shelf).run())
            batch = await world.until(shelf, "completed", "expired")
            assert batch.status == "expired" and batch.expired_at is not None
            (bad,) = await world.lines_of(shelf, batch.error_file_id)
            assert bad["error"]["code"] == "batch_expired"
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            shelf._shelf.close()

    asyncio.run(after())


def test_two_lanes_never_work_at_the_same_time(tmp_path: Path) -> None:
    world = World(tmp_path, well)

    async def test(shelf: BatchShelf, lane: Lane) -> None:
        other = world.lane(shelf)
        second = asyncio.create_task(other.run())
        await world.until(shelf, "completed")
        assert world.asked == list(range(30))
        await lane.drain(1.0)
        world.id = "batch_2"
        await world.batch(shelf, [line(n) for n in range(30, 33)])
        other.wake.set()
        await world.until(shelf, "completed")  # the second has the lock now
        assert world.asked == list(range(33))
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

    going(world, [line(n) for n in range(30)], test)


def test_what_is_not_done_in_time_is_told_as_expired(tmp_path: Path) -> None:
    async def late(path: str, headers: dict[bytes, bytes], body: bytes) -> Answered:
        world.now_s += 40.0
        return answered()

    world = World(tmp_path, late, BatchSettings(at_once=1))

    async def test(shelf: BatchShelf, lane: Lane) -> None:
        batch = await world.until(shelf, "expired")
        assert world.asked == [0, 1] and batch.counts.completed == 2
        bad = await world.lines_of(shelf, batch.error_file_id)
        assert [one["error"]["code"] for one in bad] == ["batch_expired"] * 3

    going(world, [line(n) for n in range(5)], test, window_s=60)


def test_a_cancelled_batch_ends_with_what_it_has(tmp_path: Path) -> None:
    begun = asyncio.Event()
    go_on = asyncio.Event()

    async def slow(path: str, headers: dict[bytes, bytes], body: bytes) -> Answered:
        begun.set()
        await go_on.wait()
        return answered()

    world = World(tmp_path, slow, BatchSettings(at_once=1))

    async def test(shelf: BatchShelf, lane: Lane) -> None:
        await begun.wait()
        kept = await shelf.batch(NODE, "batch_1", privacy="internal")
        assert kept is not None
        cancelling = msgspec.structs.replace(kept.batch, status="cancelling", cancelling_at=1)
        assert await shelf.change(kept, cancelling) is not None
        await asyncio.sleep(0.7)  # the lane looks twice a second
        go_on.set()
        batch = await world.until(shelf, "cancelled")
        assert world.asked == [0] and batch.counts.completed == 1 and batch.cancelled_at is not None
        assert len(await world.lines_of(shelf, batch.error_file_id)) == 2

    going(world, [line(n) for n in range(3)], test)


def test_an_input_that_is_no_batch_fails_with_every_line_named(tmp_path: Path) -> None:
    world = World(tmp_path, well)
    lines = [
        line(0),
        b"{not json",
        line(0),
        line(3) | {"method": "GET"},
        line(4) | {"url": "/v1/embeddings"},
        line(5) | {"body": [1]},
        line(6) | {"custom_id": ""},
    ]

    async def test(shelf: BatchShelf, lane: Lane) -> None:
        batch = await world.until(shelf, "failed")
        assert batch.errors is not None and world.asked == []
        assert [(e["code"], e["line"]) for e in batch.errors] == [
            ("invalid_json_line", 2),
            ("duplicate_custom_id", 3),
            ("invalid_method", 4),
            ("mismatched_endpoint", 5),
            ("invalid_body", 6),
            ("invalid_custom_id", 7),
        ]

    going(world, lines, test)


def test_a_store_without_room_fails_the_batch_and_says_so(tmp_path: Path) -> None:
    async def long(path: str, headers: dict[bytes, bytes], body: bytes) -> Answered:
        return answered(200, b'"' + b"x" * 700_000 + b'"')

    world = World(tmp_path, long)
    world.limits = KeptLimits(item_mib=1, scope_mib=1, total_mib=2)

    async def test(shelf: BatchShelf, lane: Lane) -> None:
        batch = await world.until(shelf, "failed")
        assert batch.errors is not None and batch.errors[0]["code"] == "no_room"
        assert await shelf.numbers_done(NODE, batch) == set()

    going(world, [line(n) for n in range(3)], test)


def test_too_many_lines_are_refused_before_one_is_asked() -> None:
    content = b"\n".join(json.dumps(line(n)).encode() for n in range(4))
    _, errors = read_lines(content, endpoint=CHAT, most=3)
    assert [e["code"] for e in errors] == ["too_many_lines"]
    assert read_lines(b" \n\n", endpoint=CHAT, most=3)[1][0]["code"] == "empty_file"


# --- uploads ---------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=200).map(lambda b: b.replace(b"--b0undary", b"")), st.text("aß \t.json", max_size=20)
)
def test_a_file_is_kept_byte_for_byte(content: bytes, name: str) -> None:
    body = (
        b'--b0undary\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b0undary\r\ncontent-disposition: form-data; name="file"; filename="x.jsonl"\r\n'
        b"content-type: application/octet-stream\r\n\r\n" + content + b"\r\n--b0undary--\r\n"
    )
    form = read_form(body)
    assert isinstance(form, Form)
    assert form.content == content and form.fields == {"purpose": "batch"} and form.filename == "x.jsonl"


def test_a_file_of_empty_lines_is_read_as_quickly_as_any() -> None:
    content = b"\n" * (8 << 20) + b"\r\n--bndx"  # which only begins like the boundary
    body = b'--bnd\r\ncontent-disposition: form-data; name="file"\r\n\r\n' + content + b"\r\n--bnd--\r\n"
    began_s = time.thread_time()
    form = read_form(body)
    assert time.thread_time() - began_s < 0.5, "a line costs nothing"
    assert isinstance(form, Form) and form.content == content


CUT = b'--bnd\r\ncontent-disposition: form-data; name="file"\r\n\r\nhello'
CODED = CUT.replace(b"\r\n\r\n", b"\r\ncontent-transfer-encoding: base64\r\n\r\n") + b"\r\n--bnd--\r\n"
MANY = b"--bnd\r\n\r\nx\r\n" * 1_000 + b"--bnd--\r\n"
LONG = b"--bnd\r\nx: " + b"y" * 100_000 + b"\r\n\r\nx\r\n--bnd--\r\n"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"--\r\n", b"-" * 300, b'--"\r\n', b"--bnd\r\n", CUT, CODED, MANY, LONG]
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    assert isinstance(read_form(body), Refusal)


def test_while_power_is_short_no_line_begins_and_afterwards_all_do(tmp_path: Path) -> None:
    world = World(tmp_path, well)
    world.may_begin = False

    async def test(shelf: BatchShelf, lane: Lane) -> None:
        await world.until(shelf, "in_progress")
        await asyncio.sleep(0.3)
        assert world.asked == []
        world.may_begin = True
        await world.until(shelf, "completed")
        assert world.asked == list(range(4))

    going(world, [line(n) for n in range(4)], test)


def test_a_batch_that_is_cancelled_while_power_is_short_ends_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, well)
    world.may_begin = False

    async def test(shelf: BatchShelf, lane: Lane) -> None:
        await world.until(shelf, "in_progress")
        kept = await shelf.batch(NODE, world.id, privacy="private")
        assert kept is not None
        changed = msgspec.structs.replace(kept.batch, status="cancelling", cancelling_at=int(world.now_s))
        assert await shelf.change(kept, changed) is not None
        batch = await world.until(shelf, "cancelled")
        assert batch.counts.completed == 0 and world.asked == []

    going(world, [line(n) for n in range(4)], test)
