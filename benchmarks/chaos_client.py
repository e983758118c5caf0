"""Callers that write down what they saw: the second witness of the chaos test. No wattmill import.

Each caller asks, reads its answer, and asks again; some leave in the middle. The log has one JSON line when a
request is about to be sent and one when it is over:
    {"label", "start_us", "key", "stream", "max_tokens"}
    {"label", "end", "end_us", "status", "request_id", "tokens", "prompt_tok", "error"}
`end`: done (the whole answer was seen), left (the caller went away), refused (an error answer),
error (an error event in a stream), cut (the connection broke).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools


@dataclass(slots=True)
class Seen:
    """One request as its caller saw it."""

    label: str
    stream: bool
    started_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    end: str = "cut"
    status: int = 0
    request_id: str = ""
    tokens: int = 0
    prompt_tok: int | None = None
    error: str | None = None

    @property
    def epoch(self) -> str:
        """The life of the worker that served it; "" before its headers came."""
        parts = self.request_id.split("_")
        return parts[1] if len(parts) == 3 else ""


class Answer:
    """Callbacks of the response parser for one answer."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.body = b""
        self.complete = False
        self.told_done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self.seen.request_id = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body
        if self.seen.stream:
            *events, self.body = self.body.split(b"\n\n")
            for event in events:
                self.on_event(event)

    def on_event(self, event: bytes) -> None:
        for line in event.split(b"\n"):
            if not line.startswith(b"data: "):
                continue
            if line == b"data: [DONE]":
                self.told_done = True
                continue
            data = json.loads(line[6:])
            if "error" in data:
                self.seen.error = str(data["error"].get("code"))
                continue
            for choice in data.get("choices", ()):
                if (choice.get("delta") or {}).get("content"):
                    self.seen.tokens += 1
            if data.get("usage"):
                self.seen.prompt_tok = data["usage"]["prompt_tokens"]

    def on_message_complete(self) -> None:
        self.complete = True


class Callers:
    """A crowd that keeps asking until it is told to stop."""

    def __init__(
        self,
        *,
        port: int,
        key: str,
        model: str,
        log: Path,
        seed: int,
        leave_share: float = 0.1,
        name: str = "r",
    ) -> None:
        self.port = port
        self.key = key
        self.model = model
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.random = random.Random(seed)
        self.leave_share = leave_share
        self.name = name
        self.serial = 0
        self.in_flight: dict[str, Seen] = {}
        self.ended: list[Seen] = []
        self.stopping = False

    def close(self) -> None:
        os.close(self.log)

    def write(self, entry: dict[str, Any]) -> None:
        os.write(self.log, json.dumps(entry).encode() + b"\n")

    async def caller(self) -> None:
        """One caller with one connection, opened again when it breaks."""
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.stopping:
            if connection is None:
                try:
                    connection = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
            if not await self.one(*connection):
                connection[1].close()
                with contextlib.suppress(OSError):
                    await connection[1].wait_closed()
                connection = None
                await asyncio.sleep(0.02)
        if connection is not None:
            connection[1].close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Ask once; return whether the connection can be used again."""
        self.serial += 1
        seen = Seen(f"{self.name}{self.serial}", stream=self.random.random() < 0.7)
        tokens = self.random.randint(5, 60)
        leave_after = self.random.randint(1, tokens) if self.random.random() < self.leave_share else None
        body: dict[str, Any] = {"model": self.model, "max_tokens": tokens, "user": seen.label}
        if seen.stream:
            body |= {"stream": True}
            if self.random.random() < 0.5:
                body |= {"stream_options": {"include_usage": True}}
        body["messages"] = [{"role": "user", "content": "watt " * self.random.randint(3, 200)}]
        payload = json.dumps(body).encode()
        self.write(
            {
                "label": seen.label,
                "start_us": time.time_ns() // 1000,
                "key": self.key[:7],
                "stream": seen.stream,
                "max_tokens": tokens,
            }
        )
        self.in_flight[seen.label] = seen
        answer = Answer(seen)
        reusable = False
        try:
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
                f"authorization: Bearer {self.key}\r\nx-request-id: {seen.label}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
            )
            writer.write(head.encode() + payload)
            reusable = await self.read(reader, answer, leave_after)
        except (OSError, httptools.HttpParserError):
            pass
        finally:
            self.over(seen)
        return reusable

    async def read(self, reader: asyncio.StreamReader, answer: Answer, leave_after: int | None) -> bool:
        seen = answer.seen
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            data = await reader.read(65_536)
            if not data:
                return False
            parser.feed_data(data)
            seen.status = parser.get_status_code()
            if (
                leave_after is not None
                and seen.stream
                and seen.tokens >= leave_after
                and not answer.told_done
            ):
                seen.end = "left"
                return False
        if seen.status != 200:
            seen.end = "refused"
            with contextlib.suppress(ValueError, KeyError, TypeError):
                seen.error = json.loads(answer.body)["error"]["code"]
        elif seen.error is not None:
            seen.end = "error"
        elif not seen.stream:
            whole = json.loads(answer.body)
            usage = whole["usage"]
            seen.tokens, seen.prompt_tok = usage["completion_tokens"], usage["prompt_tokens"]
            words = len(whole["choices"][0]["message"]["content"].split())
            seen.end = "done" if words == seen.tokens else "error"
            seen.error = None if words == seen.tokens else f"{words} words, usage says {seen.tokens}"
        elif answer.told_done:
            seen.end = "done"
        return bool(parser.should_keep_alive())

    def over(self, seen: Seen) -> None:
        seen.ended_s = time.monotonic()
        self.in_flight.pop(seen.label, None)
        self.ended.append(seen)
        self.write(
            {
                "label": seen.label,
                "end": seen.end,
                "end_us": time.time_ns() // 1000,
                "status": seen.status,
                "request_id": seen.request_id,
                "tokens": seen.tokens,
                "prompt_tok": seen.prompt_tok,
                "error": seen.error,
            }
        )

    def at_stake(self) -> list[Seen]:
        """Return requests that the gateway may be working on now: not over, or left a moment ago."""
        now_s = time.monotonic()
        late = [
            seen
            for seen in self.ended[-50:]
            if seen.end in ("left", "cut") and now_s - (seen.ended_s or 0) < 0.5
        ]
        return [*self.in_flight.values(), *late]
