"""A guardrail behind an address: one POST with what is shown, one answer with its verdict."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

import httptools
import msgspec

from wattmill.vocab.guard import Shown, Verdict

MAX_ANSWER_BYTES = 16 * 1024 * 1024
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Verdict).decode


class GuardFailed(Exception):
    """No verdict could be had; the message says why, and never what was shown."""


async def ask_service(url: str, shown: Shown, *, timeout_s: float) -> Verdict:
    """Return what the service at `url` says of `shown`. Raises `GuardFailed`."""
    try:
        async with asyncio.timeout(timeout_s):
            status, body = await _post(url, _encode(shown))
    except TimeoutError:
        raise GuardFailed(f"no answer within {timeout_s:g} s") from None
    except (OSError, httptools.HttpParserError, asyncio.IncompleteReadError) as error:
        raise GuardFailed(f"cannot be reached: {type(error).__name__}") from None
    if status != 200:
        raise GuardFailed(f"answered HTTP {status}")
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:
        raise GuardFailed(f"answered no verdict: {error}") from None


class _Answer:
    """Collects one response for httptools."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.done = False

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)
        self.size += len(part)

    def on_message_complete(self) -> None:
        self.done = True


async def _post(url: str, body: bytes) -> tuple[int, bytes]:
    parts = urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    host = parts.hostname or ""
    reader, writer = await asyncio.open_connection(host, parts.port or (443 if tls else 80), ssl=tls)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = (
            f"POST {target} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        writer.write(head.encode("ascii") + body)
        await writer.drain()
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.done:
            data = await reader.read(65_536)
            if not data:
                break
            parser.feed_data(data)
            if answer.size > MAX_ANSWER_BYTES:
                raise GuardFailed("answered too much")
        if not answer.done and answer.size == 0:
            raise GuardFailed("closed the connection without an answer")
        return parser.get_status_code(), b"".join(answer.parts)
    finally:
        writer.close()
