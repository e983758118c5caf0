"""A new declaration takes over without dropping a stream; a bad one is refused and the old one goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import books
from factory import Factory, Server, declaration, free_port, http, running, script

STREAMS = 1_000


@pytest.fixture
def mock() -> Iterator[Server]:
    server = Server(*script("mock_upstream.py"), "--tokens", "1000000")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def factory(tmp_path: Path, mock: Server) -> Iterator[Factory]:
    port = free_port()
    toml = declaration(
        {"mock": f"http://127.0.0.1:{mock.port}/v1"},
        model="mock",
        port=port,
        admin_port=free_port(),
        workers=2,
        slots=2_000,
    )
    with running(Factory(tmp_path / "home", toml, port=port)) as one:
        yield one


def until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.05)


def ask(factory: Factory, model: str = "mock") -> tuple[int, dict[str, str], bytes]:
    return http(
        factory.url + "/v1/chat/completions",
        body={"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "x"}]},
        headers={"authorization": f"Bearer {factory.key}"},
    )


def test_a_thousand_streams_outlive_ten_reloads(factory: Factory, mock: Server) -> None:
    load = subprocess.Popen(
        [
            *(*script("loadgen.py"), factory.url + "/v1/chat/completions", "--model", "mock", "--stream"),
            *(
                "--max-tokens",
                "40",
                "--extra",
                '{"mock_delay_ms": 50}',
                "--size",
                "600",
                "--key",
                factory.key,
            ),
            *("-c", "250", "-n", str(STREAMS)),
        ],
        stdout=subprocess.PIPE,
    )
    text = factory.file.read_text()
    assert factory.process is not None
    for round_ in range(10):
        time.sleep(0.4)
        # Another price each time: every worker swaps its services, and the connection to the engine stays.
        factory.file.write_text(
            text.replace('output_usd_per_mtok = "0.60"', f'output_usd_per_mtok = "0.6{round_}"')
        )
        factory.process.send_signal(signal.SIGHUP)
    told = json.loads(load.communicate(timeout=90)[0])
    assert told["statuses"] == {"200": STREAMS}, told
    assert told["errors"] == 0, told
    assert factory.printed().count("declaration taken over") >= 5
    books.wait_settled(factory.home)
    counts = json.loads(http(f"http://127.0.0.1:{mock.port}/counts")[2])
    assert books.tokens(factory.home) == (counts["prompt_tok"], counts["output_tok"])


def test_a_bad_declaration_is_refused_and_the_old_one_goes_on(factory: Factory) -> None:
    factory.file.write_text(factory.file.read_text().replace("[gateway]", "[gateway]\nprot = 1"))
    until(lambda: "is refused" in factory.printed())
    assert "prot" in factory.printed()
    assert "port" in factory.printed()  # the nearest known name
    assert ask(factory)[0] == 200
    until(lambda: factory.state().get("problem") is not None)  # the board and `status` say so too


def test_a_new_place_is_served_without_a_restart(factory: Factory, mock: Server) -> None:
    text = factory.file.read_text()
    pool = text[text.index("[pools.mock]") : text.index("[prices")]
    factory.file.write_text(
        text.replace("[prices", pool.replace("pools.mock", "pools.second") + "\n[prices", 1)
    )
    until(lambda: [ask(factory, "second/mock")[0] for _ in range(6)] == [200] * 6)
    assert ask(factory, "second/mock")[1]["x-wattmill-pool"] == "second"
