"""Where the embedded engines of a factory listen: written by the supervisor, read by the workers."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping

import msgspec

from wattmill.app.home import Home


class EngineEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where one embedded engine listens. Its key is drawn anew at each start of the factory."""

    host: str = "127.0.0.1"
    port: int
    key: str

    @property
    def root_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.root_url}/v1"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)


def new_key() -> str:
    return secrets.token_urlsafe(24)


def write_endpoints(home: Home, endpoints: Mapping[str, EngineEndpoint]) -> None:
    """Tell the workers where the engines are; 0600, since the keys stand in it, and replaced in one step."""
    draft = home.engines_json.with_suffix(".tmp")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(endpoints))
    finally:
        os.close(fd)
    os.replace(draft, home.engines_json)


def read_endpoints(home: Home) -> dict[str, EngineEndpoint]:
    """Return what `write_endpoints` wrote; empty if no embedded engine is declared."""
    try:
        return msgspec.json.decode(home.engines_json.read_bytes(), type=dict[str, EngineEndpoint])
    except FileNotFoundError:
        return {}
