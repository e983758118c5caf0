"""The key of a provider: named in the declaration, held in the environment or in a file, shown nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wattmill.app.declared.pool_settings import HttpPool


def provider_key(pool: HttpPool, env: Mapping[str, str]) -> str | None:
    """Return the key of `pool`, or None if it needs none or has none; `absent_key` tells which."""
    if pool.api_key_env is not None:
        return env.get(pool.api_key_env, "").strip() or None
    if pool.api_key_file is not None:
        try:
            lines = Path(pool.api_key_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return None
        return (lines[0].strip() or None) if lines else None
    return None


def absent_key(pool: HttpPool, env: Mapping[str, str]) -> str | None:
    """Return why `pool` has no key although it names one, or None if all is well."""
    if provider_key(pool, env) is not None:
        return None
    if pool.api_key_env is not None:
        return f"environment variable {pool.api_key_env} is not set"
    if pool.api_key_file is not None:
        return f"file {pool.api_key_file} holds no key"
    return None


def stands_in(pool: HttpPool, env: Mapping[str, str]) -> bool:
    """Return whether the stand-in answers in the provider's place: one is declared, and the key is absent."""
    return pool.stand_in is not None and absent_key(pool, env) is not None
