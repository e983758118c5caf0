"""Kill the ledger process and writers between any two steps; start again; count once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from wattmill.app.home import Home
from wattmill.app.ledger_process import follower
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.sqlite_read import Books

WRITER = """
import sys, time
from pathlib import Path
from wattmill.ledger.journal import Journal
from wattmill.vocab.fact import End, Intent
from wattmill.vocab.usage import Usage
journal = Journal(Path(sys.argv[1]), kind="gateway", worker=0, segment_bytes=200_000)
print(journal.epoch, flush=True)
now = lambda: time.time_ns() // 1000
log = open(sys.argv[2], "ab", buffering=0)
for seq in range(1, 10**9):
    journal.append_intent(Intent(seq, seq, 0, now(), (1, 2, 3), "edge", "m", "chat", True, 100, 100, 1000,
    1, 1))
    log.write(b"i %s %d\\n" % (journal.epoch.encode(), seq))
    journal.append_end(End(seq, now(), "finished", Usage(3, 4), "measured", 5, 7, duration_us=100))
    log.write(b"e %s %d\\n" % (journal.epoch.encode(), seq))
    if seq % 50 == 0: time.sleep(0.001)
"""


def test_every_attempt_is_booked_once_whoever_is_killed_and_when(tmp_path: Path) -> None:
    chance = random.Random(20261121)
    home = Home(tmp_path / "home")
    home.create()
    with Control(home.control_db) as control:
        team = control.put_team(control.put_org("demo"), "load")
        assert control.create_key(team, "k")[0].path == (1, 2, 3)
    log = tmp_path / "log"
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(role: str) -> None:
        argv = {
            "ledger": ["-m", "wattmill.app.ledger_process", "--home", str(home.root)],
            "writer": ["-c", WRITER, str(home.journal), str(log)],
        }[role]
        processes[role] = subprocess.Popen(
            [sys.executable, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    kills = 0
    try:
        start("ledger")
        start("writer")
        while kills < 10:
            time.sleep(chance.uniform(0.05, 0.4))
            role = chance.choice(["ledger", "writer"])
            processes[role].send_signal(signal.SIGKILL)
            processes[role].wait()
            kills += 1
            start(role)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    with Control(home.control_db) as control:
        loop = follower(home, control)
        loop.catch_up()
        loop.close()
        assert control.live_epochs() == []
    lines = [line.split() for line in log.read_bytes().splitlines()]
    ended = {(epoch.decode(), int(seq)) for kind, epoch, seq in lines if kind == b"e"}
    begun = {(epoch.decode(), int(seq)) for kind, epoch, seq in lines if kind == b"i"}
    with Books(home.ledger_db) as books:
        rows = books.recent(10**9)
        booked = {(row.epoch, row.seq) for row in rows}
        assert len(rows) == len(booked), "none is booked twice"
        assert begun <= booked, "none is lost"
        doubts = {(doubt.epoch, doubt.seq) for doubt in books.doubts()}
        assert len(doubts) <= kills and not doubts & ended
        done = len(rows) - len(doubts)
        assert books.balances()["tok:output", "key:3"] == 4 * done
        assert books.balances()["nusd", "key:3"] == 7 * done + 1000 * len(doubts)
        by_commodity = "SELECT sum(amount) FROM posting JOIN account a ON a.id = account GROUP BY commodity"
        assert not any(total for (total,) in books.db.execute(by_commodity))
    assert len(rows) > 100


def test_a_child_whose_supervisor_is_killed_does_not_stay(tmp_path: Path) -> None:
    Home(tmp_path / "home").create()
    code = (
        "import os, subprocess, sys, time\n"
        "from wattmill.app.running import lifeline\n"
        "child_end, keep = lifeline.make()\n"
        "p = subprocess.Popen([sys.executable, '-m', 'wattmill.app.ledger_process', '--home', sys.argv[1]],\n"
        "    pass_fds=(child_end,), env={**os.environ, **lifeline.child_env(child_end)})\n"
        "os.close(child_end)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "home")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert supervisor.stdout
    child = int(supervisor.stdout.readline())
    for _ in range(500):
        if (tmp_path / "home" / "run" / "ledger.json").exists():
            break
        time.sleep(0.02)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    for _ in range(250):
        if not _runs(child):
            return
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    raise AssertionError("the ledger process outlived its supervisor")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
