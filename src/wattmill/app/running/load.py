"""A small scripted workload, so that a newcomer sees life at once: `wattmill up --load`.

Plain HTTP from the standard library, as any client would send it: streamed and not, private and public,
pinned to each place, one in a while hung up on in the middle; and one agent that got lost, in a run with a
cap that stops it. It ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import random
import threading
import time
from urllib.parse import urlsplit

import msgspec

from wattmill.client import Run, RunError
from wattmill.units import nusd_from_usd, usd_text

_PROMPTS = (
    "Name three uses of a heat pump.",
    "Write one sentence about the sea.",
    "What is a watt?",
    "Give me a title for a talk on data centres.",
    "Explain caching to a child in two sentences.",
    "List four words that rhyme with light.",
    "Why do batteries age?",
    "Summarise: a token factory turns electricity into answers, and keeps books on both.",
)

_AT_ONCE = 4
AGENT_LABEL = "runaway agent"
_AGENT_AFTER_S = 6.0  # whoever looks on has seen the places by then
_AGENT_CALLS = 8  # what its cap is worth, in calls like its first
_AGENT_SEEN_S = 15.0  # how long its run stays open after it was stopped, to be looked at


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request, and how often it comes."""

    weight: int
    model: str
    stream: bool
    max_tokens: int
    privacy: str = "internal"
    hang_up_after_chunks: int | None = None


class Told(msgspec.Struct, frozen=True):
    """One answer that the agent got."""

    text: str
    charge_nusd: int
    pool: str


def shapes(model: str, pools: list[str]) -> list[Shape]:
    """Return the mix for a factory that serves `model` at `pools`."""
    mix = [
        Shape(weight=6, model=model, stream=True, max_tokens=32),
        Shape(weight=2, model=model, stream=False, max_tokens=24),
        Shape(weight=2, model=model, stream=True, max_tokens=32, privacy="private"),
        Shape(weight=1, model=model, stream=True, max_tokens=64, hang_up_after_chunks=6),
    ]
    return mix + [
        Shape(weight=2, model=f"{pool}/{model}", stream=True, max_tokens=24, privacy="public")
        for pool in pools
    ]


def send(url: str, key: str, shape: Shape, prompt: str, *, timeout_s: float = 60.0) -> int:
    """Send one request and read its answer; return the HTTP status (0: the connection broke)."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    body = msgspec.json.encode(
        {
            "model": shape.model,
            "stream": shape.stream,
            "max_tokens": shape.max_tokens,
            "messages": [{"role": "user", "content": prompt}],
        }
    )
    headers = {
        "authorization": f"Bearer {key}",
        "content-type": "application/json",
        "x-wattmill-privacy": shape.privacy,
    }
    try:
        connection.request("POST", f"{parts.path}/chat/completions", body, headers)
        answer = connection.getresponse()
        if shape.hang_up_after_chunks is None:
            answer.read()
        else:
            for _ in range(shape.hang_up_after_chunks * 2):  # each event is a line and a blank one
                answer.readline()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def run_away(url: str, key: str, model: str, *, stop: threading.Event) -> int:
    """Be an agent that got lost: ask, append the answer, ask again, until the cap of the run says no. Returns
    the answers that were kept."""
    history = [{"role": "user", "content": "Look for the answer. If it is not there, look again."}]
    first = _ask(f"{url}/chat/completions", key, model, history)
    if stop.is_set() or first is None or not first.charge_nusd:
        return 0
    cap_nusd = _AGENT_CALLS * first.charge_nusd
    model = f"{first.pool}/{model}"  # at one price, so that the cap is worth as many calls
    with Run(
        f"{usd_text(cap_nusd, 9)} USD", label=AGENT_LABEL, expires="3m", base_url=url, api_key=key
    ) as run:
        kept = 0
        while not stop.is_set() and kept < 20 * _AGENT_CALLS:
            told = _ask(f"{run.base_url}/chat/completions", key, model, history)
            if told is None:
                break
            kept += 1
            history += [
                {"role": "assistant", "content": told.text},
                {"role": "user", "content": f"Nothing in place {kept}. Look again."},
            ]
        stop.wait(_AGENT_SEEN_S)
    return kept


def _ask(url: str, key: str, model: str, history: list[dict[str, str]]) -> Told | None:
    """Return one answer, None where there is none."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=60.0)
    body = msgspec.json.encode({"model": model, "max_tokens": 24, "messages": history})
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        connection.request("POST", parts.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            return None
        text = str(msgspec.json.decode(data)["choices"][0]["message"]["content"] or "...")
        charge = nusd_from_usd(answer.headers.get("x-wattmill-charge-usd", "0"))
        return Told(text, charge, answer.headers.get("x-wattmill-pool", ""))
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def drive(url: str, key: str, mix: list[Shape], *, seconds: float, rate_per_s: float, seed: int) -> None:
    """Send requests at exponentially spaced moments for `seconds`, at most `_AT_ONCE` side by side.

    Open loop up to there: what is due while all hands are full waits, as people do.
    """
    rng = random.Random(seed)
    hands = threading.BoundedSemaphore(_AT_ONCE)
    began_s = time.monotonic()
    due_s = began_s
    # A visit to each place first: whoever looks on for ten seconds has seen them all.
    visits = [shape for shape in mix if "/" in shape.model]

    def one(shape: Shape, prompt: str) -> None:
        try:
            send(url, key, shape, prompt)
        finally:
            hands.release()

    while due_s < began_s + seconds:
        time.sleep(max(0.0, due_s - time.monotonic()))
        hands.acquire()
        shape = visits.pop() if visits else rng.choices(mix, [s.weight for s in mix])[0]
        threading.Thread(target=one, args=(shape, rng.choice(_PROMPTS)), daemon=True).start()
        due_s += rng.expovariate(rate_per_s)
    for _ in range(_AT_ONCE):  # let the last answers finish
        hands.acquire(timeout=5.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="wattmill.app.running.load")
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pools", default="")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=0.5, help="requests per second, mean")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    from wattmill.app.running import lifeline

    lifeline.arm()
    mix = shapes(args.model, [pool for pool in args.pools.split(",") if pool])
    key = os.environ["WATTMILL_LOAD_KEY"]
    stop = threading.Event()

    def agent() -> None:
        with contextlib.suppress(RunError, OSError):  # it is a show; the load goes on without it
            if not stop.wait(min(_AGENT_AFTER_S, args.seconds / 4)):
                run_away(args.url, key, args.model, stop=stop)

    lost = threading.Thread(target=agent, daemon=True)
    lost.start()
    drive(
        args.url,
        key,
        mix,
        seconds=args.seconds,
        rate_per_s=args.rate,
        seed=args.seed,
    )
    stop.set()
    lost.join(5.0)


if __name__ == "__main__":
    main()
