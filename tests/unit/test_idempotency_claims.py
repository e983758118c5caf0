"""Claims on idempotency keys: once, over workers and restarts, and nothing is kept that was not to be."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.app.gates.claims import Claim, Claims, Stored
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.spec import KeptLimits
from wattmill.app.kept.store import KeptStore
from wattmill.vocab.refusal import Refusal

ASK: dict[str, Any] = {
    "node": 3, "name": b"order-17", "data_class": "internal", "body": b'{"a":1}', "request": "req_1"
}  # fmt: skip


class Workers:
    """Some workers on one file; `dead` holds the epochs whose lock the kernel has released."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dead: set[str] = set()
        self.wall_us = 1_000_000
        self.shelves: list[Shelf] = []

    def worker(self, epoch: str, **limits: int) -> Claims:
        store = KeptStore(self.path, limits=KeptLimits(**limits), wall_us=lambda: self.wall_us)
        shelf = Shelf(store)
        self.shelves.append(shelf)
        return Claims(
            shelf, epoch=epoch, alive=lambda e: e not in self.dead, wall_us=lambda: self.wall_us, keep_s=60.0
        )


@asynccontextmanager
async def workers(path: Path) -> AsyncIterator[Workers]:
    made = Workers(path)
    try:
        yield made
    finally:
        for shelf in made.shelves:
            shelf.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.db"


def code(answer: object) -> str:
    assert isinstance(answer, Refusal), answer
    return answer.code


def test_a_finished_request_is_answered_again_by_any_worker(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            one, two = w.worker("e1"), w.worker("e2")
            claim = await one.claim(**ASK)
            assert isinstance(claim, Claim)
            await one.finish(claim, b"the answer", stream=True)
            for claims in (one, two, w.worker("e3")):
                again = await claims.claim(**ASK | {"request": "req_2"})
                assert again == Stored(request="req_1", stream=True, answer=b"the answer")

    run(main())


def test_a_running_one_is_told_to_wait_on_every_worker(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            one, two = w.worker("e1"), w.worker("e2")
            assert isinstance(await one.claim(**ASK), Claim)
            w.wall_us += 10**15  # however long it takes: age frees nothing
            for claims in (one, two):
                refusal = await claims.claim(**ASK)
                assert code(refusal) == "idempotency_running"
                assert isinstance(refusal, Refusal) and refusal.retry_after_s == 1.0
                assert "req_1" in refusal.message

    run(main())


@pytest.mark.parametrize(
    "other, what", [({"body": b'{"a":2}'}, "another body"), ({"data_class": "private"}, "another data class")]
)
@pytest.mark.parametrize("done", [False, True])
def test_another_body_or_class_under_the_same_key_is_a_mismatch(
    path: Path, other: dict[str, Any], what: str, done: bool
) -> None:
    async def main() -> None:
        async with workers(path) as w:
            one = w.worker("e1")
            claim = await one.claim(**ASK)
            assert isinstance(claim, Claim)
            if done:
                await one.finish(claim, b"x", stream=False)
            refusal = await w.worker("e2").claim(**ASK | other)
            assert code(refusal) == "idempotency_mismatch"
            assert isinstance(refusal, Refusal) and what in refusal.message

    run(main())


def test_the_same_name_of_another_key_is_another_claim(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            one = w.worker("e1")
            assert isinstance(await one.claim(**ASK), Claim)
            assert isinstance(await one.claim(**ASK | {"node": 4, "body": b"{}"}), Claim)

    run(main())


def test_a_request_that_failed_frees_its_key(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            one, two = w.worker("e1"), w.worker("e2")
            claim = await one.claim(**ASK)
            assert isinstance(claim, Claim)
            await one.free(claim)
            assert isinstance(await two.claim(**ASK), Claim)

    run(main())


def test_a_dead_workers_claim_is_taken_over_once_and_a_live_ones_never(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            first = await w.worker("e1").claim(**ASK)
            assert isinstance(first, Claim)
            others = [w.worker(f"f{n}") for n in range(5)]
            assert {code(await other.claim(**ASK)) for other in others} == {"idempotency_running"}
            w.dead.add("e1")
            got = await asyncio.gather(*(other.claim(**ASK) for other in others))
            assert sum(isinstance(one, Claim) for one in got) == 1
            assert {code(one) for one in got if not isinstance(one, Claim)} == {"idempotency_running"}

    run(main())


def test_the_dead_cannot_finish_what_another_has_taken_over(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            one, two = w.worker("e1"), w.worker("e2")
            old = await one.claim(**ASK)
            w.dead.add("e1")
            new = await two.claim(**ASK)
            assert isinstance(old, Claim) and isinstance(new, Claim)
            await one.finish(old, b"from the grave", stream=False)
            await one.free(old)
            assert code(await w.worker("e3").claim(**ASK)) == "idempotency_running"
            await two.finish(new, b"alive", stream=False)
            again = await w.worker("e3").claim(**ASK)
            assert isinstance(again, Stored) and again.answer == b"alive"

    run(main())


def test_a_repetition_on_the_same_worker_waits_for_the_answer_that_is_being_written(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            one = w.worker("e1")
            claim = await one.claim(**ASK)
            assert isinstance(claim, Claim)
            finishing = asyncio.ensure_future(one.finish(claim, b"answer", stream=False))
            await asyncio.sleep(0)
            again = await one.claim(**ASK)
            assert isinstance(again, Stored)
            await finishing

    run(main())


def test_an_answer_that_may_not_be_kept_leaves_no_byte_and_is_not_made_twice(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            one = w.worker("e1")
            claim = await one.claim(**ASK | {"body": b"the secret question"})
            assert isinstance(claim, Claim)
            await one.finish(claim, None, stream=False)
            assert code(await one.claim(**ASK | {"body": b"the secret question"})) == "idempotency_gone"
            for file in path.parent.iterdir():
                assert b"secret" not in file.read_bytes()
                assert b"order-17" not in file.read_bytes()

    run(main())


def test_an_answer_without_room_is_remembered_as_answered(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            one = w.worker("e1", item_mib=1, scope_mib=1)
            claim = await one.claim(**ASK)
            assert isinstance(claim, Claim)
            await one.finish(claim, bytes(1 << 20), stream=False)
            assert code(await one.claim(**ASK)) == "idempotency_gone"

    run(main())


def test_a_key_is_free_again_when_its_answer_has_expired(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            one = w.worker("e1")
            claim = await one.claim(**ASK)
            assert isinstance(claim, Claim)
            await one.finish(claim, b"answer", stream=False)
            w.wall_us += 59_999_999
            assert isinstance(await one.claim(**ASK), Stored)
            w.wall_us += 1
            assert isinstance(await one.claim(**ASK), Claim)

    run(main())


def test_nothing_is_served_under_a_key_that_cannot_be_written_down(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            path.write_bytes(b"no database" * 100)
            refusal = await w.worker("e1").claim(**ASK)
            assert code(refusal) == "kept_unavailable"

    run(main())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "finish", "free", "die"]),
        st.integers(0, 2),  # worker
        st.sampled_from([b"k1", b"k2"]),
        st.sampled_from([b"body-a", b"body-b"]),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_at_no_time_do_two_living_workers_serve_the_same_key(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, bytes, bytes]]
) -> None:
    async def main() -> None:
        async with workers(tmp_path_factory.mktemp("claims") / "kept.db") as w:
            lives = [0, 0, 0]
            claims = [w.worker(f"w{n}.0") for n in range(3)]
            running: dict[bytes, tuple[int, Claim, bytes]] = {}
            answered: dict[bytes, tuple[bytes, bytes]] = {}
            for number, (act, at, name, body) in enumerate(steps):
                if act == "die":
                    w.dead.add(f"w{at}.{lives[at]}")
                    lives[at] += 1
                    claims[at] = w.worker(f"w{at}.{lives[at]}")
                    running = {k: v for k, v in running.items() if v[0] != at}
                elif act == "ask":
                    got = await claims[at].claim(
                        **ASK | {"name": name, "body": body, "request": f"r{number}"}
                    )
                    if isinstance(got, Claim):
                        assert name not in running and name not in answered
                        running[name] = (at, got, body)
                    elif isinstance(got, Stored):
                        assert answered[name] == (body, got.answer)
                    elif code(got) == "idempotency_running":
                        assert running[name][2] == body
                    else:
                        assert code(got) == "idempotency_mismatch"
                elif name in running and running[name][0] == at:
                    _, claim, asked = running.pop(name)
                    if act == "finish":
                        answer = b"answer %d" % number
                        await claims[at].finish(claim, answer, stream=False)
                        answered[name] = (asked, answer)
                    else:
                        await claims[at].free(claim)

    run(main())


def test_the_table_tells_nothing_of_the_name_that_the_client_chose(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            await w.worker("e1").claim(**ASK)
        with sqlite3.connect(path) as db:
            rows = db.execute("SELECT id, meta FROM item").fetchall()
        db.close()
        assert len(rows) == 1 and b"order-17" not in rows[0][1] and "order" not in rows[0][0]

    run(main())


def test_what_the_dead_left_behind_is_buried_in_time_and_what_runs_is_not(path: Path) -> None:
    async def main() -> None:
        async with workers(path) as w:
            assert isinstance(await w.worker("dead").claim(**ASK), Claim)
            assert isinstance(await w.worker("alive").claim(**ASK | {"name": b"other"}), Claim)
            w.dead.add("dead")
            one = w.worker("e1")
            assert await one.bury() == 0
            w.wall_us += 60_000_001
            assert await one.bury() == 1
            assert code(await one.claim(**ASK | {"name": b"other"})) == "idempotency_running"

    run(main())
