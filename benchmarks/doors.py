"""What a door costs beside a chat: CPU of reading a request of 1 kB, of a whole answer, and of each chunk.

    python benchmarks/doors.py          # a few seconds; nothing leaves this process

Only the translation is measured; everything between is the same for all doors and stands in
`benchmarks/gateway.py`. A chat's own figures are those of the ordinary path: its chunks pass unread by doors.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from typing import Any

from wattmill.distribution.doors.door import MESSAGES, RESPONSES, Door
from wattmill.distribution.wire import draft_of, parse, read_body
from wattmill.models.engines.anthropic_http import ANTHROPIC
from wattmill.models.engines.tally import Tally
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.usage import Usage

_ROUNDS, _TIMES = 7, 2_000
_TEXT = "The quick brown fox counts its watts. " * 24  # about 900 bytes
_TURNS = [{"role": "system", "content": "be brief"}, {"role": "user", "content": _TEXT}]
_USAGE = Usage(250, 64, cached_tok=128)


def us(call: Callable[[], object]) -> float:
    """Return the best of several rounds, in microseconds a call."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        for _ in range(_TIMES):
            call()
        best = min(best, (time.process_time() - began) / _TIMES)
    return best * 1e6


def encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def through(door: Door, body: bytes) -> Any:
    top = read_body(body)
    assert not isinstance(top, Refusal)
    visit = door.read(top, suffix="0" * 40, now_s=1)
    assert not isinstance(visit, Refusal)
    assert not isinstance(draft_of(visit.chat), Refusal)
    return visit


def main() -> None:
    chat = encoded({"model": "m", "messages": _TURNS, "max_tokens": 64})
    responses = encoded({"model": "m", "input": _TEXT, "instructions": "be brief", "max_output_tokens": 64})
    messages = encoded({"model": "m", "system": "be brief", "messages": _TURNS[1:], "max_tokens": 64})
    choice = {"index": 0, "message": {"role": "assistant", "content": "watt " * 64}, "finish_reason": "stop"}
    whole = encoded({"id": "e-1", "object": "chat.completion", "model": "up", "choices": [choice]})
    delta = {"index": 0, "delta": {"content": "watt "}, "finish_reason": None}
    chunk = (
        b"data: " + encoded({"id": "e-1", "object": "chat.completion.chunk", "choices": [delta]}) + b"\n\n"
    )
    told = b"event: content_block_delta\ndata: " + encoded(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "watt "}}
    )

    figures: dict[str, dict[str, float]] = {
        "read a request of 1 kB": {"chat": us(lambda: parse("chat", chat))}
    }
    figures["tell a whole answer"] = {"chat": 0.0}
    figures["tell one chunk"] = {"chat": 0.0}
    for door, body in ((RESPONSES, responses), (MESSAGES, messages)):
        visit = through(door, body)
        figures["read a request of 1 kB"][door.name] = us(lambda d=door, b=body: through(d, b))
        figures["tell a whole answer"][door.name] = us(
            lambda v=visit: v.writer(kept=False).answer(whole, _USAGE, now_s=1)
        )
        writer = visit.writer(kept=False)
        figures["tell one chunk"][door.name] = us(lambda w=writer: w.take(chunk))
    tally = Tally(ANTHROPIC, "chat", show_usage=True)
    dialect = ANTHROPIC.natives["messages"].dialect()
    figures["pass one chunk through (and read it for the books)"] = {
        "messages": us(lambda: [tally.feed(event) for event in dialect.feed(told)])
    }
    print(f"python {platform.python_version()} on {platform.machine()}, best of {_ROUNDS}, µs of CPU")
    print(f"{'':52} {'chat':>8} {'responses':>10} {'messages':>10}")
    for name, row in figures.items():
        cells = [f"{row[door]:.1f}" if door in row else "" for door in ("chat", "responses", "messages")]
        print(f"{name:52} {cells[0]:>8} {cells[1]:>10} {cells[2]:>10}")


if __name__ == "__main__":
    main()
