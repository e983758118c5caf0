"""An engine that writes down each token before it sends it: a witness of the chaos test.

Does not import wattmill. It speaks OpenAI's chat and completions, streamed or not. Its log is append-only,
one line an event, each written with one `write(2)` before the bytes leave, so what the log does not have
was never produced:

    A ENGINE_ID TAG PROMPT_TOK WANTED_TOK STREAM POOL AT_US      a request arrived
    T ENGINE_ID INDEX AT_US                                      token INDEX (from 0) is about to be sent
    F ENGINE_ID FAULT AT_US                                      a fault that was asked for happens now
    E ENGINE_ID done|left|cut AT_US                              it ended; left: the caller closed the
                                                                 connection; cut: broken off on purpose

TAG is the field `user` of the body: what the client calls its request. ENGINE_ID is unique over restarts,
and is the `id` of the answer. Prompt tokens are the bytes of the JSON of `messages` over 4, rounded up.
Behaviour can be asked for in the body: `mock_delay_ms`, and `mock_fault`: "reset_0" (no byte), "reset_1"
(after one token), "reset_half", "garbage" (malformed SSE in the middle), "no_usage", "hang" (no byte,
ever). `mock_faults` is the same by engine: {"a": "reset_half", "c": "status_503"}. With it there are also
"status_N" (an error answer at once), "spent_N" (every token is made, streamed or not, and then comes a whole
error answer), "silent_0", "silent_1", "silent_half" (nothing more comes, the connection
stays), "garbage_0", "garbage_1", "garbage_half", and "slow" (the first token comes `mock_slow_ms` late).
Of an answer that is not streamed, 1 is its first byte and half is the middle of its bytes.

A conversation that ends with words of the assistant is continued: after "t0 t1 " comes "t2 ", and prompt
tokens count these words too. What continuous counts an engine gives with each chunk is asked for as vLLM
(`continuous_usage_stats`) and llama.cpp (`timings_per_token`) are asked; `/metrics` says what is running.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import socket
import time
from typing import Any

import httptools
import msgspec
import uvloop

from mock_upstream import DONE, END, JSON_HEAD, SSE_HEAD, framed


class StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class Message(msgspec.Struct):
    role: str = ""
    content: Any = None


class Ask(msgspec.Struct):
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: StreamOptions | None = None
    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    user: str = "-"
    mock_delay_ms: float | None = None
    mock_fault: str = ""
    mock_faults: dict[str, str] = {}
    mock_slow_ms: float = 200.0
    timings_per_token: bool = False

    def fault(self, pool: str) -> str:
        return self.mock_faults.get(pool, self.mock_fault)

    def said_already(self) -> int:
        """Return how many tokens of its answer the conversation already ends with."""
        if b'"assistant"' not in bytes(self.messages):
            return 0
        last = msgspec.json.decode(self.messages, type=list[Message])[-1]
        return len(str(last.content).split()) if last.role == "assistant" else 0


class Log:
    """The append-only file. Several engines may share it: short appends are atomic."""

    def __init__(self, path: str, pool: str) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.pool = pool
        self.running: set[asyncio.Task[None]] = set()
        self.boot = secrets.token_hex(4)
        self.serial = 0
        self.bytes_per_tok = 4
        self.says_length = False

    def arrived(self, ask: Ask, prompt: int, wanted: int) -> str:
        self.serial += 1
        engine_id = f"eng-{self.pool}-{self.boot}-{self.serial:x}"
        self.line(f"A {engine_id} {ask.user} {prompt} {wanted} {int(ask.stream)} {self.pool}")
        return engine_id

    def line(self, text: str) -> None:
        os.write(self.fd, f"{text} {time.time_ns() // 1000}\n".encode())


class Connection(asyncio.Protocol):
    """One caller; one request at a time."""

    def __init__(self, log: Log, *, delay_s: float, tokens: int) -> None:
        self.log = log
        self.delay_s = delay_s
        self.tokens = tokens
        self.parser = httptools.HttpRequestParser(self)
        self.transport: Any = None
        self.path = b""
        self.body: list[bytes] = []
        self.task: asyncio.Task[None] | None = None
        self.engine_id = ""
        self.may_write = asyncio.Event()
        self.may_write.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()
            self.log.line(f"E {self.engine_id} left")

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError):
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        path, self.path = self.path, b""
        body = b"".join(self.body)
        self.body.clear()
        if path in (b"/v1/chat/completions", b"/v1/completions"):
            ask = msgspec.json.decode(body, type=Ask)
            self.task = asyncio.get_running_loop().create_task(self.serve(ask, chat=b"chat" in path))
            self.log.running.add(self.task)
            self.task.add_done_callback(self.log.running.discard)
            return
        if path == b"/v1/models":
            model = b'{"id":"scripted","object":"model","created":1,"owned_by":"chaos"}'
            answer = b'{"object":"list","data":[%b]}' % model
        elif path == b"/metrics":
            running = len(self.log.running)
            answer = b"llamacpp:requests_processing %d\nvllm:num_requests_running %d\n" % (running, running)
        else:
            answer = b'{"status":"ok"}'
        self.transport.write(JSON_HEAD % len(answer) + answer)

    async def serve(self, ask: Ask, *, chat: bool) -> None:
        per_tok = self.log.bytes_per_tok
        prompt = (len(ask.messages) + len(ask.prompt) + per_tok - 1) // per_tok
        limit = ask.max_completion_tokens if ask.max_completion_tokens is not None else ask.max_tokens
        wanted = self.tokens if limit is None else min(limit, self.tokens)
        self.engine_id = self.log.arrived(ask, prompt, wanted)
        fault = ask.fault(self.log.pool)
        if fault and fault != "no_usage":
            self.log.line(f"F {self.engine_id} {fault}")
        if fault in ("hang", "silent_0"):
            await asyncio.Event().wait()
        if fault == "reset_0":
            self.cut()
            return
        if fault.startswith("status_"):
            self.refuse(int(fault[7:]))
            return
        if fault.startswith("spent_"):
            for index in range(wanted):
                await asyncio.sleep(self.delay_of(ask))
                self.log.line(f"T {self.engine_id} {index}")
            self.refuse(int(fault[6:]))
            return
        if fault == "slow":
            await asyncio.sleep(ask.mock_slow_ms / 1000)
        if ask.stream:
            await self.stream(ask, fault, prompt=prompt, wanted=wanted, chat=chat)
        else:
            await self.answer(ask, fault, prompt=prompt, wanted=wanted, chat=chat)

    def refuse(self, status: int) -> None:
        body = b'{"error":{"message":"scripted","type":"server_error"}}'
        self.log.line(f"E {self.engine_id} cut")
        head = b"HTTP/1.1 %d Scripted\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)

    def delay_of(self, ask: Ask) -> float:
        return self.delay_s if ask.mock_delay_ms is None else ask.mock_delay_ms / 1000

    def usage(self, ask: Ask, prompt: int, output: int) -> bytes:
        if ask.fault(self.log.pool) == "no_usage":
            return b"null"
        return (
            b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0}}'
            % (prompt, output, prompt + output)
        )

    def reason(self, wanted: int) -> str:
        return "length" if self.log.says_length and wanted < self.tokens else "stop"

    async def stream(self, ask: Ask, fault: str, *, prompt: int, wanted: int, chat: bool) -> None:
        kind = b"chat.completion.chunk" if chat else b"text_completion"
        head = b'data: {"id":"%s","object":"%s","created":1,"model":"scripted","choices":[' % (
            self.engine_id.encode(),
            kind,
        )
        what, _, where = fault.partition("_")
        breaks_at = {"0": 0, "1": 1, "half": wanted // 2}.get(where, -1)
        if fault == "garbage":
            breaks_at = wanted // 2
        first = ask.said_already()
        counted = ask.stream_options is not None and ask.stream_options.continuous_usage_stats
        self.transport.write(SSE_HEAD)
        for index in range(wanted):
            if index == breaks_at:
                if what == "garbage":
                    self.transport.write(framed(b'data: {"id": nonsense\n\n'))
                if what == "silent":
                    await asyncio.Event().wait()
                self.cut()
                return
            await asyncio.sleep(self.delay_of(ask))
            await self.may_write.wait()
            self.log.line(f"T {self.engine_id} {index}")
            n = first + index
            text = b'"delta":{"content":"t%d "}' % n if chat else b'"text":"t%d "' % n
            reason = b'"%b"' % self.reason(wanted).encode() if index == wanted - 1 else b"null"
            counts = b""
            if counted:
                counts = b',"usage":%s' % self.usage(ask, prompt, index + 1)
            if ask.timings_per_token:
                counts += (
                    b',"timings":{"prompt_n":%d,"cache_n":0,"predicted_n":%d,"prompt_ms":1.0,"predicted_ms":1.0}'
                    % (prompt, index + 1)
                )
            chunk = b'{"index":0,%s,"finish_reason":%s}]%s}\n\n' % (text, reason, counts)
            self.transport.write(framed(head + chunk))
        tail = DONE + END
        if ask.stream_options is not None and ask.stream_options.include_usage:
            tail = framed(head + b'],"usage":%s}\n\n' % self.usage(ask, prompt, wanted)) + tail
        self.log.line(f"E {self.engine_id} done")
        self.transport.write(tail)

    async def answer(self, ask: Ask, fault: str, *, prompt: int, wanted: int, chat: bool) -> None:
        words: list[str] = []
        for index in range(wanted):
            await asyncio.sleep(self.delay_of(ask))
            self.log.line(f"T {self.engine_id} {index}")
            words.append(f"t{index} ")
        text = "".join(words)
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.reason(wanted)}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        answer = msgspec.json.encode(
            {
                "id": self.engine_id,
                "object": "chat.completion" if chat else "text_completion",
                "created": 1,
                "model": "scripted",
                "choices": [choice],
                "usage": msgspec.Raw(self.usage(ask, prompt, wanted)),
            }
        )
        what, _, where = fault.partition("_")
        if what in ("reset", "silent", "garbage") and where:
            at = {"0": 0, "1": 1, "half": len(answer) // 2}[where]
            if what == "garbage":
                answer = answer[:at] + b"\x00nonsense" + answer[at:]
            self.transport.write(JSON_HEAD % len(answer) + (answer if what == "garbage" else answer[:at]))
            if what == "silent":
                await asyncio.Event().wait()
            if what == "reset":
                # Bytes that are still in the buffer would die with it: let them leave first.
                await asyncio.sleep(0.002)
                self.cut()
            else:
                self.log.line(f"E {self.engine_id} cut")
            return
        self.log.line(f"E {self.engine_id} done")
        self.transport.write(JSON_HEAD % len(answer) + answer)

    def cut(self) -> None:
        self.log.line(f"E {self.engine_id} cut")
        self.task = None
        self.transport.abort()


async def serve(args: argparse.Namespace) -> None:
    log = Log(args.log, args.pool)
    log.bytes_per_tok, log.says_length = args.bytes_per_tok, args.says_length
    # The port is chosen by whoever restarts us, so an old connection in TIME_WAIT must not stop us.
    listener = socket.create_server((args.host, args.port), backlog=1024)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(log, delay_s=args.delay_ms / 1000, tokens=args.tokens), sock=listener
    )
    print("listening", listener.getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, printed")
    parser.add_argument("--log", required=True, help="append-only file; several engines may share it")
    parser.add_argument("--pool", default="a", help="name of this engine in the log")
    parser.add_argument("--tokens", type=int, default=64, help="completion tokens unless fewer are wanted")
    parser.add_argument("--delay-ms", type=float, default=10.0, help="before each token")
    parser.add_argument("--bytes-per-tok", type=int, default=4, help="how a prompt is counted")
    parser.add_argument("--says-length", action="store_true", help="an answer ended by its limit says so")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
