"""A client that measures an OpenAI-compatible endpoint: streamed, one connection a request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httptools

from wattmill.twin.calibration.load import prompt
from wattmill.twin.calibration.spec import Ask, Seen, Sweep

_TOKENS = ("content", "reasoning_content", "reasoning")  # where engines put what they make
_TICKS_PER_S = 100  # of /proc, on every Linux


class SweepFailed(Exception):
    """The endpoint did not answer as a measured one must."""


class Endpoint:
    """Where to ask, and as whom."""

    def __init__(self, url: str, *, model: str, key: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"url is {url!r}, must begin with http:// and name a host (and a port)")
        self.host, self.port = parts.hostname, parts.port or 80
        self.path = parts.path.rstrip("/") + "/chat/completions"
        self.model, self.key = model, key
        self.fingerprint = ""  # what the engine says it is, once it has answered


class _Answer:
    """httptools' view of one streamed answer."""

    def __init__(self) -> None:
        self.buffer = b""
        self.first_s: float | None = None
        self.last_s = 0.0
        self.usage: dict[str, object] = {}
        self.fingerprint = ""
        self.done = False
        self.error = b""
        self.parser = httptools.HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        if self.parser.get_status_code() != 200:
            self.error += body
            return
        self.buffer += body
        *lines, self.buffer = self.buffer.split(b"\n")
        now_s = time.perf_counter()
        for line in lines:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {}
                if any(delta.get(part) for part in _TOKENS):
                    self.last_s = now_s
                    if self.first_s is None:
                        self.first_s = now_s
            self.fingerprint = event.get("system_fingerprint") or self.fingerprint
            if event.get("usage"):
                self.usage = event["usage"]

    def on_message_complete(self) -> None:
        self.done = True


async def _ask(endpoint: Endpoint, ask: Ask, seed: int, began_s: float) -> Seen:
    body = json.dumps(
        {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": prompt(ask, seed)}],
            "max_tokens": ask.output_tok,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
            "cache_prompt": False,
        }
    ).encode()
    head = (
        f"POST {endpoint.path} HTTP/1.1\r\nhost: {endpoint.host}:{endpoint.port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    )
    if endpoint.key:
        head += f"authorization: Bearer {endpoint.key}\r\n"
    at_s = time.perf_counter()
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        writer.write(head.encode() + b"\r\n" + body)
        answer = _Answer()
        while not answer.done:
            data = await reader.read(65_536)
            if not data:
                break
            answer.parser.feed_data(data)
    except (httptools.HttpParserError, ValueError, AttributeError) as error:
        raise SweepFailed(
            f"{endpoint.host}:{endpoint.port} answered what is no stream of chat completions: {error}"
        ) from error
    finally:
        writer.close()
    if answer.first_s is None or not answer.usage:
        status = answer.parser.get_status_code() if answer.done or answer.error else 0
        raise SweepFailed(
            f"{endpoint.host}:{endpoint.port} answered {status} without tokens or usage: "
            f"{answer.error[:200].decode(errors='replace') or 'nothing'}"
        )
    usage = answer.usage
    endpoint.fingerprint = answer.fingerprint or endpoint.fingerprint
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens", 0) if isinstance(details, dict) else 0
    prompt_tok, output_tok = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt_tok, int) or not isinstance(output_tok, int):
        raise SweepFailed(f"{endpoint.host}:{endpoint.port} counted no tokens: its usage is {usage}")
    return Seen(
        at_s - began_s,
        answer.first_s - began_s,
        answer.last_s - began_s,
        prompt_tok,
        output_tok,
        int(cached or 0),
    )


async def _closed(
    endpoint: Endpoint, asks: Sequence[Ask], concurrency: int, seed: int, told: Callable[[], None]
) -> list[Seen]:
    places = asyncio.Semaphore(concurrency)
    began_s = time.perf_counter()

    async def one(ask: Ask) -> Seen:
        async with places:
            seen = await _ask(endpoint, ask, seed, began_s)
        told()
        return seen

    return list(await asyncio.gather(*(one(ask) for ask in asks)))


async def _open(endpoint: Endpoint, asks: Sequence[Ask], seed: int, told: Callable[[], None]) -> list[Seen]:
    began_s = time.perf_counter()

    async def one(ask: Ask) -> Seen:
        await asyncio.sleep(max(0.0, began_s + (ask.at_s or 0.0) - time.perf_counter()))
        seen = await _ask(endpoint, ask, seed, began_s)
        told()
        return seen

    return list(await asyncio.gather(*(one(ask) for ask in asks)))


def sweep(
    endpoint: Endpoint,
    name: str,
    asks: Sequence[Ask],
    *,
    concurrency: int,
    seed: int,
    pid: int | None = None,
    told: Callable[[], None] = lambda: None,
) -> Sweep:
    """Ask all of `asks`: `concurrency` at once, or each at its time where `concurrency` is 0.

    `pid` is the engine's process, where it runs on this machine: then `others_cores` tells how much of the
    machine went to others meanwhile. Raises `SweepFailed`, `OSError`.
    """
    before, own, from_s = _cpu(pid), _own_ticks(pid), time.perf_counter()
    if concurrency:
        seen = asyncio.run(_closed(endpoint, asks, concurrency, seed, told))
    else:
        seen = asyncio.run(_open(endpoint, asks, seed, told))
    after, spent, lasted_s = _cpu(pid), _own_ticks(pid), time.perf_counter() - from_s
    others = cpu_s = None
    if before is not None and after is not None:
        others = max(0.0, (after - before) / _TICKS_PER_S / lasted_s)
    if own is not None and spent is not None:
        cpu_s = (spent - own) / _TICKS_PER_S
    return Sweep(
        name=name, concurrency=concurrency, seen=tuple(seen), others_cores=others, engine_cpu_s=cpu_s
    )


def _own_ticks(pid: int | None) -> int | None:
    """Return the ticks of CPU that process `pid` has taken; None where it is not of this machine."""
    if pid is None:
        return None
    try:
        return _ticks(f"/proc/{pid}/stat")
    except (OSError, ValueError, IndexError):
        return None


def _cpu(pid: int | None) -> int | None:
    """Return the ticks of CPU that the machine gave to others than `pid` and this process."""
    if pid is None:
        return None
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        own = sum(_ticks(f"/proc/{each}/stat") for each in (pid, "self"))
    except (OSError, ValueError, IndexError):
        return None
    user, nice, system, _idle, _wait, irq, soft, steal = (int(field) for field in fields)
    return user + nice + system + irq + soft + steal - own


def _ticks(path: str) -> int:
    fields = Path(path).read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
