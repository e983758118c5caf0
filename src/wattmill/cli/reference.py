"""The reference pages, written from the code: `python -m wattmill.cli.reference docs/reference`.

Each page has one source: the settings' schema, the table of refusals, the table of metrics, the commands.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from wattmill.app.declared.pool_settings import Usd
from wattmill.app.declared.schema import demand_schema, settings_schema
from wattmill.app.seeing.factory_metrics import FACTORY_METRICS
from wattmill.app.simulating.demand import streams_schema
from wattmill.cli.application import command_of
from wattmill.cli.guides import EXAMPLES, page_of
from wattmill.cli.main import COMMANDS, app_name
from wattmill.distribution.metrics import METRICS
from wattmill.vocab.refusal import CODES

NOTE = "<!-- Written by `make docs` from {source}. Change it there. -->"

Schema = dict[str, Any]

USD_PATTERN = msgspec.json.schema(Usd)["pattern"]


def pages() -> dict[str, Callable[[], str]]:
    """Return the writers of all reference pages, by file name."""
    return {
        "declaration.md": declaration_page,
        "demand.md": demand_page,
        "streams.md": streams_page,
        "errors.md": errors_page,
        "metrics.md": metrics_page,
        "cli.md": cli_page,
    }


# --- the declaration --------------------------------------------------------------------------------------


def declaration_page() -> str:
    """Return every setting with its type, default, rule and meaning."""
    schema = settings_schema()
    lines = [
        "# The declaration: `wattmill.toml`",
        "",
        NOTE.format(source="src/wattmill/app/declared/settings.py"),
        "",
        "One file declares a factory. `wattmill init` writes a commented example, `wattmill config check`",
        "says what is wrong, `wattmill config show` what holds and where it comes from, and",
        "`wattmill config schema` prints the JSON schema for an editor.",
        "",
        'Unknown keys are errors. Names carry their unit. Money that is booked is text (`"0.15"`), so that',
        "it stays exact. Secrets never stand in the file: name an environment variable or a file that holds",
        "them. Relative paths are meant from the folder of the file.",
        "",
    ]
    return "\n".join([*lines, *_tables(schema, "Settings")]).rstrip() + "\n"


def demand_page() -> str:
    """Return every field of a demand file with its type, default, rule and meaning."""
    lines = [
        "# The demand: what `wattmill plan` is asked",
        "",
        NOTE.format(source="src/wattmill/twin/planning/demand.py"),
        "",
        "One file asks for a factory: what is wanted, within which limits, from which candidates. `wattmill",
        "plan FILE` answers it, and says everything that is wrong with it at once. `examples/` has some;",
        "[how to plan a factory](../how-to/plan-a-factory.md) walks through one.",
        "",
        "Unknown keys are errors. Names carry their unit. Money in a plan is an estimate and a plain number.",
        "A *figure* is a table of `value`, `source` (where it comes from, and when it was read), and `low`",
        "and `high` where it is not certain: its 80 % interval, from which the Monte-Carlo draws. Relative",
        "paths are meant from the folder of the file.",
        "",
    ]
    return "\n".join([*lines, *_tables(demand_schema(), "Demand")]).rstrip() + "\n"


def streams_page() -> str:
    """Return every field of a file of streams, which `wattmill simulate --demand` plays."""
    lines = [
        "# Streams: who asks in `wattmill simulate`",
        "",
        NOTE.format(source="src/wattmill/app/simulating/demand.py"),
        "",
        "`wattmill simulate --demand FILE.toml` plays several streams at once, each of them a trace that is",
        "replayed (`trace`), an open loop (`per_s`), or sessions whose next turn follows the answer (`per_s`",
        "and `turns`; each turn carries all that was said before). [How to](../how-to/simulate.md).",
        "",
        "Unknown keys are errors. Lengths are text: tokens `512`, a range `100-200`, or `p50 500 p95 2000`",
        "(log-normal). Relative paths are meant from the folder of the file.",
        "",
    ]
    defs: dict[str, Schema] = streams_schema()["$defs"]
    for path, name in ((("stream",), "StreamSettings"), (("stream", "clients"), "Who")):
        for heading, *rest in _section(path, defs[name], defs, required=path == ("stream",)):
            lines += [heading.replace("[", "[[").replace("]", "]]"), *rest]
    return "\n".join(lines).rstrip() + "\n"


def _tables(schema: Schema, root: str) -> list[str]:
    """Return the lines of all tables of a file, the root's own keys first."""
    defs: dict[str, Schema] = schema["$defs"]
    top = defs[root]
    must = top.get("required", ())
    plain = [
        _row(name, prop, name in must)
        for name, prop in top["properties"].items()
        if not _structs(prop, defs) and not _holds_structs(prop, defs)
    ]
    lines = []
    if plain:
        heads = ["| key | type | default | rule | meaning |", "|---|---|---|---|---|"]
        lines += ["## At the top of the file", "", *heads, *plain, ""]
    sections: dict[str, list[str]] = {}  # kinds of one table have the same tables inside: each is told once
    for name, prop in top["properties"].items():
        for section in _sections((name,), prop, defs, required=name in must):
            sections.setdefault(section[0], section)
    return lines + [line for section in sections.values() for line in section]


def _sections(
    path: tuple[str, ...], prop: Schema, defs: dict[str, Schema], *, required: bool
) -> Iterator[list[str]]:
    """Yield the section of a table, and the sections of the tables inside it, each as lines."""
    table = _table_of(prop)
    if table is not None:
        yield from _sections((*path, _placeholder(path)), table, defs, required=required)
    for struct in _structs(prop, defs):
        yield from _section(path, struct, defs, required=required)


def _section(
    path: tuple[str, ...], struct: Schema, defs: dict[str, Schema], *, required: bool
) -> Iterator[list[str]]:
    rows, inner, tag = [], [], ""
    must = struct.get("required", ())
    for name, prop in struct["properties"].items():
        if len(prop.get("enum", ())) == 1 and "description" not in prop:
            tag = f' with `{name} = "{prop["enum"][0]}"`'
        elif (_structs(prop, defs) or _holds_structs(prop, defs)) and not _is_figure(prop):
            inner.append((name, prop))
        else:
            rows.append(_row(name, prop, name in must))
    words = " ".join(struct.get("description", "").split())
    lines = [f"## `[{'.'.join(path)}]`{tag}", "", words + (" **Required.**" if required else ""), ""]
    if rows:
        lines += ["| key | type | default | rule | meaning |", "|---|---|---|---|---|", *rows, ""]
    yield lines
    for name, prop in inner:
        yield from _sections((*path, name), prop, defs, required=name in must)


def _row(name: str, prop: Schema, required: bool) -> str:
    kind, rule = _kind(prop)
    default = "**required**" if required else _code(prop.get("default"))
    example = ", ".join(_code(e) for e in prop.get("examples", ()))
    meaning = prop.get("description", "") + (f" Example: {example}." if example else "")
    return "| " + " | ".join(_cell(c) for c in (f"`{name}`", kind, default, rule, meaning)) + " |"


def _kind(prop: Schema) -> tuple[str, str]:
    """Return the type and the rule of a value in words."""
    if _is_figure(prop):
        return "figure", ""
    options = [o for o in prop.get("anyOf", [prop]) if o.get("type") != "null"]
    kinds, rules = zip(*(_one_kind(o) for o in options), strict=True)
    return " or ".join(dict.fromkeys(kinds)), " or ".join(dict.fromkeys(r for r in rules if r))


def _one_kind(prop: Schema) -> tuple[str, str]:
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "array": "list",
        "object": "table",
    }
    if "enum" in prop:
        return "text", " or ".join(_code(v) for v in prop["enum"] if v is not None)
    bounds = [
        f"{sign} {prop[key]}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in prop
    ]
    if prop.get("minItems") or prop.get("minProperties") or prop.get("minLength"):
        bounds.append("not empty")
    if "maxLength" in prop:
        bounds.append(f"at most {prop['maxLength']} characters")
    if "pattern" in prop:
        bounds.append("digits, in quotes" if prop["pattern"] == USD_PATTERN else f"`{prop['pattern']}`")
    return words.get(prop.get("type", ""), "value"), ", ".join(bounds)


def _structs(prop: Schema, defs: dict[str, Schema]) -> list[Schema]:
    """Return the tables with fixed keys that a value is or may be."""
    options = [o for o in prop.get("anyOf", [prop]) if o.get("type") != "null"]
    if len(options) == 1 and "anyOf" in options[0]:  # kinds of one table that may be left out
        options = options[0]["anyOf"]
    if options and all("$ref" in o for o in options):
        return [defs[o["$ref"].rsplit("/", 1)[1]] for o in options]
    return []


def _is_figure(prop: Schema) -> bool:
    """True for a value with its source and interval, which is told once for the whole page."""
    options = [o.get("$ref", "") for o in prop.get("anyOf", [prop]) if o.get("type") != "null"]
    return len(options) == 1 and options[0].endswith("/Given")


def _table_of(prop: Schema) -> Schema | None:
    inner = prop.get("additionalProperties")
    return inner if isinstance(inner, dict) else None


def _holds_structs(prop: Schema, defs: dict[str, Schema]) -> bool:
    inner = _table_of(prop)
    return inner is not None and (bool(_structs(inner, defs)) or _holds_structs(inner, defs))


def _placeholder(path: tuple[str, ...]) -> str:
    if path == ("prices",):
        return "BOOK"
    if path[0] == "prices":
        return "MODEL"
    return {"tenants": "ORG", "teams": "TEAM", "classes": "CLASS"}.get(path[-1], "NAME")


def _code(value: Any) -> str:
    return "—" if value is None else f"`{msgspec.json.encode(value).decode()}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- errors and metrics -----------------------------------------------------------------------------------


def errors_page() -> str:
    """Return every refusal code with its status, type and whether waiting can cure it."""
    lines = [
        "# Errors",
        "",
        NOTE.format(source="src/wattmill/vocab/refusal.py"),
        "",
        "Every error has OpenAI's shape, so that any client library understands it:",
        "",
        "```json",
        '{"error": {"message": "…", "type": "…", "code": "…", "param": null, "request_id": "req_…"}}',
        "```",
        "",
        "`message` says what was wrong, the value and the way out; `code` is one of these. Where waiting can",
        "cure it the answer may carry `retry-after`; where it cannot, it carries `x-should-retry: false`,",
        "which the OpenAI clients obey.",
        "",
        "| code | HTTP | type | retry | meaning |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{name}` | {code.status} | `{code.type}` | {_yes(code.retry)} | {_cell(code.meaning)} |"
        for name, code in CODES.items()
    ]
    return "\n".join(lines) + "\n"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def metrics_page() -> str:
    """Return every metric of the gateway with its type, labels and meaning."""
    lines = [
        "# Metrics",
        "",
        NOTE.format(source="src/wattmill/distribution/metrics.py"),
        "",
        "`GET /metrics` on the admin listener, in Prometheus' text format, summed over the workers. Every",
        "label has a closed set of values: no client can add one.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for metric in (*METRICS, *FACTORY_METRICS):
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "—"
        meaning = metric.help
        if metric.buckets:
            meaning += " Buckets (s): " + ", ".join(f"{b:g}" for b in metric.buckets) + "."
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


# --- commands ---------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Return every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        NOTE.format(source="src/wattmill/cli/"),
        "",
        "Each command answers one question. Output for people is a table with units; `--json`, where a",
        "command has it, gives the same facts to programs. The exit code is 0 when it worked, 1 when the",
        "answer is no, 2 when the command was not understood. `--help` of each says the same.",
        "",
    ]
    for name, (module, summary) in COMMANDS.items():
        app = getattr(importlib.import_module(module), app_name(name))
        lines += _command_section(name, command_of(app, name, summary), summary)
    return "\n".join(lines).rstrip() + "\n"


def _command_section(path: str, command: Any, summary: str) -> Iterator[str]:
    subcommands: dict[str, Any] = getattr(command, "commands", {})
    words = [_argument(p) for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts]
    page = f"../{page_of(path).removeprefix('docs/')}".replace("../reference/", "")
    yield f"## `{' '.join(['wattmill', path, *words])}`"
    yield ""
    yield f"{_paragraphs(command.help or summary)} [More]({page})."
    yield ""
    arguments = [p for p in command.params if p.param_type_name == "argument" and getattr(p, "help", None)]
    if arguments or options:
        yield "| argument or option | default | meaning |"
        yield "|---|---|---|"
        for param in arguments:
            yield f"| `{_argument(param)}` | {_default(param)} | {_cell(param.help or '')} |"
        for param in options:
            names = ", ".join([*param.opts, *param.secondary_opts])
            meaning = (param.help or "") + (f" Environment: `{param.envvar}`." if param.envvar else "")
            yield f"| `{names}` | {_default(param)} | {_cell(meaning)} |"
        yield ""
    if examples := EXAMPLES.get(path):
        yield from ("```sh", *(f"wattmill {example}" for example in examples), "```", "")
    for name, inner in subcommands.items():
        yield from _command_section(f"{path} {name}", inner, "")


def _argument(param: Any) -> str:
    name = param.metavar or (param.name or "").upper()
    return name if param.required or name.startswith("[") else f"[{name}]"


def _default(param: Any) -> str:
    value = param.default
    if param.required:
        return "**required**"
    if value is None or value is False or callable(value) or value in ((), [], ""):
        return "—"
    return f"`{value}`"


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def main(folder: Path) -> None:
    """Write all pages into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in pages().items():
        (folder / name).write_text(write(), encoding="utf-8")
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference"))
