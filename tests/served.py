"""A server of a test that leaves nothing behind: its loop may end as soon as `stop` has returned.

`asyncio.Server.close` only stops listening. A transport is closed one turn of the loop after `close()` is
called on it, and a connection that was accepted in the last turn has no handler yet; a loop that ends first
leaves their sockets to the collector, which then fails whichever test runs when it comes by.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_ACCEPTING_TURNS = 4  # from the kernel's queue to a handler's task


class Served:
    """Serves each connection by `handler`, and closes it after. An end of the other side is no error."""

    def __init__(self, handler: Handler) -> None:
        self.connections = 0  # until now
        self.port = 0
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._writers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, *, port: int = 0, **options: Any) -> None:
        """Listen on loopback; `options` are those of `asyncio.start_server`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, **options)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End all connections, and return when their sockets are closed."""
        if self._server is not None:
            # asyncio loses a connection that it has accepted but not yet made when its server closes.
            for sock in self._server.sockets:
                asyncio.get_running_loop().remove_reader(sock.fileno())
            for _ in range(_ACCEPTING_TURNS):
                await asyncio.sleep(0)
            self._server.close()
        for task, writer in list(self._writers.items()):
            task.cancel()
            writer.transport.abort()  # else it would wait for a reader of what is still to be written
        await asyncio.gather(*self._writers, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._writers[task] = writer
        self.connections += 1
        try:
            await self._handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            del self._writers[task]


@contextlib.asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncIterator[int]:
    """Serve while the block runs; its value is the port."""
    one = Served(handler)
    await one.start(**options)
    try:
        yield one.port
    finally:
        await one.stop()
