"""What a stream costs before its first token where caches are cold: `python benchmarks/cold.py`.

A request that comes alone finds nothing of the gateway in the caches: since the last one, others have used
them. Here that is made: between two steps so many MB of memory are read, then one step is timed, on the wall
clock, without sockets (`parts.py`). Two steps are on the way to the first token: from the client's bytes to
those for the engine, and from the engine's first bytes to the client's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time

from parts import PLAIN, TEXT, Wired

_EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"mock",%b}\n\n'
_CHOICE = b'"choices":[{"index":0,"delta":%b,"finish_reason":%b}]'
_USAGE = b'"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":7,"total_tokens":15}'
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _says(delta: bytes, finish: bytes = b"null") -> bytes:
    return _chunk(_EVENT % (_CHOICE % (delta, finish)))


TOKEN = _says(b'{"content":"y"}')
FIRST = _HEAD + _says(b'{"role":"assistant","content":""}') + TOKEN
LAST = _says(b"{}", b'"stop"') + _chunk(_EVENT % _USAGE) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
BODY = {
    "model": "mock",
    "messages": [{"role": "user", "content": TEXT}],
    "max_tokens": 8,
    "stream": True,
    "stream_options": {"include_usage": True},
}


async def steps(read_mb: int, times: int) -> tuple[float, float]:
    """Return the medians, in microseconds: to the engine, and from its first bytes to the client."""
    wired = Wired(PLAIN)
    asks = wired.asks("/v1/chat/completions", BODY)
    junk = bytearray(read_mb << 20)

    async def warm(count: int) -> None:
        for _ in range(count):
            wired.conn.data_received(next(asks))
            while not wired.engine.written:  # it waits for a lease
                wired.way.flush()
                await asyncio.sleep(0.0005)
            answered()

    def answered() -> None:
        wired.engine.written.clear()
        wired.tells(FIRST)
        for _ in range(6):
            wired.tells(TOKEN)
        wired.tells(LAST)
        wired.client.written.clear()

    for _ in range(4):  # let the purse learn the demand, and lease ahead of it
        await warm(200)
        await wired.worker._purse.tick()
    out: list[float] = []
    back: list[float] = []
    for turn in range(times):
        ask = next(asks)
        bytes(junk)
        began = time.perf_counter()
        wired.conn.data_received(ask)
        wired.way.flush()
        left = time.perf_counter()
        if wired.engine.written:
            out.append((left - began) * 1e6)
            wired.engine.written.clear()
            bytes(junk)
            began = time.perf_counter()
            wired.tells(FIRST)
            back.append((time.perf_counter() - began) * 1e6)
            for _ in range(6):
                wired.tells(TOKEN)
            wired.tells(LAST)
            wired.client.written.clear()
        else:
            while not wired.engine.written:
                wired.way.flush()
                await asyncio.sleep(0.0005)
            answered()
        if turn % 100 == 99:
            await wired.worker._purse.tick()
    return statistics.median(out), statistics.median(back)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--read-mb", default="0,2,8,16,32", help="read between two steps, comma-separated")
    parser.add_argument("--times", type=int, default=300)
    args = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, µs on the wall clock, median of {args.times}, without sockets")
    print(f"{'MB read between':>16}{'to the engine':>16}{'first content':>16}{'together':>12}")
    for word in args.read_mb.split(","):
        child = os.fork()  # a worker of its own for each
        if not child:
            import uvloop

            out, back = uvloop.run(steps(int(word), args.times))
            print(f"{word:>16}{out:>16.1f}{back:>16.1f}{out + back:>12.1f}", flush=True)
            os._exit(0)  # the journal's thread and the pool's have nothing to say
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"no figures with {word} MB")


if __name__ == "__main__":
    main()
