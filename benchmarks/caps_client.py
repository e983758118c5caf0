"""Callers that spend a key to its cap: many at once, some of them rude. No wattmill import.

Each caller asks until it is told that nothing is left. What it does beside that is the scenario of its cell.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

PROMPT = "Spell out, letter by letter and with care, what this key may still spend before it ends."
FLOOR = re.compile(r"this request may take up to ([0-9.]+) USD(?:, at least ([0-9.]+) USD)?")
_LATER = {
    "limit_reached",
    "overloaded",
    "caps_unavailable",
    "no_healthy_place",
    "draining",
    "upstream_failed",
}
_NEXT_PERIOD = "limit_reached until its period begins anew"
_LATER |= {"upstream_rate_limited", "upstream_timeout", "journal_unavailable", "internal"}


@dataclass(slots=True)
class Told:
    """What the callers of one cell were told."""

    codes: Counter[str] = field(default_factory=Counter)
    served: int = 0
    last_floor_nusd: int | None = None
    last_code: str = ""
    gave_up: int = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """How the requests of one cell look."""

    port: int
    key: str
    tag: str
    model: str
    max_tokens: int
    fault: str = ""  # of every other request, see scripted_engine
    first_fault: str = ""  # of the first try of each request; the second one is clean
    faults: dict[str, str] = field(default_factory=dict)  # by engine
    leaves_after: int | None = None  # tokens after which the caller goes away
    delay_ms: float = 1.0

    def body(self, n: int, *, again: bool) -> bytes:
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": self.max_tokens,
            "stream": n % 2 == 0 or bool(self.fault) or self.leaves_after is not None,
            "user": f"{self.tag}.{n}{'r' if again else ''}",
            "mock_delay_ms": self.delay_ms,
            "mock_faults": self.faults,
        }
        if self.first_fault and not again:
            asked["mock_fault"] = self.first_fault
        elif self.fault and n % 2:
            asked["mock_fault"] = self.fault
        return json.dumps(asked).encode()


async def crowd(caller: Caller, size: int, *, give_up_s: float = 60.0) -> Told:
    """Let `size` callers spend at once until each was told that nothing is left."""
    told = Told()
    loop = asyncio.get_running_loop()
    until = loop.time() + give_up_s
    counter = iter(range(10**9))

    async def one() -> None:
        pauses = 0
        while loop.time() < until:
            n = next(counter)
            code = await ask(caller, n, told)
            if code in ("upstream_rate_limited", "upstream_failed") and caller.first_fault:
                code = await ask(caller, n, told, again=True)
            if code in ("budget_exceeded", _NEXT_PERIOD):
                return
            if code in _LATER or code == "lost":
                pauses += 1
                await asyncio.sleep(min(0.5, 0.05 * pauses))
            else:
                pauses = 0
        told.gave_up += 1

    await asyncio.gather(*(one() for _ in range(size)))
    return told


async def ask(caller: Caller, n: int, told: Told, *, again: bool = False) -> str:
    """Send one request on a connection of its own; return the code of a refusal, "" or "lost"."""
    try:
        async with asyncio.timeout(20):
            code, message, served = await _ask(caller, caller.body(n, again=again))
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError):
        code, message, served = "lost", "", False
    told.codes[code or "ok"] += 1
    told.served += served
    if code in ("budget_exceeded", "limit_reached"):
        told.last_code = code
        found = FLOOR.search(message)
        if found is not None:
            told.last_floor_nusd = _nusd(found.group(2) or found.group(1))
    return code


async def _ask(caller: Caller, body: bytes) -> tuple[str, str, bool]:
    reader, writer = await asyncio.open_connection("127.0.0.1", caller.port)
    try:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: caps\r\nauthorization: Bearer {caller.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        status = int((await reader.readline()).split()[1])
        while (await reader.readline()) not in (b"\r\n", b""):
            pass
        if status == 200 and caller.leaves_after is not None:
            seen = b""
            while seen.count(b'"content"') < caller.leaves_after:
                some = await reader.read(4096)
                if not some:
                    break
                seen += some
            return "", "", True
        rest = await reader.read()
        if status == 200:
            return ("lost", "", False) if b'"error"' in rest else ("", "", True)
        error = json.loads(rest[rest.index(b"{") : rest.rindex(b"}") + 1])["error"]
        code, message = str(error.get("code") or error.get("type")), str(error.get("message"))
        if code == "limit_reached" and "begins anew" in message:
            code = _NEXT_PERIOD
        return code, message, False
    finally:
        writer.transport.abort() if caller.leaves_after is not None else writer.close()


def _nusd(usd: str) -> int:
    whole, _, part = usd.partition(".")
    return int(whole) * 10**9 + int(part.ljust(9, "0")[:9])
