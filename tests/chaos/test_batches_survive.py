"""Files and batches as OpenAI's client uses them, and what is left of a batch when workers die."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, OpenAI

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from factory import Factory, Server, declaration, free_port, running, script

MODEL = "scripted"
CHAT = "/v1/chat/completions"
TIERS = """
[tiers.standard]
rank = 10
price = { rule = "multiplier", factor = 1.0 }

[tiers.batch]
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Server]:
    server = Server(
        *script("scripted_engine.py"),
        *("--log", str(tmp_path / "engine.log"), "--pool", "a", "--delay-ms", "2", "--port", "0"),
    )
    server.start()
    yield server
    server.kill()


@pytest.fixture
def factory(tmp_path: Path, engine: Server) -> Iterator[Factory]:
    port = free_port()
    toml = declaration(
        {"a": f"http://127.0.0.1:{engine.port}/v1"},
        model=MODEL,
        port=port,
        admin_port=free_port(),
        workers=2,
    )
    with running(Factory(tmp_path / "home", toml + TIERS, port=port)) as one:
        yield one


def lines(count: int, **body: Any) -> bytes:
    return "\n".join(
        json.dumps(
            {
                "custom_id": f"line-{n}",
                "method": "POST",
                "url": CHAT,
                "body": {
                    "model": MODEL,
                    "max_tokens": 5,
                    "user": f"line-{n}",
                    "messages": [{"role": "user", "content": f"number {n}"}],
                    **body,
                },
            },
            separators=(",", ":"),  # as the client writes its own requests
        )
        for n in range(count)
    ).encode()


def client_of(factory: Factory, key: str = "") -> OpenAI:
    return OpenAI(base_url=factory.url + "/v1", api_key=key or factory.key, max_retries=0)


def started(client: OpenAI, content: bytes) -> Any:
    uploaded = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=uploaded.id,
        endpoint=CHAT,
        completion_window="24h",
        metadata={"night": "1"},
    )


def ended(client: OpenAI, id: str, *, seconds: float = 40.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        batch = client.batches.retrieve(id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        time.sleep(0.05)
    raise AssertionError(f"the batch did not end: {batch}")


def engine_saw(folder: Path) -> list[str]:
    """Return which line each request at the engine was, in order."""
    return [row.split()[2] for row in (folder / "engine.log").read_text().splitlines() if row[:2] == "A "]


def refused(call: Any) -> int:
    with pytest.raises(APIStatusError) as error:
        call()
    return int(error.value.status_code)


@pytest.mark.timeout(120)
def test_openais_client_uploads_runs_reads_lists_and_deletes(factory: Factory, tmp_path: Path) -> None:
    client = client_of(factory)
    content = lines(12) + b"\n" + lines(1, model="nobody").replace(b"line-0", b"unknown")
    batch = started(client, content)
    assert batch.status == "validating" and batch.metadata == {"night": "1"}
    batch = ended(client, batch.id)
    assert batch.status == "completed"
    counts = batch.request_counts
    failed = client.files.content(batch.error_file_id).text
    assert (counts.total, counts.completed, counts.failed) == (13, 12, 1), failed
    told = [json.loads(one) for one in client.files.content(batch.output_file_id).text.splitlines()]
    assert [one["custom_id"] for one in told] == [f"line-{n}" for n in range(12)]
    assert told[0]["response"]["body"]["choices"][0]["message"]["content"] == "t0 t1 t2 t3 t4 "
    bad = json.loads(client.files.content(batch.error_file_id).text)
    assert bad["custom_id"] == "unknown" and bad["response"]["status_code"] == 404

    assert client.files.content(batch.input_file_id).read() == content
    assert {f.id for f in client.files.list()} == {
        batch.input_file_id, batch.output_file_id, batch.error_file_id,
    }  # fmt: skip
    assert [b.id for b in client.batches.list()] == [batch.id]
    other = client_of(factory, factory.new_key("other", cap_usd="1"))
    assert refused(lambda: other.batches.retrieve(batch.id)) == 404
    assert refused(lambda: other.files.content(batch.output_file_id)) == 404
    assert list(other.files.list()) == []
    assert client.files.delete(batch.input_file_id).deleted
    assert refused(lambda: client.files.retrieve(batch.input_file_id)) == 404
    assert refused(lambda: client.batches.cancel(batch.id)) == 400


@pytest.mark.timeout(120)
def test_a_line_costs_what_its_tier_says_and_is_booked_to_its_key(factory: Factory) -> None:
    client = client_of(factory)
    direct = client.chat.completions.with_raw_response.create(
        model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "number 0"}]
    )
    full = float(direct.headers["x-wattmill-charge-usd"])
    ended(client, started(client, lines(4)).id)
    import books
    from factory import wattmill

    until = time.monotonic() + 10
    while len(rows := [r for r in books.booked(factory.home) if r.status == "finished"]) < 5:
        assert time.monotonic() < until, rows
        time.sleep(0.1)
    charges = sorted(r.charge_nusd for r in rows)
    assert charges[-1] == round(full * 1e9) and charges[0] == pytest.approx(charges[-1] / 2, abs=2)
    audit = wattmill("audit", "--home", str(factory.home))
    assert audit.returncode == 0, audit.stdout


@pytest.mark.timeout(180)
def test_workers_may_die_and_no_finished_line_is_asked_twice(factory: Factory, tmp_path: Path) -> None:
    client = client_of(factory)
    batch = started(client, lines(120, mock_delay_ms=8))
    for _ in range(3):
        time.sleep(1.0)
        for role, pid in factory.pids().items():
            if role.startswith("gateway-"):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                client.batches.retrieve(batch.id)
                break
            except Exception:  # noqa: BLE001 - no worker listens yet
                time.sleep(0.05)
    done = ended(client, batch.id, seconds=60)
    assert (done.status, done.request_counts.completed) == ("completed", 120)
    told = [
        json.loads(one)["custom_id"] for one in client.files.content(done.output_file_id).text.splitlines()
    ]
    assert told == [f"line-{n}" for n in range(120)]
    saw = engine_saw(tmp_path)
    again = len(saw) - len(set(saw))
    assert len(set(saw)) == 120
    assert again <= 3 * 4  # at each death, at most the lines that were at work (at_once = 4)


@pytest.mark.timeout(120)
def test_a_cap_stops_a_batch_line_by_line(factory: Factory, tmp_path: Path) -> None:
    key = factory.new_key("poor", cap_usd="0.00001")
    client = client_of(factory, key)
    batch = ended(client, started(client, lines(60)).id)
    counts = batch.request_counts
    assert (
        batch.status == "completed" and 0 < counts.completed < 60 and counts.failed == 60 - counts.completed
    )
    bad = [json.loads(one) for one in client.files.content(batch.error_file_id).text.splitlines()]
    assert {one["response"]["body"]["error"]["code"] for one in bad} == {"budget_exceeded"}
