"""The admin app served on a real socket, in front of a seeded factory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from board_factory import BoardFactory
from wattmill.web.admin import admin_app


class AdminRig:
    def __init__(self, factory: BoardFactory, url: str) -> None:
        self.factory = factory
        self.url = url
        self.bearer = {"authorization": f"Bearer {factory.token}"}

    def client(self, **headers: str) -> httpx.Client:
        """Return a client with the admin token; `close` it."""
        return httpx.Client(base_url=self.url, headers={**self.bearer, **headers}, trust_env=False)


@contextmanager
def serving(factory: BoardFactory) -> Iterator[AdminRig]:
    app = admin_app(factory.home, control=factory.control)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1, ws="none", lifespan="on")
    )
    thread = threading.Thread(target=server.run, name="admin", daemon=True)
    thread.start()
    give_up = time.monotonic() + 10
    while not server.started:
        assert thread.is_alive() and time.monotonic() < give_up, "the admin app did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield AdminRig(factory, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(10)
