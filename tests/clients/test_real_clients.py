"""Real clients against a real factory. The light ones run always; the frameworks in an environment of their
own (`make test-clients`, which makes it by `scripts/clients.sh`)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.mark.slow
@pytest.mark.parametrize("client", FRAMEWORKS)
def test_the_frameworks_that_people_build_agents_with(speak: Callable[..., str], client: str) -> None:
    python = os.environ.get("WATTMILL_CLIENTS_PYTHON")
    if python is None:
        pytest.skip("needs an environment of its own: make test-clients")
    assert speak(f"speak_{client}.py", python) == "ok"
