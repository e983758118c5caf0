"""What was published once is read forever: a journal and a store of each format, written by that version.

The fixtures are never regenerated. A change that breaks one of these tests needs a new format version, a new
fixture beside the old one, and a reader for both.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from wattmill.app.seeing.decisions import Decision, decisions
from wattmill.ledger import frame
from wattmill.ledger.frame import HEADER_BYTES, BadHeader, check_header, header
from wattmill.ledger.stores.sqlite import LedgerDb, WrongLedgerFormat
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.ledger.tail import Tail
from wattmill.vocab import fact, request, route, usage

FIXTURES = Path(__file__).parent / "fixtures"
EPOCH = "0123456789ab"


@pytest.mark.parametrize("journal", ["journal_v1", "journal_v1_decisions", "journal_v1_runs"])
def test_a_journal_of_format_1_is_read_to_the_last_field(journal: str) -> None:
    tail = Tail(FIXTURES / journal / EPOCH)
    batch = tail.read(final=True)
    tail.close()
    said = (FIXTURES / journal / "says.txt").read_text().splitlines()
    assert [f"{found.segment}:{found.offset}" for found in batch.records] == [
        line.split(" ", 1)[0] for line in said
    ]
    # What was written then, in the words of then: fields that were appended since have their defaults.
    assert [found.fact for found in batch.records] == [_spoken(line.split(" ", 1)[1]) for line in said]
    assert tail.closed and not batch.damages


def test_decisions_of_format_1_still_have_all_their_inputs() -> None:
    told = list(decisions(FIXTURES / "journal_v1_decisions"))
    assert len(told) == 2
    for one in told:
        assert isinstance(one, Decision) and one.view is not None and one.caller is not None
        assert one.caller.policy == "greenest" and one.view.weights.explore == 0.1
        assert one.request.tier == "premium" and one.request.evidence == ("email:1",)
        assert one.route.hints.shared_tok == (64, 0, 0) and one.route.busy == (1, 0, 0)


def _spoken(words: str) -> object:
    names = {**vars(fact), **vars(request), **vars(route), **vars(usage), **vars(frame)}
    return eval(words, {"__builtins__": {}}, names)


def test_a_store_of_format_1_is_read_and_written_on(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "store_v1" / "ledger.db", tmp_path / "ledger.db")
    said = json.loads((FIXTURES / "store_v1" / "says.json").read_text())
    with Books(tmp_path / "ledger.db") as books:
        assert [[*key, value] for key, value in books.balances().items()] == said["balances"]
        assert [row.request_id for row in books.recent()] == said["requests"]
    db = LedgerDb(tmp_path / "ledger.db")
    assert db.next_tx == said["next_tx"]
    db.close()


def test_a_journal_of_a_newer_format_is_refused_with_a_way_out() -> None:
    import struct
    import zlib

    newer = bytearray(header(EPOCH, 1))
    newer[8] = 99
    newer[HEADER_BYTES - 4 :] = struct.pack("<I", zlib.crc32(bytes(newer[: HEADER_BYTES - 4])))
    with pytest.raises(BadHeader, match="format 99, this wattmill reads up to 1; upgrade"):
        check_header(bytes(newer), EPOCH, 1)


def test_a_store_of_a_newer_format_is_refused_with_a_way_out(tmp_path: Path) -> None:
    db = LedgerDb(tmp_path / "ledger.db")
    db.db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(WrongLedgerFormat, match="format 99"):
        LedgerDb(tmp_path / "ledger.db")
