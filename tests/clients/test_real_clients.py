"""Real clients against a real factory. The light ones run always; the frameworks in an environment of their
own (`make test-clients`, which makes it by `scripts/environment.sh`)."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from factory import Factory

NODE = Path(__file__).parents[1] / "docs" / "node"
FRAMEWORKS = ("langchain", "langgraph", "pydantic_ai", "agents_sdk", "llm")


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_the_providers_own_python_clients(speak: Callable[..., str], client: str) -> None:
    assert speak(f"speak_{client}.py", sys.executable) == "ok"


def test_the_providers_own_node_client(speak: Callable[..., str]) -> None:
    if shutil.which("node") is None or not (NODE / "node_modules" / "openai").exists():
        pytest.skip("the OpenAI client for Node is not installed: scripts/node-client.sh")
    script = Path(__file__).parent / "speak_node.mjs"
    copy = NODE / "node_modules" / ".speak_node.mjs"  # modules are looked up from where a script stands
    copy.write_bytes(script.read_bytes())
    assert speak(str(copy), "node") == "ok"


def test_what_must_not_be_stored_is_nowhere_in_the_data_folder(mill: Factory) -> None:
    """Journal, books, kept store, logs: none has the words. The one that may be stored is found, so that
    the search is known to see."""
    from factory import http

    key = {"authorization": f"Bearer {mill.key}"}

    def ask(path: str, body: dict[str, Any], **headers: str) -> Any:
        status, _, told = http(mill.url + path, body=body, headers={**key, **headers})
        assert status == 200, told
        return json.loads(told)

    words = {"model": "scripted", "max_output_tokens": 9}
    ask("/v1/responses", {**words, "input": "canary-gone-1", "store": False})
    # A key for repetitions would keep the answer: not of what must not be kept.
    ask("/v1/responses", {**words, "input": "canary-gone-2", "store": False}, **{"idempotency-key": "k1"})
    turns = [{"role": "user", "content": "canary-gone-3"}]
    ask("/v1/messages", {"model": "scripted", "max_tokens": 9, "messages": turns})
    ask("/v1/chat/completions", {"model": "scripted", "messages": turns})
    deleted = ask("/v1/responses", {**words, "input": "canary-gone-4"})
    kept = ask("/v1/responses", {**words, "input": "canary-kept-5"})
    request = urllib.request.Request(f"{mill.url}/v1/responses/{deleted['id']}", method="DELETE", headers=key)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.loads(answer.read())["deleted"] is True
    assert kept["store"] is True
    disk = b"".join(path.read_bytes() for path in mill.home.rglob("*") if path.is_file())
    assert b"canary-kept-5" in disk
    assert b"canary-gone" not in disk


@pytest.mark.slow
@pytest.mark.parametrize("client", FRAMEWORKS)
def test_the_frameworks_that_people_build_agents_with(speak: Callable[..., str], client: str) -> None:
    python = os.environ.get("WATTMILL_CLIENTS_PYTHON")
    if python is None:
        pytest.skip("needs an environment of its own: make test-clients")
    assert speak(f"speak_{client}.py", python) == "ok"
