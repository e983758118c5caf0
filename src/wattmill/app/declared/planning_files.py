"""Reading the files of the planner: from text to frozen values, or to a list of everything that is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from wattmill.app.declared import settings_errors
from wattmill.app.declared.problem import Problem
from wattmill.twin.planning.claims import Checked, Claims, checked

T = TypeVar("T")


def text_of(path: Path) -> str | list[Problem]:
    """Return the text of a file, or why there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        return [_of_file(path, f"cannot be read: {error.strerror}", "Check the path")]
    except UnicodeDecodeError as error:
        return [_of_file(path, f"is not UTF-8 at byte {error.start}", "Save it as UTF-8")]


def decoded(text: str, kind: type[T], *, file: str) -> T | list[Problem]:
    """Return the value of type `kind` that a TOML text holds, or all that is wrong with it."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return [settings_errors.syntax_fault(error, file=file)]
    if wrong := settings_errors.endless(data, file=file, text=text):
        return wrong
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        found = settings_errors.faults(data, kind, file=file, text=text)
        return found or [
            Problem(file=file, key="", rule=str(error), way_out="See docs/how-to/plan-a-factory.md")
        ]


def checked_claims(text: str, *, file: str) -> list[Checked] | list[Problem]:
    """Return the verdict on every claim of a text, or what in the text cannot be worked out."""
    claims = decoded(text, Claims, file=file)
    if isinstance(claims, list):
        return claims
    done: list[Checked] = []
    wrong: list[Problem] = []
    for name, claim in claims.claims.items():
        try:
            done.append(checked(name, claim))
        except ValueError as error:
            wrong.append(
                Problem(
                    file=file,
                    key=settings_errors.dotted(("claims", name)),
                    rule=str(error),
                    way_out="`wattmill check-claim --example` has claims of every kind",
                    line=settings_errors.line_of(text, ("claims", name)),
                )
            )
    return wrong or done


def _of_file(path: Path, rule: str, way_out: str) -> Problem:
    return Problem(file=str(path), key="", rule=rule, way_out=way_out)
