"""A real factory before a scripted model that uses tools; clients reach it as their users would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

if TYPE_CHECKING:
    from factory import Factory

Speak = Callable[..., str]


@pytest.fixture(scope="session")
def mill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    """Return a factory of two workers before one scripted place."""
    from factory import Factory, Server, declaration, free_port

    engine = Server(sys.executable, str(HERE / "agent_engine.py"))
    engine.start()
    port = free_port()
    toml = declaration(
        {"place": f"http://127.0.0.1:{engine.port}/v1"},
        model="scripted",
        port=port,
        admin_port=free_port(),
        workers=2,
    ).replace('adapter = "openai"', 'adapter = "openai-compatible"')
    factory = Factory(tmp_path_factory.mktemp("clients") / "home", toml, port=port)
    factory.start()
    try:
        yield factory
    finally:
        code = factory.stop()
        engine.kill()
        assert code == 0, factory.printed()


@pytest.fixture(scope="session")
def speak(mill: Factory) -> Speak:
    """Return a function that runs one client's script and returns what it printed."""
    poor = mill.new_key("poor", cap_usd="0.000000001")

    def run(script: str, *command: str) -> str:
        env = {
            **{k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and k != "PYTHONPATH"},
            "URL": mill.url,
            "URL_": mill.url,
            "KEY": mill.key,
            "POOR_KEY": poor,
            "LANGSMITH_TRACING": "false",
            "OPENAI_API_KEY": "not-used",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
        }
        done = subprocess.run(
            [*command, str(HERE / script)], env=env, capture_output=True, text=True, timeout=110, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return run
