"""The embedded engines of a factory: which there are, and where each listens."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping

import msgspec

from wattmill.app.home import Home
from wattmill.app.plan import places
from wattmill.app.settings import Settings
from wattmill.models.engines.embedded import EmbeddedSpec


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


def embedded_specs(settings: Settings, env: Mapping[str, str]) -> dict[str, EmbeddedSpec]:
    """Return, by pool, the engines that wattmill itself runs on this machine (stand-ins among them)."""
    return {
        name: EmbeddedSpec(
            pool=name,
            weights=place.weights,
            alias=next(iter(place.models.values())),
            slots=place.slots,
            ctx=place.context_tok,
            threads=place.threads,
        )
        for name, place in places(settings, env).items()
        if place.weights is not None
    }


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
