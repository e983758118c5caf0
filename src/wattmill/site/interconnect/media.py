"""The shipped media, read from their table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import msgspec

from wattmill.site.interconnect.spec import Medium


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    medium: tuple[Medium, ...]


@cache
def media() -> Mapping[str, Medium]:
    """Return the shipped media by name."""
    text = files("wattmill.data").joinpath("interconnect.toml").read_bytes()
    return {medium.name: medium for medium in msgspec.toml.decode(text, type=_Table).medium}
