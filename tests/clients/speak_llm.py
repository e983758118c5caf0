"""The `llm` command line: whole, streamed, with a function as a tool, and a conversation that goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

URL, KEY = os.environ["URL"], os.environ["KEY"]

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "extra-openai-models.yaml").write_text(
        "- model_id: mill\n  model_name: scripted\n  api_key_name: mill\n  supports_tools: true\n"
        f"  api_base: {URL}/v1\n"
    )
    env = {**os.environ, "LLM_USER_PATH": folder, "NO_COLOR": "1"}

    def llm(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    llm("keys", "set", "mill", "--value", KEY)
    assert llm("-m", "mill", "hi") == "hello there"
    assert llm("-m", "mill", "hi", "--no-stream") == "hello there"
    assert llm("-c", "and?") == "hello there"
    function = "def weather(city: str) -> str:\n    'Say what the weather is.'\n    return 'rain'\n"
    assert llm("-m", "mill", "Oslo?", "--functions", function) == "The tool said rain"
print("ok")
