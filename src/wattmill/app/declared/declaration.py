"""Reading a declaration: from text to frozen settings, or to a list of everything that is wrong with it."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from wattmill.app.declared.problem import Problem
from wattmill.app.declared.settings import Settings

FILE_NAME = "wattmill.toml"
EXAMPLE = "built-in example"
"""Stands for a file name where the example runs without one."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A declaration that holds together. `settings` has absolute paths, `text` is what was written."""

    settings: Settings
    text: str
    file: str  # path, or EXAMPLE
    warnings: tuple[Problem, ...] = ()


def example_text() -> str:
    """Return the declaration that `wattmill up` runs without a file and `wattmill init` writes."""
    return (importlib.resources.files("wattmill") / "data" / "example.toml").read_text(encoding="utf-8")


def load(path: Path | None, env: Mapping[str, str]) -> Loaded | list[Problem]:
    """Read the declaration at `path`; None means `wattmill.toml` in the working folder, else the example."""
    if path is None:
        path = Path(FILE_NAME)
        if not path.exists():
            return decode(example_text(), file=EXAMPLE, folder=Path.cwd(), env=env)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        way_out = (
            f"`wattmill init {path}` writes one" if not path.exists() else "Make it readable for this user"
        )
        return [_file_problem(path, f"cannot be read: {error.strerror}", way_out)]
    except UnicodeDecodeError as error:
        return [_file_problem(path, f"is not UTF-8 at byte {error.start}", "Save it as UTF-8")]
    return decode(text, file=str(path), folder=path.resolve().parent, env=env)


def decode(text: str, *, file: str, folder: Path, env: Mapping[str, str]) -> Loaded | list[Problem]:
    """Return the settings that `text` declares, or all that is wrong with them.

    Relative paths in it are meant from `folder`. `env` is asked which provider keys exist, never for more.
    """
    import tomllib

    from wattmill.app.declared import settings_checks, settings_errors

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return [settings_errors.syntax_fault(error, file=file)]
    if wrong := settings_errors.endless(data, file=file, text=text):
        return wrong
    try:
        settings = msgspec.convert(data, Settings)
    except msgspec.ValidationError as error:
        found = settings_errors.faults(data, Settings, file=file, text=text)
        return found or [
            Problem(file=file, key="", rule=str(error), way_out="See docs/reference/declaration.md")
        ]
    settings = with_absolute_paths(settings, folder)
    problems = settings_checks.problems(settings, file=file, text=text, env=env)
    if any(p.level == "error" for p in problems):
        return problems
    return Loaded(settings=settings, text=text, file=file, warnings=tuple(problems))


def stored(settings: Settings) -> str:
    """Return settings as text for the control database: complete, with absolute paths and without secrets."""
    return msgspec.json.encode(settings).decode()


def restored(text: str) -> Settings:
    """Return what `stored` wrote. Raises `msgspec.ValidationError` on anything else."""
    return msgspec.json.decode(text, type=Settings)


def with_absolute_paths(settings: Settings, folder: Path) -> Settings:
    """Return `settings` with every relative file name resolved from `folder`."""
    from wattmill.app.declared.pool_settings import EmbeddedPool, Pool

    def absolute(name: str | None) -> str | None:
        return None if name is None else os.path.join(folder, os.path.expanduser(name))

    def weights(name: str) -> str:
        return str(absolute(name)) if name.endswith(".gguf") else name

    replace = msgspec.structs.replace
    pools: dict[str, Pool] = {}
    for name, pool in settings.pools.items():
        twin = pool.twin and replace(pool.twin, calibration=absolute(pool.twin.calibration))
        if isinstance(pool, EmbeddedPool):
            pools[name] = replace(pool, weights=weights(pool.weights), twin=twin)
        else:
            stand_in = pool.stand_in and replace(pool.stand_in, weights=weights(pool.stand_in.weights))
            pools[name] = replace(
                pool,
                api_key_file=absolute(pool.api_key_file),
                ca_file=absolute(pool.ca_file),
                stand_in=stand_in,
                twin=twin,
            )
    tls = settings.gateway.tls
    tls = replace(tls, cert_file=absolute(tls.cert_file), key_file=absolute(tls.key_file))
    meters = {
        name: replace(
            meter,
            at=str(absolute(meter.at)) if meter.source == "replay" and meter.at else meter.at,
            ca_file=absolute(meter.ca_file),
        )
        for name, meter in settings.meters.items()
    }
    return replace(settings, pools=pools, meters=meters, gateway=replace(settings.gateway, tls=tls))


def _file_problem(path: Path, rule: str, way_out: str) -> Problem:
    return Problem(file=str(path), key="", rule=rule, way_out=way_out)
