"""The local control socket of a gateway worker: one JSON line asks, one JSON line answers.

A unix socket in the factory's own folder (0700): whoever can open it may already read the books.
Operations: `status`, `metrics`, `reload`, `drain`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from wattmill.app.home import Home

Answer = dict[str, Any]


async def serve_control(path: Path, operations: dict[str, Callable[[], Answer]]) -> asyncio.Server:
    """Listen on `path`; an unknown operation is answered with the known ones."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(msgspec.json.encode(_answer(line, operations)) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the asker went away, or sent a line beyond the reader's limit
        finally:
            writer.close()

    path.unlink(missing_ok=True)  # left behind by a killed worker: the lock on its epoch says that it is gone
    server = await asyncio.start_unix_server(serve, path=os.fspath(path))
    path.chmod(0o600)
    return server


def _answer(line: bytes, operations: dict[str, Callable[[], Answer]]) -> Answer:
    try:
        name = msgspec.json.decode(line, type=dict[str, Any]).get("op")
    except msgspec.DecodeError as error:
        return {"error": f"not one JSON object on a line: {error}"}
    operation = operations.get(str(name))
    if operation is None:
        return {"error": f"no operation {name!r}; there are: {', '.join(operations)}"}
    return operation()


def ask(path: Path, operation: str, *, timeout_s: float = 1.0) -> Answer | None:
    """Return a worker's answer, or None if it does not answer in time. Blocks: call it off an event loop."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(os.fspath(path))
            connection.sendall(msgspec.json.encode({"op": operation}) + b"\n")
            received = b""
            while not received.endswith(b"\n"):
                part = connection.recv(65_536)
                if not part:
                    return None
                received += part
        return msgspec.json.decode(received, type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return None


def ask_workers(home: Home, operation: str, *, timeout_s: float = 1.0) -> list[Path]:
    """Ask every running worker; return the sockets of those that listen and did not answer."""
    return [
        path
        for path in sorted(home.run.glob("worker-*.sock"))
        if ask(path, operation, timeout_s=timeout_s) is None and _listens(path)
    ]


def tell_workers(home: Home, generation: int, *, patience_s: float = 1.0) -> bool:
    """Have every running worker read what has changed, and wait until each has; False if one has not in time.

    They look by themselves about four times a second: this is for whoever goes on to use what he just made.
    """
    waiting = list(home.run.glob("worker-*.sock"))
    for path in waiting:
        ask(path, "reload", timeout_s=0.3)
    ends_s = time.monotonic() + patience_s
    while waiting:
        # Who does not listen is not running: it reads everything when it starts. Who is silent is busy.
        waiting = [path for path in waiting if _listens(path) and not _knows(path, generation)]
        if waiting and time.monotonic() > ends_s:
            return False
        if waiting:
            time.sleep(0.01)
    return True


def _knows(path: Path, generation: int) -> bool:
    answer = ask(path, "status", timeout_s=0.3)
    return answer is not None and bool(answer["generation"] >= generation)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.3)
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
    return True
