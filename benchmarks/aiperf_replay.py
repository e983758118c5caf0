"""Replay a recorded minute of conversations with NVIDIA's aiperf, and compare three counts (`make aiperf`).

aiperf 0.13.0, a client that knows nothing of wattmill, sends the first 60 s of the Mooncake conversation
trace (162 requests) on the trace's own schedule through a real `wattmill up` to the mock engine. The mock
counts prompt tokens with the tokenizer that aiperf made the prompts with. Then the tokens that the mock
says, that aiperf was told, and that stand in the books must be equal, and no request may have failed.

aiperf has an environment of its own (`.venv-aiperf`, made on the first run). It wants the file of the
tokenizer o200k from the network; the same file ships inside the litellm wheel, which is unpacked and never
installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

import books
from factory import ROOT, Factory, Server, declaration, free_port, http

VERSION = "0.13.0"
LITELLM = "litellm==1.109.1"
O200K = "fb374d419588a4632f3f557e76b4b70aebbca790"
"""Name under which tiktoken caches o200k_base: the SHA-1 of its address."""
O200K_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
TRACE = ROOT / "benchmarks" / "data" / "mooncake_conversation_60s.jsonl"
MODEL = "mock"


def environment_of(folder: Path) -> Path:
    """Return the bin folder of an environment that has aiperf; make it if it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "aiperf").exists():
        print(f"making {folder} with aiperf {VERSION} (about a minute, 1 GB)", flush=True)
        venv.create(folder, with_pip=True)
        run([str(python), "-m", "pip", "install", "--quiet", f"aiperf=={VERSION}"])
    cache = folder / "tiktoken"
    if not (cache / O200K).exists():
        with tempfile.TemporaryDirectory() as wheels:
            run([str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, LITELLM])
            wheel = next(Path(wheels).glob("litellm-*.whl"))
            with zipfile.ZipFile(wheel) as packed:
                data = packed.read(f"litellm/litellm_core_utils/tokenizers/{O200K}")
        # The wheel may store the file compressed in a form of its own; what tiktoken wants is this content.
        if hashlib.sha256(data).hexdigest() != O200K_SHA256:
            print(
                f"note: the tokenizer file in {LITELLM} is not the published one, byte for byte", flush=True
            )
        cache.mkdir(exist_ok=True)
        (cache / O200K).write_bytes(data)
    return folder / "bin"


def run(argv: list[str], *, env: dict[str, str] | None = None, timeout_s: float = 1200) -> str:
    """Run a command; its output is shown only if it fails."""
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, env=env, check=False)
    if ran.returncode:
        raise SystemExit(
            f"{' '.join(argv[:6])} … ended with {ran.returncode}:\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}"
        )
    return ran.stdout


def replay(binaries: Path, factory: Factory, out: Path) -> dict[str, float]:
    """Run aiperf once; return the figures that it was told by the server."""
    env = {
        **os.environ,
        "TIKTOKEN_CACHE_DIR": str(binaries.parent / "tiktoken"),
        "HF_HUB_OFFLINE": "1",
    }
    env.pop("PYTHONPATH", None)
    argv = [
        *(str(binaries / "aiperf"), "profile", "-m", MODEL, "--url", factory.url, "--endpoint-type", "chat"),
        *("--streaming", "--input-file", str(TRACE), "--custom-dataset-type", "mooncake_trace"),
        *("--fixed-schedule", "--tokenizer", "builtin", "--use-server-token-count", "--no-server-metrics"),
        *("--no-gpu-telemetry", "--ui", "none", "--artifact-dir", str(out), "--api-key", factory.key),
    ]
    run(argv, env=env)
    total: dict[str, float] = {"requests": 0, "errors": 0, "prompt_tok": 0, "output_tok": 0}
    for line in (out / "profile_export.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record.get("error"):
            total["errors"] += 1
            continue
        total["requests"] += 1
        total["prompt_tok"] += record["metrics"]["usage_prompt_tokens"]["value"]
        total["output_tok"] += record["metrics"]["usage_completion_tokens"]["value"]
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-aiperf", help="environment of aiperf")
    args = parser.parse_args()
    binaries = environment_of(args.venv)
    rows = [json.loads(line) for line in TRACE.read_text().splitlines()]
    os.environ["TIKTOKEN_CACHE_DIR"] = str(args.venv / "tiktoken")
    mock = Server(
        *(str(binaries / "python"), str(ROOT / "benchmarks" / "mock_upstream.py")),
        *("--count", "o200k", "--tokens", "1000000"),
    )
    with tempfile.TemporaryDirectory(prefix="wattmill-aiperf-") as folder:
        try:
            mock.start()
            port = free_port()
            toml = declaration(
                {"mock": f"http://127.0.0.1:{mock.port}/v1"}, model=MODEL, port=port, admin_port=free_port()
            )
            factory = Factory(Path(folder) / "home", toml, port=port)
            factory.start()
            try:
                told = replay(binaries, factory, Path(folder) / "out")
                books.wait_settled(factory.home)
                booked_prompt, booked_output = books.tokens(factory.home)
                booked = books.attempts(factory.home)
                engine = json.loads(http(f"http://127.0.0.1:{mock.port}/counts")[2])
            finally:
                factory.stop()
        finally:
            mock.kill()
    counts = {
        "mock": (engine["requests"], engine["prompt_tok"], engine["output_tok"]),
        "aiperf": (int(told["requests"]), int(told["prompt_tok"]), int(told["output_tok"])),
        "books": (booked, booked_prompt, booked_output),
    }
    print(f"{'':<8}{'requests':>10}{'input tok':>12}{'output tok':>12}")
    for name, (requests, prompt, output) in counts.items():
        print(f"{name:<8}{requests:>10,}{prompt:>12,}{output:>12,}")
    asked = sum(row["input_length"] for row in rows), sum(row["output_length"] for row in rows)
    print(f"{'trace':<8}{len(rows):>10,}{asked[0]:>12,}{asked[1]:>12,}")
    print(
        "the trace's input is what aiperf aims at: the text that it made counts "
        f"{booked_prompt - asked[0]:+,} tokens"
    )
    same = len(set(counts.values())) == 1
    print(f"errors {int(told['errors'])}, {'the three totals are equal' if same else 'the totals DIFFER'}")
    return int(not same or bool(told["errors"]) or booked != len(rows) or booked_output != asked[1])


if __name__ == "__main__":
    sys.exit(main())
