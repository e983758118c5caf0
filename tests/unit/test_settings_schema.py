"""The JSON schema says what the loader says, as far as types, ranges and names go."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import jsonschema
import msgspec
import pytest

from wattmill.app.declared.declaration import example_text
from wattmill.app.declared.schema import settings_schema
from wattmill.app.declared.settings import Settings

VALIDATOR = jsonschema.Draft202012Validator(settings_schema())


def example() -> dict[str, Any]:
    return tomllib.loads(example_text())


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(settings_schema())


def test_the_schema_accepts_the_example():
    VALIDATOR.validate(example())


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for name in path[:-1]:
            data = data[name]
        data[path[-1]] = to

    return change


def _drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for name in path[:-1]:
            data = data[name]
        del data[path[-1]]

    return change


BAD: dict[str, Callable[[dict[str, Any]], None]] = {
    "an unknown table": _set("gatewai", to={}),
    "an unknown key": _set("gateway", "wrokers", to=1),
    "an unknown key of a pool": _set("pools", "cloud", "api_key", to="sk-live"),
    "a key of the other kind of pool": _set("pools", "edge", "base_url", to="https://example.org"),
    "a number for money": _set("pools", "edge", "cost", "hourly_usd", to=0.02),
    "money below zero": _set("tenants", "demo", "cap_usd", to="-2"),
    "a port out of range": _set("gateway", "port", to=70_000),
    "text for a number": _set("pools", "edge", "slots", to="four"),
    "a fraction for a whole number": _set("pools", "edge", "slots", to=1.5),
    "an unknown privacy class": _set("pools", "edge", "privacy", to="secret"),
    "an unknown engine": _set("pools", "edge", "engine", to="magic"),
    "an unknown rule of cost": _set("pools", "edge", "cost", "rule", to="free"),
    "a name with spaces": _set("pools", "edge two", to=example()["pools"]["edge"]),
    "an empty list of models": _set("pools", "edge", "models", to=[]),
    "no weights": _drop("pools", "edge", "weights"),
    "no price": _drop("pools", "edge", "cost"),
    "no pools": _drop("pools"),
    "no pool": _set("pools", to={}),
    "a key where a variable's name belongs": _set("pools", "cloud", "api_key_env", to="sk-live-abc"),
}


@pytest.mark.parametrize("what", BAD)
def test_the_schema_and_the_loader_refuse(what: str):
    data = example()
    BAD[what](data)
    assert list(VALIDATOR.iter_errors(data)), "the schema accepts it"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, Settings)
