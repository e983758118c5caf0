"""`with wattmill.run(budget=...)`: the real OpenAI clients, pointed at a run, never pass its budget."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import openai
import pytest

import wattmill

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from factory import ROOT, Factory, Server, declaration, environment, free_port, http, running, script
from factory import wattmill as command

pytestmark = pytest.mark.timeout(120)

ASK = [{"role": "user", "content": "count"}]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    """A factory of two workers in front of a scripted place."""
    folder = tmp_path_factory.mktemp("runs")
    engine = Server(
        *script("scripted_engine.py"), "--log", str(folder / "place.log"), "--tokens", "100000",
        "--delay-ms", "1", "--says-length",
    )  # fmt: skip
    engine.start()
    port = free_port()
    url = f"http://127.0.0.1:{engine.port}/v1"
    toml = declaration({"place": url}, model="m", port=port, admin_port=free_port(), workers=2)
    try:
        with running(Factory(folder / "home", toml, port=port)) as one:
            yield one
    finally:
        engine.kill()


@pytest.fixture(autouse=True)
def by_environment(up: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTMILL_BASE_URL", up.url + "/v1")
    monkeypatch.setenv("WATTMILL_API_KEY", up.key)


def client_of(run: wattmill.Run) -> openai.OpenAI:
    return openai.OpenAI(base_url=run.base_url, api_key=run.api_key)


def eventually(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Wait for what is told a moment after the answer: figures of a run come a few times a second."""
    ends = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends, f"not within {within_s} s"
        time.sleep(0.02)


def until(run: wattmill.Run, status: int) -> None:
    """Ask until that is the answer, three times in a row: both workers have heard of it."""
    in_a_row, ends = 0, time.monotonic() + 20.0
    while time.monotonic() < ends:
        answer = http(
            run.base_url + "/chat/completions",
            body={"model": "m", "messages": ASK, "max_tokens": 200},
            headers={"authorization": f"Bearer {run.api_key}"},
        )
        in_a_row = in_a_row + 1 if answer[0] == status else 0
        if in_a_row == (1 if status == 200 else 3):
            return
    raise AssertionError(f"never {status}; last {answer[0]} {answer[2][:300]!r}")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_in_a_run_is_stopped_at_its_budget_and_does_not_retry(stream: bool) -> None:
    calls = 0
    with wattmill.run(budget="0.0005 USD") as run, client_of(run) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            while calls < 200:
                made = client.chat.completions.create(
                    model="m",
                    messages=ASK,
                    max_tokens=100,
                    stream=stream,  # type: ignore[call-overload]
                )
                if stream:
                    finishes = [c.finish_reason for event in made for c in event.choices]
                    assert finishes[-1] == "length"
                calls += 1
        assert caught.value.code == "budget_exceeded"
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert caught.value.request.headers.get("x-stainless-retry-count") == "0"
        assert calls >= 5
        eventually(lambda: run.spent_usd > Decimal("0.0004"))
        assert run.spent_usd <= Decimal("0.0005")
    assert run.refresh()["state"] == "closed"
    until(run, 410)  # on the other worker, too


@pytest.mark.parametrize("stream", [False, True])
def test_the_async_client_is_capped_as_well_at_fan_out(stream: bool) -> None:
    async def test() -> None:
        async with wattmill.run("0.0005 USD", name=f"fan-{stream}") as run:
            async with openai.AsyncOpenAI(
                base_url=run.base_url, api_key=run.api_key, max_retries=0
            ) as client:

                async def one() -> int:
                    try:
                        made = await client.chat.completions.create(
                            model="m",
                            messages=ASK,
                            max_tokens=50,
                            stream=stream,  # type: ignore[call-overload]
                        )
                        if stream:
                            return len([event async for event in made if event.choices])
                        return int(made.usage.completion_tokens)
                    except openai.RateLimitError:
                        return 0

                tokens = await asyncio.gather(*(one() for _ in range(64)))
            served = [n for n in tokens if n]
            assert 0 < len(served) < 64
        eventually(lambda: run.spent_usd > 0)
        assert run.spent_usd <= Decimal("0.0005")

    asyncio.run(test())


def test_a_header_puts_a_client_with_its_own_base_url_into_the_run(up: Factory) -> None:
    with wattmill.run(["1 USD", "2 requests"], agent="coder", label="by header") as run:
        with openai.OpenAI(
            base_url=up.url + "/v1", api_key=up.key, default_headers=run.headers, max_retries=0
        ) as client:
            for _ in range(2):
                client.chat.completions.create(model="m", messages=ASK, max_tokens=2)  # type: ignore[arg-type]
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(model="m", messages=ASK, max_tokens=2)  # type: ignore[arg-type]
        eventually(lambda: run.spent_usd > 0)
        assert run.left_usd is not None and run.left_usd < 1 and run.state == "open"
    listed = command("runs", "list", "--all", "--home", str(up.home)).stdout
    assert "closed" in listed and "/coder/" in listed


def test_nested_runs_are_inside_each_other_and_all_of_it_is_seen_above() -> None:
    with wattmill.run("0.01 USD") as outer:
        with wattmill.run("5 USD", name="inner") as inner, client_of(inner) as client:
            assert inner.left_usd == Decimal("0.01")  # no more than is left above
            client.chat.completions.create(model="m", messages=ASK, max_tokens=10)  # type: ignore[arg-type]
            client.chat.completions.create(  # type: ignore[call-overload]
                model="m", messages=ASK, max_tokens=10, extra_headers=inner.step("plan")
            )
        eventually(lambda: inner.spent_usd > 0)
        spent = inner.spent_usd
        with wattmill.run("1 USD", parent=outer.id) as other:
            assert other.refresh()["depth"] == 2
        eventually(lambda: outer.spent_usd == inner.spent_usd)
        assert outer.spent_usd >= spent


def test_a_budget_per_day_is_one_of_the_days_of_its_time_zone() -> None:
    with wattmill.run(["5 USD/day", "9 requests/month"], time_zone="Asia/Kolkata") as run:
        day, month = run.refresh()["limits"]
    assert day["resets_at"].endswith("T18:30:00.000+00:00")
    assert month["resets_at"].endswith("T18:30:00.000+00:00")
    with pytest.raises(wattmill.RunError, match="time zone is 'Mars/Olympus'"):
        wattmill.run("5 USD/day", time_zone="Mars/Olympus").open()


def test_a_run_closes_when_its_block_fails_and_the_blocks_error_is_what_is_seen() -> None:
    with pytest.raises(ZeroDivisionError), wattmill.run("1 USD") as run:
        _ = 1 / 0
    assert run.refresh()["state"] == "closed"

    async def test() -> None:
        with pytest.raises(ZeroDivisionError):
            async with wattmill.run("1 USD") as inside:
                held.append(inside)
                _ = 1 / 0

    held: list[wattmill.Run] = []
    asyncio.run(test())
    assert held[0].refresh()["state"] == "closed"


def test_what_cannot_be_opened_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(wattmill.RunError, match=r"0\.05 USD") as caught:
        wattmill.run("much").open()
    assert caught.value.status == 400 and caught.value.code == "bad_value"
    with pytest.raises(wattmill.RunError, match="unknown") as caught:
        wattmill.run("1 USD", api_key="wm-wrong").open()
    assert caught.value.status == 401
    with pytest.raises(wattmill.RunError, match="not open"):
        _ = wattmill.run("1 USD").base_url
    with pytest.raises(wattmill.RunError, match=r"'0\.05 USD', or 'N tokens'"):
        wattmill.run(0.05)  # type: ignore[arg-type]
    with pytest.raises(
        wattmill.RunError, match=r"no wattmill answers at http://127\.0\.0\.1:1: .*refused"
    ) as caught:
        wattmill.run("1 USD", base_url="http://127.0.0.1:1/v1").open()
    assert caught.value.code == "not_reached"
    monkeypatch.delenv("WATTMILL_BASE_URL")
    with pytest.raises(wattmill.RunError, match=r"where is wattmill.*WATTMILL_BASE_URL"):
        wattmill.run("1 USD").open()
    monkeypatch.delenv("WATTMILL_API_KEY")
    with pytest.raises(wattmill.RunError, match=r"which key asks.*WATTMILL_API_KEY"):
        wattmill.run("1 USD").open()


def test_people_pause_top_up_and_stop_a_run_by_command(up: Factory) -> None:
    with wattmill.run("0.0002 USD", label="agent") as run, client_of(run) as client:
        node = str(run.refresh()["node"])

        until(run, 429)  # spent
        topped = command("runs", "top-up", node, "1", "USD", "--home", str(up.home))
        assert topped.returncode == 0 and "1.0002" in topped.stdout, topped
        until(run, 200)
        assert command("runs", "pause", node, "--reason", "lunch", "--home", str(up.home)).returncode == 0
        until(run, 429)
        with pytest.raises(openai.RateLimitError, match="lunch"):
            client.chat.completions.create(model="m", messages=ASK)  # type: ignore[arg-type]
        assert command("runs", "resume", node, "--home", str(up.home)).returncode == 0
        until(run, 200)
        assert "stopped" in command("runs", "stop", node, "--home", str(up.home)).stdout
        until(run, 410)
        told = command("runs", "resume", node, "--home", str(up.home))
        assert told.returncode == 1 and "stopped" in told.stderr


def test_the_shipped_runaway_agent_is_stopped_and_keeps_what_it_got(up: Factory) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "examples" / "runaway_agent.py"), "--model", "m"),
            *("--budget", "0.001 USD", "--stream", "--max-tokens", "40"),
        ],
        env={**environment(), "WATTMILL_BASE_URL": up.url + "/v1", "WATTMILL_API_KEY": up.key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "stopped (budget_exceeded)" in lines[-2] and "answers kept" in lines[-1]
    assert len(lines) > 4


def test_the_helper_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('msgspec', 'uvloop', 'httptools', 'typer')));"
        "import wattmill; wattmill.run('1 USD'); print(wattmill.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
