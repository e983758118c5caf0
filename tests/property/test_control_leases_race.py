"""Many connections ask for the last money at the same moment: the check and the grant are one step."""

from __future__ import annotations

import threading
from pathlib import Path

from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import Ask, Denied


def test_connections_that_ask_at_the_same_moment_share_what_the_cap_allows(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    with Control(path) as control:
        org = control.put_org("demo", 1_000)
    start = threading.Barrier(4)
    granted: list[int] = []

    def worker(epoch: str) -> None:
        with Control(path) as control:
            start.wait()
            for _ in range(100):
                answer = control.lease(epoch, [Ask(org, 7, 7, 0)])
                granted.append(0 if isinstance(answer, Denied) else answer[org])

    threads = [threading.Thread(target=worker, args=(f"{i:012x}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 400
    assert sum(granted) == 1_000 - 1_000 % 7
