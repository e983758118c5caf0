"""A closed-loop load generator: `c` connections, each asks again when it has its answer. No wattmill import.

It prints one JSON object: requests, errors, requests/s, latency p50 and p99, and for streams the time to the
first content, the gap between chunks and how many chunks came in one read (1.0: none were glued together).
Latency counts from the write of a request to the last byte of its answer, on one monotonic clock.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import collections
import itertools
import json
import os
import random
import time
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvloop

now_ns = time.perf_counter_ns

ASKS = 64  # different requests, in turn
TEXT = """how many joules does a token need when the batch is full and the night is cool why price rack water
heat grid cost queue model answer train prompt cache power cloud edge meter agent budget route stream value"""
WORDS = TEXT.split()


class Run:
    """What all connections share, and what came of it."""

    def __init__(self, *, asks: list[bytes], requests: int, seconds: float, stream: bool) -> None:
        self.asks = itertools.cycle(asks)
        self.stream = stream
        self.left = requests
        self.deadline_ns = now_ns() + int(seconds * 1e9) if seconds else 0
        self.latency_ns = array.array("Q")
        self.ttft_ns = array.array("Q")
        self.gap_ns = array.array("Q")
        self.chunks = 0
        self.reads = 0
        self.answer_bytes = 0
        self.statuses: collections.Counter[int] = collections.Counter()
        self.broken = 0  # connections lost in the middle of an answer
        self.first_error = ""
        self.open = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def more(self) -> bool:
        if self.left <= 0 or (self.deadline_ns and now_ns() >= self.deadline_ns):
            return False
        self.left -= 1
        return True

    def closed(self) -> None:
        self.open -= 1
        if not self.open and not self.done.done():
            self.done.set_result(None)


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.transport: Any = None
        self.parser = httptools.HttpResponseParser(self)
        self.asked_ns = 0
        self.read_ns = 0
        self.seen_ns = 0  # when content was last seen in this answer
        self.busy = False
        self.size = 0
        self.body = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        if not self.run.more():
            self.busy = False
            self.transport.close()
            return
        self.busy = True
        self.size = 0
        self.seen_ns = 0
        self.asked_ns = now_ns()
        self.transport.write(next(self.run.asks))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.run.broken += 1
            self.run.first_error = self.run.first_error or f"connection lost in an answer: {exc!r}"
        self.run.closed()

    def data_received(self, data: bytes) -> None:
        self.read_ns = now_ns()
        self.parser.feed_data(data)
        if not self.parser.should_keep_alive() and not self.busy:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        run = self.run
        self.size += len(body)
        if not run.stream or self.parser.get_status_code() != 200:
            self.body = body
            return
        count = body.count(b'data: {"')
        if not count:
            return
        run.chunks += count
        if not self.seen_ns and count == body.count(b'"content":""'):
            return  # only the role so far: no content that a reader would see
        if self.seen_ns:
            if self.read_ns != self.seen_ns:
                run.gap_ns.append(self.read_ns - self.seen_ns)
                run.reads += 1
        else:
            run.ttft_ns.append(self.read_ns - self.asked_ns)
            run.reads += 1
        self.seen_ns = self.read_ns

    def on_message_complete(self) -> None:
        run = self.run
        run.latency_ns.append(now_ns() - self.asked_ns)
        run.answer_bytes += self.size
        status = self.parser.get_status_code()
        run.statuses[status] += 1
        if status != 200 and not run.first_error:
            run.first_error = f"{status}: {self.body[:1000].decode(errors='replace')}"
        if self.parser.should_keep_alive():
            self.ask()
        else:
            self.busy = False


def request_bytes(
    *,
    host: str,
    path: str,
    key: str,
    model: str,
    size: int,
    stream: bool,
    max_tokens: int,
    extra: dict[str, Any],
    seed: int,
) -> bytes:
    """Return a whole HTTP request whose body is `size` bytes (or as small as it can be). Each seed has
    words of its own: a thousand users do not say the same; a crowd that does is looked at as a runaway."""
    body: dict[str, Any] = {"model": model, "max_tokens": max_tokens}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    body |= extra
    body["messages"] = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": ""}]
    pad = size - len(json.dumps(body, separators=(",", ":")))
    draw = random.Random(seed)
    words = " ".join(draw.choices(WORDS, k=max(1, pad) // 4 + 1))
    body["messages"][1]["content"] = words[: max(1, pad)]
    payload = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\naccept: */*\r\nuser-agent: bench/1\r\n"
        f"content-length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def percentile_ms(values: array.array[int], share: float) -> float | None:
    """Return the nearest-rank percentile in ms; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e6, 4)


async def drive(args: argparse.Namespace) -> dict[str, Any]:
    url = urlsplit(args.url)
    stream = args.stream
    asks = [
        request_bytes(
            host=url.netloc,
            path=url.path,
            key=args.key,
            model=args.model,
            size=args.size,
            stream=stream,
            max_tokens=args.max_tokens,
            extra=json.loads(args.extra),
            seed=seed,
        )
        for seed in range(ASKS)
    ]
    run = Run(asks=asks, requests=args.requests or 1 << 60, seconds=args.seconds, stream=stream)
    loop = asyncio.get_running_loop()
    run.open = args.connections
    began_ns, cpu_s = now_ns(), time.process_time()
    await asyncio.gather(
        *(
            loop.create_connection(lambda: Client(run), url.hostname, url.port)
            for _ in range(args.connections)
        )
    )
    await asyncio.wait_for(run.done, args.timeout)
    took_s = (now_ns() - began_ns) / 1e9
    answers = len(run.latency_ns)
    return {
        "requests": answers,
        "statuses": {str(status): count for status, count in sorted(run.statuses.items())},
        "errors": answers - run.statuses[200] + run.broken,
        "first_error": run.first_error or None,
        "seconds": round(took_s, 4),
        "req_per_s": round(answers / took_s, 1),
        "p50_ms": percentile_ms(run.latency_ns, 0.50),
        "p99_ms": percentile_ms(run.latency_ns, 0.99),
        "ttft_p50_ms": percentile_ms(run.ttft_ns, 0.50),
        "ttft_p99_ms": percentile_ms(run.ttft_ns, 0.99),
        "gap_p50_ms": percentile_ms(run.gap_ns, 0.50),
        "gap_p99_ms": percentile_ms(run.gap_ns, 0.99),
        "chunks": run.chunks,
        "chunks_per_read": round(run.chunks / run.reads, 3) if run.reads else None,
        "request_bytes": len(asks[0]),
        "answer_bytes": run.answer_bytes // answers if answers else None,
        "load_cpu_s": round(time.process_time() - cpu_s, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="http://HOST:PORT/v1/chat/completions")
    parser.add_argument("-c", "--connections", type=int, default=8)
    parser.add_argument("-n", "--requests", type=int, default=0, help="0: as many as the time allows")
    parser.add_argument("-s", "--seconds", type=float, default=0.0, help="0: until all requests are answered")
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--size", type=int, default=1000, help="bytes of the request's body")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--extra", default="{}", help="more fields of the body, as JSON")
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--cpu", type=int, default=None, help="pin to this core")
    args = parser.parse_args()
    if not args.requests and not args.seconds:
        parser.error("give --requests or --seconds")
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    print(json.dumps(uvloop.run(drive(args))))


if __name__ == "__main__":
    main()
