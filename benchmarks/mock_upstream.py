"""A fast mock engine that speaks OpenAI: the floor of each gateway measurement, a third witness of tokens.

It answers at once (or with a set delay between chunks), counts what it says in its usage, and adds it up:
`GET /counts` returns the totals. It does not import wattmill, so its count is worth something.

Tokens are counted by a rule that a script can repeat: prompt tokens are the bytes of the JSON of `messages`
(or `prompt`, `input`) divided by 4, rounded up; completion tokens are `min(max_tokens, --tokens)` a choice.
With `--count o200k` the text of the messages is counted by that tokenizer instead (tiktoken must be there).

Run it alone with `python benchmarks/mock_upstream.py --port 9000`; it prints `listening PORT` when it is
ready.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import httptools
import msgspec
import uvloop

TEXT = b"The turbine hums, the rack is warm, and every token on this line was paid for in joules. "
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
END = b"0\r\n\r\n"
ROLE = b'{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
DONE = b"e\r\ndata: [DONE]\n\n\r\n"


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Ask(msgspec.Struct):
    """The keys that the mock reads; everything else is skipped unread. `mock_delay_ms` is its own knob."""

    model: str = "mock"
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: StreamOptions | None = None
    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")
    n: int = 1
    mock_delay_ms: float | None = None
    mock_tokens: int | None = None


class Counts:
    """Everything this engine did since it started."""

    __slots__ = ("aborted", "cached_tok", "connections", "output_tok", "prompt_tok", "requests", "streamed")

    def __init__(self) -> None:
        self.requests = 0  # asked
        self.streamed = 0  # of them, as a stream
        self.aborted = 0  # streams whose client left
        self.connections = 0  # accepted
        self.prompt_tok = 0
        self.cached_tok = 0  # of prompt_tok
        self.output_tok = 0  # written, also in aborted streams

    def as_json(self) -> bytes:
        figures: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        figures["cpu_s"] = time.process_time()
        figures["pid"] = os.getpid()
        return msgspec.json.encode(figures)


class Mock:
    """What all connections share: settings, totals, and the bytes that do not change."""

    def __init__(
        self,
        *,
        tokens: int,
        delay_s: float,
        answer_bytes: int,
        cached_part: int,
        count: Callable[[Ask], int] | None = None,
    ) -> None:
        self.count = quarter_of_bytes if count is None else count
        self.tokens = tokens
        self.delay_s = delay_s
        self.cached_part = cached_part  # 1/n of the prompt counts as cached; 0: none
        self.counts = Counts()
        self.decode = msgspec.json.Decoder(Ask).decode
        self.loop = asyncio.get_running_loop()
        self.answer_bytes = answer_bytes
        frame = len(self.chat_answer(0, 999, 99, 9, 1, b""))
        text = TEXT * (answer_bytes // len(TEXT) + 1)
        self.text = text[: max(0, answer_bytes - frame)]
        embedding = b",".join([b"0.125"] * 64)
        self.embedding = b'{"object":"embedding","index":0,"embedding":[' + embedding + b"]}"

    def usage(self, prompt: int, output: int, cached: int) -> bytes:
        return (
            b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":'
            b'{"cached_tokens":%d},"completion_tokens_details":{"reasoning_tokens":0}}'
            % (prompt, output, prompt + output, cached)
        )

    def chat_answer(
        self, serial: int, prompt: int, output: int, cached: int, choices: int, text: bytes
    ) -> bytes:
        one = b",".join(
            b'{"index":%d,"message":{"role":"assistant","content":"%s"},"logprobs":null,"finish_reason":"stop"}'
            % (index, text)
            for index in range(choices)
        )
        return (
            b'{"id":"chatcmpl-%08x","object":"chat.completion","created":1,"model":"mock","choices":[%s],"usage":%s}'
            % (
                serial,
                one,
                self.usage(prompt, output, cached),
            )
        )

    def text_answer(
        self, serial: int, prompt: int, output: int, cached: int, choices: int, text: bytes
    ) -> bytes:
        one = b",".join(
            b'{"index":%d,"text":"%s","logprobs":null,"finish_reason":"stop"}' % (index, text)
            for index in range(choices)
        )
        return (
            b'{"id":"cmpl-%08x","object":"text_completion","created":1,"model":"mock","choices":[%s],"usage":%s}'
            % (
                serial,
                one,
                self.usage(prompt, output, cached),
            )
        )


class Connection(asyncio.Protocol):
    """One client. Requests are answered in order; a stream holds back what is pipelined behind it."""

    def __init__(self, mock: Mock) -> None:
        self.mock = mock
        self.transport: Any = None
        self.parser = httptools.HttpRequestParser(self)
        self.path = b""
        self.body: list[bytes] = []
        self.timer: Any = None
        self.writable = True
        self.stream: tuple[bytes, ...] = ()  # the pieces of a chunk, while a stream runs
        self.left = 0  # chunks of it still to write
        self.tail = b""
        self.delay_s = 0.0
        self.held: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.mock.counts.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.left:
            self.mock.counts.aborted += 1
            self.left = 0

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.left and self.timer is None:
            self.timer = self.mock.loop.call_soon(self.pump)

    def data_received(self, data: bytes) -> None:
        if self.left:
            self.held.append(data)
            return
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError, msgspec.MsgspecError) as error:
            print("bad request:", repr(error.__context__ or error), flush=True)
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self.path = url if not self.path else self.path + url

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        body = self.body[0] if len(self.body) == 1 else b"".join(self.body)
        path, self.path = self.path, b""
        self.body.clear()
        if path == b"/v1/chat/completions":
            self.complete(body, chat=True)
        elif path == b"/v1/completions":
            self.complete(body, chat=False)
        elif path == b"/v1/embeddings":
            self.embed(body)
        else:
            self.about(path)

    def complete(self, body: bytes, *, chat: bool) -> None:
        mock, counts = self.mock, self.mock.counts
        ask = mock.decode(body)
        prompt = mock.count(ask)
        cached = prompt // mock.cached_part if mock.cached_part else 0
        limit = ask.max_completion_tokens if ask.max_completion_tokens is not None else ask.max_tokens
        each = mock.tokens if ask.mock_tokens is None else ask.mock_tokens
        if limit is not None and limit < each:
            each = limit
        counts.requests += 1
        counts.prompt_tok += prompt
        counts.cached_tok += cached
        output = each * ask.n
        if not ask.stream:
            counts.output_tok += output
            render = mock.chat_answer if chat else mock.text_answer
            answer = render(counts.requests, prompt, output, cached, ask.n, mock.text)
            self.transport.write(JSON_HEAD % len(answer) + answer)
            return
        counts.streamed += 1
        self.start_stream(ask, prompt=prompt, output=output, cached=cached, chat=chat)

    def start_stream(self, ask: Ask, *, prompt: int, output: int, cached: int, chat: bool) -> None:
        mock = self.mock
        kind, name = (b"chat.completion.chunk", b"chatcmpl") if chat else (b"text_completion", b"cmpl")
        head = b'data: {"id":"%s-%08x","object":"%s","created":1,"model":"mock","choices":[' % (
            name,
            mock.counts.requests,
            kind,
        )
        # The last chunk of a choice carries its finish reason and no text, as OpenAI's do.
        body, last = (
            (b'"delta":{"content":" watt"},"finish_reason":null', b'"delta":{},"finish_reason":"stop"')
            if chat
            else (b'"text":" watt","finish_reason":null', b'"text":"","finish_reason":"stop"')
        )
        self.stream = tuple(
            framed(head + b'{"index":%d,%s,"logprobs":null}]}\n\n' % (index, body)) for index in range(ask.n)
        )
        ends = [
            framed(head + b'{"index":%d,%s,"logprobs":null}]}\n\n' % (index, last)) for index in range(ask.n)
        ]
        if ask.stream_options is not None and ask.stream_options.include_usage:
            ends.append(framed(head + b'],"usage":%s}\n\n' % mock.usage(prompt, output, cached)))
        self.tail = b"".join(ends) + DONE + END
        self.left = output
        self.delay_s = mock.delay_s if ask.mock_delay_ms is None else ask.mock_delay_ms / 1000
        if chat:
            self.transport.write(SSE_HEAD + framed(head + ROLE))
        else:
            self.transport.write(SSE_HEAD)
        if not output:
            self.transport.write(self.tail)
            return
        self.timer = mock.loop.call_soon(self.pump)

    def pump(self) -> None:
        """Write one chunk; the next is another turn of the loop, so that chunks are not glued together."""
        self.timer = None
        if not self.writable:
            return
        mock = self.mock
        chunk = self.stream[self.left % len(self.stream)]
        self.left -= 1
        mock.counts.output_tok += 1
        if not self.left:
            self.transport.write(chunk + self.tail)
            held, self.held = self.held, []
            for data in held:
                self.data_received(data)
            return
        self.transport.write(chunk)
        self.timer = (
            mock.loop.call_later(self.delay_s, self.pump) if self.delay_s else mock.loop.call_soon(self.pump)
        )

    def embed(self, body: bytes) -> None:
        mock, counts = self.mock, self.mock.counts
        ask = mock.decode(body)
        prompt = mock.count(ask)
        counts.requests += 1
        counts.prompt_tok += prompt
        answer = (
            b'{"object":"list","model":"mock","data":[%s],"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
            % (mock.embedding, prompt, prompt)
        )
        self.transport.write(JSON_HEAD % len(answer) + answer)

    def about(self, path: bytes) -> None:
        if path == b"/counts":
            answer = self.mock.counts.as_json()
        elif path == b"/v1/models":
            answer = (
                b'{"object":"list","data":[{"id":"mock","object":"model","created":1,"owned_by":"bench"}]}'
            )
        elif path in (b"/health", b"/"):
            answer = b'{"status":"ok"}'
        else:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        self.transport.write(JSON_HEAD % len(answer) + answer)


def quarter_of_bytes(ask: Ask) -> int:
    return (len(ask.messages) + len(ask.prompt) + len(ask.input) + 3) // 4


def counter_by_tokenizer(name: str) -> Callable[[Ask], int]:
    """Return a count of the text of all messages, without a chat template. Reads TIKTOKEN_CACHE_DIR."""
    import tiktoken

    encode = tiktoken.get_encoding(name).encode_ordinary

    def count(ask: Ask) -> int:
        total = 0
        for message in msgspec.json.decode(ask.messages):
            content = message.get("content")
            parts = (
                [content] if isinstance(content, str) else [part.get("text", "") for part in content or ()]
            )
            total += sum(len(encode(part)) for part in parts)
        return total

    return count


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(args: argparse.Namespace) -> None:
    mock = Mock(
        tokens=args.tokens,
        delay_s=args.delay_ms / 1000,
        answer_bytes=args.answer_bytes,
        cached_part=args.cached_part,
        count=counter_by_tokenizer("o200k_base") if args.count == "o200k" else None,
    )
    listener = socket.create_server((args.host, args.port), backlog=1024)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(mock), sock=listener)
    print("listening", listener.getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, printed")
    parser.add_argument(
        "--tokens", type=int, default=64, help="completion tokens unless the request wants fewer"
    )
    parser.add_argument("--delay-ms", type=float, default=0.0, help="between two chunks of a stream")
    parser.add_argument(
        "--answer-bytes", type=int, default=1200, help="body of an answer that is not streamed"
    )
    parser.add_argument(
        "--cached-part", type=int, default=0, help="1/N of the prompt is told as cached; 0: none"
    )
    parser.add_argument(
        "--count", choices=("bytes", "o200k"), default="bytes", help="how prompts are counted"
    )
    parser.add_argument("--cpu", type=int, default=None, help="pin to this core")
    args = parser.parse_args()
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    uvloop.run(serve(args))


if __name__ == "__main__":
    main()
