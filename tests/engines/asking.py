"""What the suites ask of an engine, and what of its answers can be compared."""

from __future__ import annotations

import time
from typing import Any

from engine_under_test import EngineUnderTest


def ask(text: str = "Name three rivers.", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "seed": 7, **more}


def same_each_time(engine: EngineUnderTest) -> dict[str, Any]:
    """What makes two runs of the same work report the same cached tokens."""
    return {"cache_prompt": False} if engine.adapter.name == "llama.cpp" else {}


def going_on(engine: EngineUnderTest, text: str = "Tell a long story of a mill.") -> dict[str, Any]:
    """A request whose answer goes on to its clamp."""
    return ask(text, ignore_eos=True) if engine.known.ignore_eos else ask(text)


def long_prompt(words: int = 260) -> str:
    return f"{time.monotonic_ns()} " + " ".join(f"w{i * 7919 % 10007}" for i in range(words))


def bare(answer: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from answer to answer, and without fields that say nothing."""
    own = ("id", "created", "timings", "system_fingerprint")
    return {k: _said(v) for k, v in answer.items() if k not in own and v is not None}


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _said(v) for k, v in value.items() if v is not None}
    return [_said(v) for v in value] if isinstance(value, list) else value
