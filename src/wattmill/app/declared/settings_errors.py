"""What is wrong with a declaration: every fault at once, each with its place, rule, value and way out.

The quick way (`msgspec.convert`) only says that something is wrong; this walk over data and types is taken
then, to find all of it and to name keys that msgspec abbreviates.
"""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Iterator
from math import isfinite
from typing import Annotated, Any

import msgspec

from wattmill.app.declared.problem import Problem

Path = tuple[str, ...]

# Where people paste a secret by mistake: what stands there is never repeated.
MAY_HOLD_SECRET = ("api_key_env", "api_key_file", "base_url", "proxy")
SECRET_WORDS = ("api_key", "apikey", "key", "token", "secret", "password")


def faults(data: Any, kind: Any, *, file: str, text: str) -> list[Problem]:
    """Return every fault of `data` as a value of type `kind`, in the order of the text."""
    found = [
        Problem(
            file=file,
            key=dotted(path),
            rule=rule,
            way_out=way_out,
            value=value,
            line=line_of(text, path),
        )
        for path, rule, way_out, value in _walk(data, kind, ())
    ]
    return sorted(found, key=lambda p: p.line or 0)


def endless(data: Any, *, file: str, text: str, path: Path = ()) -> list[Problem]:
    """Return the numbers of a declaration that are none: TOML has `nan` and `inf`, which pass a bound that
    is not there and make figures that say nothing."""
    if isinstance(data, dict):
        below = [(str(name), value) for name, value in data.items()]
    elif isinstance(data, list):
        below = [("", value) for value in data]
    else:
        if not isinstance(data, float) or isfinite(data):
            return []
        rule, way_out = "must be a finite number", "Leave the key out where there is no limit"
        at = tuple(name for name in path if name)
        return [
            Problem(
                file=file, key=dotted(at), rule=rule, way_out=way_out, value=str(data), line=line_of(text, at)
            )
        ]
    return [
        problem
        for name, value in below
        for problem in endless(value, file=file, text=text, path=(*path, name))
    ]


def syntax_fault(error: tomllib.TOMLDecodeError, *, file: str) -> Problem:
    """Return the fault of a text that is no TOML at all."""
    text = str(error)
    line = None
    if "(at line " in text:
        text, _, at = text.partition(" (at line ")
        line = int(at.split(",")[0])
    return Problem(
        file=file,
        key="",
        rule=f"not valid TOML: {text[:1].lower()}{text[1:]}",
        way_out="Text is quoted, tables are [in.brackets], each key stands once per table",
        line=line,
    )


_Fault = tuple[Path, str, str, "str | None"]


def _walk(data: Any, kind: Any, path: Path) -> Iterator[_Fault]:
    kind = _plain(kind)
    structs = _structs(kind)
    if structs and isinstance(data, dict):
        yield from _walk_struct(data, structs, path)
    elif typing.get_origin(kind) is dict and isinstance(data, dict):
        yield from _walk_table(data, kind, path)
    else:
        yield from _walk_value(data, kind, path)


def _walk_struct(data: dict[str, Any], structs: list[type[msgspec.Struct]], path: Path) -> Iterator[_Fault]:
    chosen = structs[0]
    tag_field = chosen.__struct_config__.tag_field
    if tag_field is not None and len(structs) > 1:
        by_tag = {str(s.__struct_config__.tag): s for s in structs}
        tag = data.get(tag_field)
        allowed = " or ".join(f'"{t}"' for t in by_tag)
        if tag is None:
            yield path, f"`{tag_field}` is missing", f"Write `{tag_field} = ` {allowed}", None
            return
        if tag not in by_tag:
            yield (*path, tag_field), f"must be {allowed}", _near(str(tag), by_tag), _toml(tag)
            return
        chosen = by_tag[tag]
    fields = {f.encode_name: f for f in msgspec.structs.fields(chosen)}
    known = [*fields, *([tag_field] if tag_field else [])]
    for name, value in data.items():
        if name in fields:
            yield from _walk(value, fields[name].type, (*path, name))
        elif name != tag_field:
            yield _unknown(name, value, known, path)
    for name, field in fields.items():
        if field.required and name not in data:
            words = _description(field.type)
            means = f", which means: {words}" if words else ""
            yield path, f"`{name}` is missing", f"Write `{name} = …`{means}", None


def _walk_table(data: dict[str, Any], kind: Any, path: Path) -> Iterator[_Fault]:
    key_kind, value_kind = typing.get_args(kind)
    for name, value in data.items():
        for _, rule, way_out, _ in _walk_value(name, key_kind, path):
            yield (*path, name), f"the name {rule}", way_out, None
        yield from _walk(value, value_kind, (*path, name))


def _walk_value(data: Any, kind: Any, path: Path) -> Iterator[_Fault]:
    try:
        msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        text = str(error).split(" - at `")[0]
        name = path[-1] if path else ""
        value = None if name in MAY_HOLD_SECRET else _toml(data)
        yield path, _rule(text, name, _choices(kind)), _way_out(name, data, _description(kind)), value


def _unknown(name: str, value: Any, known: list[str], path: Path) -> _Fault:
    if name in SECRET_WORDS:
        return (
            (*path, name),
            "secrets never stand in a declaration",
            "Name an environment variable (`api_key_env`) or a file (`api_key_file`) that holds it; treat "
            "what stood here as leaked",
            None,
        )
    return (*path, name), "unknown key", _near(name, known), None


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    listed = ", ".join(f"`{k}`" for k in known)
    return f"Did you mean `{near[0]}`?" if near else f"Known here: {listed}"


_WORDS = {
    "Expected `int`": "must be a whole number",
    "Expected `float`": "must be a number",
    "Expected `str`": "must be text in quotes",
    "Expected `bool`": "must be true or false",
    "Expected `array`": "must be a list",
    "Expected `object`": "must be a table",
    "Expected `object | array`": "must be a list or a table",
}


def _rule(text: str, name: str, choices: tuple[Any, ...]) -> str:
    """Return msgspec's words for people: what must hold. `choices` are the values that it may have."""
    if "matching regex" in text and "_usd" in name:
        return "must be dollars, 0 or more, as digits in quotes, nine at most after the point"
    if "matching regex" in text and name == "api_key_env":
        return "must be the name of an environment variable in capitals, never the key itself"
    if text.startswith("Invalid enum value"):
        return "must be " + " or ".join(_toml(value) for value in choices)
    if "matching regex" in text and name == "base_url":
        return "must be an address that begins with http:// or https://"
    if "matching regex" in text:
        return f"must match {text.split('matching regex ')[1]}".replace("\\\\", "\\")
    head, _, got = text.replace(" | null`", "`").partition(", got ")
    for known in sorted(_WORDS, key=len, reverse=True):
        if head.startswith(known):
            return (_WORDS[known] + head[len(known) :]).strip()
    return head[:1].lower() + head[1:] + (f", got {got}" if got else "")


def _way_out(name: str, data: Any, description: str) -> str:
    if "_usd" in name and isinstance(data, int | float) and not isinstance(data, bool):
        return f'Money is text, so that it stays exact: write {name} = "{data}"'
    if "_usd" in name:
        return 'Write for example "0.15"'
    return f"`{name}` means: {description}" if description else "`wattmill config schema` has every rule"


# --- types ------------------------------------------------------------------------------------------------


def _plain(kind: Any) -> Any:
    """Return `kind` without descriptions and without `None`, where what remains is a struct or a table."""
    bare = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    if typing.get_origin(bare) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(bare) if a is not type(None)]
        if len(rest) == 1 and (_structs(rest[0]) or typing.get_origin(rest[0]) is dict):
            return rest[0]
        if rest and all(_structs(a) for a in rest):
            return typing.Union[tuple(rest)]  # noqa: UP007 - made at run time
    return bare if _structs(bare) or typing.get_origin(bare) is dict else kind


def _structs(kind: Any) -> list[type[msgspec.Struct]]:
    """Return the structs that `kind` is or may be; none if it may be something else."""
    bare = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    options = typing.get_args(bare) if typing.get_origin(bare) in (typing.Union, types.UnionType) else (bare,)
    if all(isinstance(o, type) and issubclass(o, msgspec.Struct) for o in options):
        return list(options)
    return []


def _choices(kind: Any) -> tuple[Any, ...]:
    """Return the values that a `Literal` within `kind` allows, all of them if there are several."""
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    return tuple(one for part in typing.get_args(kind) for one in _choices(part))


def _description(kind: Any) -> str:
    if typing.get_origin(kind) is Annotated:
        for extra in kind.__metadata__:
            if isinstance(extra, msgspec.Meta) and extra.description:
                return extra.description
    return ""


# --- text -------------------------------------------------------------------------------------------------


def dotted(path: Path) -> str:
    """Return a key path as TOML writes it: `pools."my pool".slots`."""
    return ".".join(p if p and all(c.isalnum() or c in "_-" for c in p) else f'"{p}"' for p in path)


def _toml(value: Any) -> str:
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= 60 else text[:57] + "…"


def line_of(text: str, path: Path) -> int | None:
    """Return the line on which `path`, or the deepest table above it, is written.

    An inline table counts as the line on which it begins.
    """
    best: tuple[int, int] | None = None  # (depth, line)
    table: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("["):
            header = _keys_of(stripped + "\n")
            if header is None:
                continue
            table = here = header
        elif "=" in stripped and not stripped.startswith("#"):
            key = _keys_of(stripped.split("=", 1)[0] + "= 0\n")
            if key is None:
                continue
            here = table + key
        else:
            continue
        depth = len(here)
        if path[:depth] == here and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None


def _keys_of(line: str) -> Path | None:
    """Return the key path that one line of TOML opens or sets; None if it is part of something longer."""
    try:
        data: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return None
    path: list[str] = []
    while isinstance(data, dict) and data:
        name = next(iter(data))
        path.append(name)
        data = data[name]
    return tuple(path)
