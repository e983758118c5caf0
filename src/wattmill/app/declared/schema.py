"""The declaration and the demand file as JSON schemas, for editors and for checks in other languages."""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.app.declared.settings import Settings
from wattmill.twin.planning.demand import Demand

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of `wattmill.toml`.

    It knows types, ranges and names of keys. What must hold between parts (a pool's model exists, a key is
    set) only `wattmill config check` knows.
    """
    schema = msgspec.json.schema(Settings)
    return {"$schema": DIALECT, "title": "wattmill.toml", **schema}


def demand_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a demand file: types, ranges and names of keys."""
    return {"$schema": DIALECT, "title": "a demand file", **msgspec.json.schema(Demand)}
