"""The main job, as a newcomer meets it: one command, real engines in three places, neutral clients."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import APIStatusError, OpenAI

ROOT = Path(__file__).parents[2]
NODE = ROOT / "tests" / "docs" / "node"
MODEL = "smollm2-135m"
PLACES = ("edge", "local", "cloud")
ASK = [{"role": "user", "content": "What is a watt? Answer in one sentence."}]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

ENV = {
    **{name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"},
    "PYTHONPATH": str(ROOT / "src"),
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
    "COLUMNS": "160",
}


def wattmill(*args: str, home: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wattmill", *args, "--home", str(home)],
        env=ENV,
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Up:
    """`wattmill up` as a process of its own; what it printed is what we know."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.home = folder / "home"
        self.log = folder / "up.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "wattmill", "up", "--port", "0", "--admin-port", "0"),
                    *("--home", str(self.home)),
                    *args,
                ],
                env=ENV,
                cwd=folder,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def told(self, pattern: str, *, seconds: float = 90) -> str:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            found = re.search(pattern, self.log.read_text())
            if found:
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"{pattern} was not printed:\n{self.log.read_text()}")

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def engine_pid(self, pool: str) -> int | None:
        state = json.loads((self.home / "run" / "state.json").read_text())
        return next(p["pid"] for p in state["processes"] if p["role"] == f"engine-{pool}")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    one = Up(tmp_path_factory.mktemp("first-light"))
    try:
        one.told(r"(print\(client)")  # the last line of the snippets
        yield one
    finally:
        with contextlib.suppress(ProcessLookupError):
            one.process.send_signal(signal.SIGTERM)
        assert one.wait(60) == 0, one.log.read_text()


@pytest.fixture(scope="module")
def client(up: Up) -> Iterator[OpenAI]:
    url, key = up.told(r"gateway +(http\S+)"), up.told(r"key +(wm-\S+)")
    with OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60) as made:
        yield made


def story(up: Up, request_id: str) -> dict[str, object]:
    done = wattmill("explain", request_id, "--json", home=up.home)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("place", PLACES)
def test_the_python_client_is_answered_at_each_place_streamed_and_not(client: OpenAI, place: str) -> None:
    whole = client.chat.completions.create(
        model=f"{place}/{MODEL}", messages=ASK, max_tokens=16, temperature=0
    )
    assert whole.usage is not None
    chunks = list(
        client.chat.completions.create(
            model=f"{place}/{MODEL}",
            messages=ASK,
            max_tokens=16,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_a_client_that_did_not_ask_for_usage_gets_none(client: OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=4, stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in stream)


@pytest.mark.parametrize("place", PLACES)
def test_every_door_gives_the_same_words_and_counts_of_a_real_engine(
    up: Up, client: OpenAI, place: str
) -> None:
    model, prompt = f"{place}/{MODEL}", "What is a joule? Answer in one sentence."
    asked: dict[str, Any] = {"model": model, "temperature": 0}
    turns = [{"role": "user", "content": prompt}]
    chat = client.chat.completions.create(**asked, messages=turns, max_tokens=24)
    assert chat.usage is not None
    counts = (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    text = chat.choices[0].message.content
    whole = client.responses.create(**asked, input=prompt, max_output_tokens=24)
    with client.responses.stream(**asked, input=prompt, max_output_tokens=24) as stream:
        *_, last = stream
    for response in (whole, last.response):
        assert response.output_text == text
        assert response.usage is not None
        assert (response.usage.input_tokens, response.usage.output_tokens) == counts
    with Anthropic(
        base_url=up.told(r"gateway +(http\S+)").removesuffix("/v1"), api_key=client.api_key
    ) as claude:
        words: dict[str, Any] = {"model": model, "messages": turns, "max_tokens": 24}
        message = claude.messages.create(**words, extra_body={"temperature": 0})
        with claude.messages.stream(**words, extra_body={"temperature": 0}) as events:
            streamed = events.get_final_message()
        for one in (message, streamed):
            assert one.content[0].text == text
            usage = one.usage
            prompt_tok = usage.input_tokens + (usage.cache_read_input_tokens or 0)
            assert (prompt_tok, usage.output_tokens) == counts
        told = claude.messages.count_tokens(model=model, messages=turns)
        assert told.input_tokens == counts[0], "counted exactly, by the engine"


def test_an_aborted_response_is_stopped_and_booked_once(up: Up, client: OpenAI) -> None:
    stream = client.responses.create(
        model=f"local/{MODEL}", input="Tell a long story.", max_output_tokens=400, stream=True
    )
    for count, _event in enumerate(stream):
        if count == 10:
            break
    request_id = stream.response.headers["x-request-id"]
    stream.close()
    shown = wattmill("explain", request_id, home=up.home).stdout
    assert "aborted" in shown and "responses" in shown and "estimated" in shown


def test_embeddings_and_legacy_completions_work(client: OpenAI) -> None:
    vector = client.embeddings.create(model=MODEL, input="a watt is a joule a second")
    assert len(vector.data[0].embedding) == 576  # the width of SmolLM2-135M
    text = client.completions.create(model=MODEL, prompt="The sea is", max_tokens=4)
    assert text.choices[0].text


def test_the_models_listed_are_those_that_can_be_asked_for(client: OpenAI) -> None:
    assert {m.id for m in client.models.list()} == {MODEL, *(f"{p}/{MODEL}" for p in PLACES)}


def test_the_printed_curl_line_works_as_it_stands(up: Up) -> None:
    text = up.log.read_text()
    command = text[text.index("curl -N") : text.index("from openai")]
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert "data: [DONE]" in done.stdout
    assert ": wattmill charge_usd=" in done.stdout


def test_the_node_client_is_answered_streamed_and_not(up: Up) -> None:
    if shutil.which("node") is None or not (NODE / "node_modules" / "openai").exists():
        pytest.skip("the OpenAI client for Node is not installed: scripts/node-client.sh")
    script = """
      import OpenAI from 'openai';
      const client = new OpenAI({baseURL: process.env.URL_, apiKey: process.env.KEY_, maxRetries: 0});
      const ask = {messages: [{role: 'user', content: 'Say yes.'}], max_tokens: 8, temperature: 0};
      for (const place of ['edge', 'local', 'cloud']) {
        const model = `${place}/smollm2-135m`;
        const whole = await client.chat.completions.create({...ask, model});
        let text = '';
        for await (const chunk of await client.chat.completions.create({...ask, model, stream: true}))
          text += chunk.choices[0]?.delta?.content ?? '';
        console.log(place, text === whole.choices[0].message.content && whole.usage.completion_tokens > 0);
      }
    """
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        cwd=NODE,
        env={**ENV, "URL_": up.told(r"gateway +(http\S+)"), "KEY_": up.told(r"key +(wm-\S+)")},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout.split() == ["edge", "true", "local", "true", "cloud", "true"], (
        done.stdout + done.stderr
    )


# --- explain: a streamed, an aborted, a failed-over and a refused request each tell their whole story ------


def test_explain_tells_of_a_streamed_request_what_the_client_was_told(up: Up, client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=ASK, max_tokens=8, stream=True
    ) as answer:
        lines = list(answer.iter_lines())
        request_id = answer.headers["x-request-id"]
    told = next(line for line in lines if line.startswith(": wattmill"))
    charge = re.search(r"charge_usd=(\S+)", told)
    assert charge is not None
    shown = wattmill("explain", request_id, home=up.home)
    assert shown.returncode == 0
    for word in ("route", "expected", "runner-up", "first token", "reserved", "charge", "budget", "edge"):
        assert word in shown.stdout, (word, shown.stdout)
    facts = story(up, request_id)
    assert f"{int(facts['charge_nusd']) / 1e9:.9f}" == charge[1]
    energy = re.search(r"energy_j=(\S+)", told)
    assert energy is not None and f"{int(facts['told_uj']) / 1e6:.3f}" == energy[1]


def test_explain_tells_of_a_client_that_left(up: Up, client: OpenAI) -> None:
    stream = client.chat.completions.create(model=f"edge/{MODEL}", messages=ASK, max_tokens=400, stream=True)
    for count, _chunk in enumerate(stream):
        if count == 5:
            break
    request_id = stream.response.headers["x-request-id"]
    stream.close()
    until_s = time.monotonic() + 10.0  # a busy machine tells the gateway late that the client left
    while "aborted: the client left" not in (shown := wattmill("explain", request_id, home=up.home)).stdout:
        assert time.monotonic() < until_s, shown.stdout
    assert "estimated" in shown.stdout


def test_explain_tells_of_a_failover_with_both_attempts(up: Up, client: OpenAI) -> None:
    pid = up.engine_pid("edge")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    answer = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=4)
    killed_s = time.monotonic()
    assert answer.headers["x-wattmill-pool"] != "edge"
    shown = wattmill("explain", answer.headers["x-request-id"], home=up.home).stdout
    first = next(line for line in shown.splitlines() if line.startswith("attempt 1"))
    assert "edge  failed: " in first
    assert "attempt 2" in shown
    while up.engine_pid("edge") in (None, pid):  # and the engine is started again
        assert time.monotonic() - killed_s < 3.0
        time.sleep(0.05)


def test_explain_tells_of_a_refusal(up: Up, client: OpenAI) -> None:
    with pytest.raises(APIStatusError) as refused:
        client.chat.completions.create(model="gpt-9", messages=ASK)
    assert refused.value.status_code == 404
    assert f"edge/{MODEL}" in refused.value.message
    request_id = refused.value.body["request_id"]  # type: ignore[index]
    shown = wattmill("explain", request_id, home=up.home).stdout
    assert "unknown_model" in shown
    assert "nothing is owed" in shown


# --- keys, status, audit ----------------------------------------------------------------------------------


def test_a_revoked_key_is_refused_within_a_second(up: Up) -> None:
    made = wattmill("keys", "create", "demo/first-light", "short-lived", "--json", home=up.home)
    key = json.loads(made.stdout)
    url = up.told(r"gateway +(http\S+)")
    secret = key["secret"]
    with OpenAI(base_url=url, api_key=secret, max_retries=0) as client:
        ends = time.monotonic() + 1.0
        while True:
            with contextlib.suppress(APIStatusError):
                client.models.list()
                break
            assert time.monotonic() < ends, "a new key is not known within a second"
            time.sleep(0.02)
        revoked = wattmill("keys", "revoke", "demo/first-light/short-lived", home=up.home)
        assert revoked.returncode == 0, revoked.stderr
        ends = time.monotonic() + 1.0
        while True:
            try:
                client.models.list()
            except APIStatusError as refused:
                assert refused.status_code == 401
                assert refused.code == "revoked_key"
                break
            assert time.monotonic() < ends, "a revoked key still works after a second"
            time.sleep(0.02)


def test_status_says_that_all_is_well_and_where_to_go(up: Up) -> None:
    done = wattmill("status", home=up.home)
    assert done.returncode == 0, done.stdout
    assert up.told(r"gateway +(http\S+)") in done.stdout
    assert "stand-in" in done.stdout


def test_the_audit_of_a_living_factory_holds(up: Up) -> None:
    ends = time.monotonic() + 15.0
    while True:  # a law that waits for the next quiet reading of an engine may need a moment
        done = wattmill("audit", home=up.home)
        if done.returncode == 0 or time.monotonic() > ends:
            break
        time.sleep(0.5)
    assert done.returncode == 0, done.stdout
    assert "every law holds" in done.stdout


def test_a_second_up_in_the_same_folder_is_refused_and_names_the_first(up: Up) -> None:
    done = wattmill("up", "--port", "0", "--admin-port", "0", home=up.home)
    assert done.returncode == 3
    assert f"pid {up.process.pid}" in done.stderr


def test_up_for_a_while_ends_by_itself_with_summary_and_audit(tmp_path: Path) -> None:
    one = Up(tmp_path, "--for", "8s", "--load")
    assert one.wait(120) == 0, one.log.read_text()
    text = one.log.read_text()
    assert "summary" in text
    assert re.search(r"[1-9]\d* attempts, difference 0 tok: every law holds", text), text


def test_everything_in_the_data_folder_is_its_owners_alone(up: Up) -> None:
    for path in [up.home, *up.home.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # a draft that was renamed meanwhile
            assert path.stat().st_mode & 0o077 == 0, path


def test_an_interrupt_during_the_start_ends_it_at_once(tmp_path: Path) -> None:
    one = Up(tmp_path)
    one.told(r"(starting \d+ processes)")
    one.process.send_signal(signal.SIGINT)
    assert one.wait(30) == 130, one.log.read_text()
    text = one.log.read_text()
    assert "stopped before everything was ready" in text
    assert "  key " not in text
