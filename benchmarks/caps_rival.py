"""pydantic-ai's own limit on the same script: shared usage, a limit of tokens, the same engines and crowds.

    python benchmarks/caps_rival.py [--python .venv-rival/bin/python]

Makes a virtual environment of its own (`.venv-rival`) and runs itself there. What was spent is counted from
the engine's log, as for us. pydantic-ai asks a provider directly; its limit is checked against what has been
counted so far, so that requests in flight are not part of it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from caps_client import PROMPT
from caps_verdict import read

HERE = Path(__file__).resolve().parent
PACKAGE = "pydantic-ai-slim[openai]==2.68.0"
FAN_OUTS = (1, 4, 16, 64, 256)
MAX_TOKENS = 20


async def spend(fan_out: int, port: int, limit_tok: int) -> int:
    """Ask until pydantic-ai says that its limit is reached; return the requests that were served."""
    from openai import AsyncOpenAI
    from pydantic_ai import Agent
    from pydantic_ai.exceptions import UsageLimitExceeded
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.usage import RunUsage, UsageLimits

    client = AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    model = OpenAIChatModel("scripted", provider=OpenAIProvider(openai_client=client))
    agent = Agent(model)
    usage = RunUsage()
    limits = UsageLimits(total_tokens_limit=limit_tok, request_limit=None)
    served = 0

    async def one() -> None:
        nonlocal served
        while True:
            try:
                await agent.run(
                    PROMPT,
                    usage=usage,
                    usage_limits=limits,
                    model_settings={"max_tokens": MAX_TOKENS, "extra_body": {"user": f"f{fan_out}.0"}},
                )
                served += 1
            except UsageLimitExceeded:
                return

    async with client:
        await asyncio.gather(*(one() for _ in range(fan_out)))
    return served


def inside() -> None:
    """Run the crowds; this process has pydantic-ai."""
    import pydantic_ai

    print(f"pydantic-ai {pydantic_ai.__version__}, UsageLimits(total_tokens_limit=...), one RunUsage for all")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "engine.log"
        engine = subprocess.Popen(
            [
                sys.executable if not os.environ.get("CAPS_PYTHON") else os.environ["CAPS_PYTHON"],
                str(HERE / "scripted_engine.py"), "--log", str(log), "--tokens", "100000", "--delay-ms", "1",
            ],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert engine.stdout is not None
            port = int(engine.stdout.readline().split()[1])
            for fan_out in FAN_OUTS:
                limit = 60 * 60 if fan_out <= 60 else 60 * fan_out * 2 // 3
                served = asyncio.run(spend(fan_out, port, limit))
                made = read(log)[f"f{fan_out}"]
                spent = sum(made.prompt_tok.values()) + sum(made.output_tok.values())
                over = max(0, spent - limit)
                print(
                    f"fan-out {fan_out:4}  limit {limit:6} tokens  engines made {spent:6}  "
                    f"use {spent / limit:6.1%}  overshoot {over:5} tokens ({over / limit:.1%})  "
                    f"served {served}",
                    flush=True,
                )
        finally:
            engine.kill()
            engine.wait()
            assert engine.stdout is not None
            engine.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, help="an environment that has pydantic-ai")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside()
        return
    python = args.python
    if python is None:
        folder = HERE.parent / ".venv-rival"
        python = folder / "bin" / "python"
        uv = str(Path(sys.executable).with_name("uv"))
        if not python.exists():
            subprocess.run([uv, "venv", "-q", str(folder), "--python", sys.executable], check=True)
            subprocess.run([uv, "pip", "install", "-q", "--python", str(python), PACKAGE], check=True)
    environment = {**os.environ, "CAPS_PYTHON": sys.executable}
    done = subprocess.run([str(python), str(Path(__file__)), "--inside"], env=environment, check=False)
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
