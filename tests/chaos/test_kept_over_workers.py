"""Idempotency and the cache in a whole factory with two workers: kills, books, commands."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import books  # noqa: E402
from factory import Factory, Server, declaration, free_port, http, script, wattmill  # noqa: E402

MORE = """
[cache]
models = ["scripted"]
scope = "team"
charge_share = "0.1"

[idempotency]
keep_s = 3600
"""


class Two:
    """A factory of two workers before one scripted engine."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "engine.log"
        self.log.touch()
        self.engine = Server(
            *script("scripted_engine.py"), *("--log", str(self.log), "--pool", "a", "--delay-ms", "0")
        )
        self.engine.start()
        port = free_port()
        url = {"a": f"http://127.0.0.1:{self.engine.port}/v1"}
        toml = declaration(url, model="scripted", port=port, admin_port=free_port(), workers=2)
        self.factory = Factory(folder / "home", toml + MORE, port=port)

    def ask(self, label: str, *, timeout_s: float = 10.0, **more: Any) -> tuple[int, dict[str, str], bytes]:
        headers = {"authorization": f"Bearer {self.factory.key}"}
        if (name := more.pop("key", None)) is not None:
            headers["idempotency-key"] = name
        body = {"model": "scripted", "max_tokens": 5, "user": label, **more}
        body.setdefault("messages", [{"role": "user", "content": "watt"}])
        url = self.factory.url + "/v1/chat/completions"
        return http(url, body=body, headers=headers, timeout_s=timeout_s)

    def arrivals(self, label: str) -> int:
        lines = self.log.read_text().splitlines()
        return sum(line.startswith("A ") and line.split(" ")[2] == label for line in lines)

    def asked_by(self, answers: list[tuple[int, dict[str, str], bytes]]) -> set[str]:
        """The epochs of the workers that answered."""
        return {head["x-request-id"].split("_")[1] for _, head, _ in answers}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    made = Two(tmp_path_factory.mktemp("kept"))
    try:
        made.factory.start()
        yield made
    finally:
        made.factory.stop()
        made.engine.kill()


def until(condition: Any, timeout_s: float = 15.0) -> Any:
    """Return what `condition` says once it says something."""
    ends_s = time.monotonic() + timeout_s
    while time.monotonic() < ends_s:
        if found := condition():
            return found
        time.sleep(0.02)
    raise TimeoutError


def test_a_repeated_request_is_made_once_whichever_worker_gets_it(two: Two) -> None:
    answers = []
    while len(two.asked_by(answers)) < 2 or len(answers) < 12:  # the kernel chooses a worker each time
        answers.append(two.ask("once", key="k1", stream=len(answers) < 0))
        assert len(answers) < 200
    assert {status for status, _, _ in answers} <= {200, 409}
    bodies = {body for status, _, body in answers if status == 200}
    assert len(bodies) == 1 and two.arrivals("once") == 1
    replays = {head.get("x-wattmill-replayed") for status, head, _ in answers if status == 200}
    assert replays == {None, answers[0][1]["x-request-id"]}


def test_a_claim_of_a_killed_worker_is_taken_over_and_not_before_it_is_dead(two: Two) -> None:
    """The request hangs in its engine; only the death of its worker frees its key."""
    left: list[BaseException] = []

    def hangs() -> None:
        try:
            two.ask("dies", key="k2", mock_fault="hang", timeout_s=60)
        except OSError as error:
            left.append(error)

    asking = threading.Thread(target=hangs)
    asking.start()
    until(lambda: two.arrivals("dies") == 1)
    running = two.ask("dies", key="k2", mock_fault="hang")
    assert running[0] == 409 and json.loads(running[2])["error"]["code"] == "idempotency_running"
    epoch = re.search(rb"req_([0-9a-f]{12})_", running[2])
    assert epoch is not None
    lock = json.loads((two.factory.home / "journal" / epoch.group(1).decode() / "lock").read_bytes())
    os.kill(lock["pid"], signal.SIGKILL)
    asking.join(20)
    assert left, "its client sees the connection break"

    def taken_over() -> bool:
        second = threading.Thread(
            target=lambda: _quietly(lambda: two.ask("dies", key="k2", mock_fault="hang", timeout_s=3))
        )
        second.start()
        second.join()
        return two.arrivals("dies") >= 2

    until(taken_over)
    until(lambda: len(two.factory.pids()) >= 5)  # the killed worker is back


def _quietly(call: Any) -> None:
    try:
        call()
    except OSError:
        pass


def test_a_cached_answer_is_told_by_the_other_worker_booked_explained_and_deleted(two: Two) -> None:
    ask = {"temperature": 0, "messages": [{"role": "user", "content": "what is a watt?"}]}
    first = two.ask("cached", **ask)
    assert first[0] == 200 and "x-wattmill-cache" not in first[1]
    made, hits = {first[1]["x-request-id"]: first[2]}, []  # the other worker may not have heard of it yet

    def both_tell() -> bool:
        answer = two.ask("cached", **ask)
        if answer[1]["x-wattmill-pool"] == "cache":
            hits.append(answer)
        else:
            made[answer[1]["x-request-id"]] = answer[2]
        return len(two.asked_by(hits)) == 2

    until(both_tell)
    origins = [re.search(r"from=(\S+)", head["x-wattmill-cache"]) for _, head, _ in hits]
    assert all(o is not None and made[o.group(1)] == hit[2] for o, hit in zip(origins, hits, strict=True))
    head = hits[0][1]
    charge, saved = float(head["x-wattmill-charge-usd"]), float(head["x-wattmill-saved-usd"])
    full = float(first[1]["x-wattmill-charge-usd"])
    assert charge == pytest.approx(full / 10, abs=1e-9) and charge + saved == pytest.approx(full)

    home = str(two.factory.home)
    books.wait_settled(two.factory.home)
    told = wattmill("explain", head["x-request-id"], "--home", home).stdout
    assert "cache  finished (cached)" in told
    assert origins[0] is not None and f"USD by telling {origins[0].group(1)} again" in told

    shown = json.loads(wattmill("kept", "show", "--home", home, "--json").stdout)
    assert {row["kind"] for row in shown} >= {"cache", "idempotency"}
    assert any(row["spender"] == "bench/load" for row in shown if row["kind"] == "cache")
    gone = wattmill("kept", "delete", "--kind", "cache", "--home", home)
    assert gone.returncode == 0 and re.match(r"\d+ items deleted and overwritten", gone.stdout)
    assert two.ask("cached", **ask)[1]["x-wattmill-pool"] == "a"


def test_after_all_of_that_every_law_of_the_books_holds(two: Two) -> None:
    books.wait_settled(two.factory.home, timeout_s=30)
    assert two.factory.stop() == 0
    audit = wattmill("audit", "--home", str(two.factory.home), timeout_s=120)
    assert audit.returncode == 0, audit.stdout + audit.stderr
    hits = [one for one in books.booked(two.factory.home) if one.pool == "cache"]
    assert len(hits) >= 2 and all(one.charge_nusd and one.source == "measured" for one in hits)
