"""The values that hold, one row each, and where each comes from."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from wattmill.app.declared.declaration import EXAMPLE, Loaded
from wattmill.app.declared.pool_settings import HttpPool
from wattmill.app.declared.provider_key import provider_key, stands_in
from wattmill.app.declared.settings_errors import Path, dotted

Origin = Literal["file", "example", "default", "derived"]


class Effective(msgspec.Struct, frozen=True):
    """One value. `derived` rows are not settings: they say what follows from them on this machine."""

    key: str
    value: Any
    origin: Origin


def effective(loaded: Loaded, env: Mapping[str, str]) -> list[Effective]:
    """Return every value of a declaration in order. There is no secret among them: none can be declared."""
    written = tomllib.loads(loaded.text)
    here: Origin = "example" if loaded.file == EXAMPLE else "file"
    rows = [
        Effective(dotted(path), value, here if _stands(written, path) else "default")
        for path, value in _leaves(msgspec.to_builtins(loaded.settings), ())
    ]
    return rows + list(_derived(loaded, env))


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    else:
        yield path, value


def _stands(written: Any, path: Path) -> bool:
    for name in path:
        if not isinstance(written, dict) or name not in written:
            return False
        written = written[name]
    return True


def _derived(loaded: Loaded, env: Mapping[str, str]) -> Iterator[Effective]:
    for name, pool in loaded.settings.pools.items():
        if isinstance(pool, HttpPool):
            at = ("pools", name)
            if pool.api_key_env or pool.api_key_file:
                present = provider_key(pool, env) is not None
                yield Effective(dotted((*at, "key")), "present" if present else "absent", "derived")
            answers = "the stand-in on this machine" if stands_in(pool, env) else pool.base_url
            yield Effective(dotted((*at, "answers")), answers, "derived")
