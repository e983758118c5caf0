"""What the kept store and the cache's record were when they were published is read forever. The fixtures are
never regenerated: a change that breaks one needs a new format version and a reader for both."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from wattmill.app.gates.answer_shelf import AnswerShelf, Cached
from wattmill.app.gates.claims import Claims, Stored
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.store import KeptStore
from wattmill.vocab.fact import End
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage

FIXTURES = Path(__file__).parent / "fixtures" / "kept_v1"


@pytest.fixture
def store(tmp_path: Path) -> KeptStore:
    shutil.copy(FIXTURES / "kept.db", tmp_path / "kept.db")
    return KeptStore(tmp_path / "kept.db", wall_us=lambda: 1_000)


def test_a_store_of_format_1_is_read_and_written_on(store: KeptStore) -> None:
    assert {key: count for key, (count, _) in store.held().items()} == {
        ("idempotency", 3): 2,
        ("cache", 2): 1,
        ("file", 3): 1,
    }
    kept = store.get("file", 3, "file-1")
    assert kept is not None and (kept.body, kept.meta) == (bytes(range(256)), b'{"bytes":256}')
    assert store.change(msgspec.structs.replace(kept, body=b"new"))
    assert store.delete("file", 3, "file-1")
    store.close()


def test_a_claim_of_format_1_is_answered_again_and_one_that_ran_is_known(store: KeptStore) -> None:
    async def main() -> None:
        shelf = Shelf(store)
        claims = Claims(shelf, epoch="other", alive=lambda e: True, wall_us=lambda: 1_000, keep_s=1.0)
        done, runs = store.get("idempotency", 3, "a" * 64), store.get("idempotency", 3, "c" * 64)
        assert done is not None and runs is not None
        told = msgspec.json.decode(done.meta)
        assert told["done"] and told["body_sha256"] == "b" * 64
        answer = claims._judge(done, _same(done.meta), "internal")
        assert answer == Stored(request="req_0123456789ab_1", stream=False, answer=b'{"id":"e-1"}')
        assert claims._judge(runs, _same(runs.meta), "private") is None
        assert isinstance(claims._judge(runs, _same(done.meta), "private"), Refusal)
        shelf.close()

    asyncio.run(main())


def _same(meta: bytes) -> object:
    from wattmill.app.gates.claims import Told

    return msgspec.json.decode(meta, type=Told)


def test_a_cached_answer_of_format_1_is_told_again(store: KeptStore) -> None:
    async def main() -> None:
        shelf = Shelf(store)
        answers = AnswerShelf(shelf, memory_bytes=1_000_000, wall_us=lambda: 1_000)
        await answers.tick()
        assert answers.may_be_in_store(2, "e" * 64)
        assert await answers.from_store(2, "internal", "e" * 64) == Cached(
            request="req_0123456789ab_3", pool="edge", usage=Usage(10, 5, cached_tok=4), source="measured",
            created_us=12, expires_us=2**62, answer=b"data: {}\n\n",
        )  # fmt: skip
        assert await answers.from_store(2, "private", "e" * 64) is None
        shelf.close()

    asyncio.run(main())


def test_the_end_of_a_cached_answer_is_read_with_what_it_saved() -> None:
    record = bytes.fromhex((FIXTURES / "end_from_the_cache.hex").read_text())
    assert msgspec.msgpack.decode(record, type=End) == End(
        7, 20, "finished", Usage(10, 5, cached_tok=4), "measured", 0, 30, http_status=200,
        finish_reason="cached", engine_id="req_0123456789ab_3", saved_nusd=270,
    )  # fmt: skip
