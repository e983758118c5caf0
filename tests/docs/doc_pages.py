"""Reads the pages of `docs/` as scripts: what a reader types, in order, and what must come of it.

    ```console                 each line after `$ ` is typed; the lines below it must come back
    ```console background      the command stays, as in a terminal of its own
    ```console not-run: WHY    shown only, with the reason
    ```python file=ask.py      the block is a file in the reader's folder
    <!-- test: COMMAND -->     typed by the test only: what the reader has that a test has not
    <!-- test background: COMMAND -->

In expected output `…` stands for anything, and lines may be left out: each shown line must occur, in order.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Literal

FENCE = re.compile(
    r"^```(?P<lang>\w+)(?: (?P<info>[^\n]*))?\n(?P<body>.*?)^```$"
    r"|^<!-- test(?P<behind> background)?: (?P<hidden>.*?) -->$",
    re.MULTILINE | re.DOTALL,
)
KNOWN_INFO = re.compile(r"^(background|not-run: \S.*|file=[\w./-]+|)$")


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that the reader does."""

    line: int  # in the page
    kind: Literal["type", "background", "write"]
    text: str  # the command, or the content of the file
    expected: tuple[str, ...] = ()
    file: str | None = None


def steps(page: str) -> list[Step]:
    """Return what a reader of `page` (its text) does, in order. Raises ValueError on an unreadable block."""
    found: list[Step] = []
    for match in FENCE.finditer(page):
        line = page.count("\n", 0, match.start()) + 1
        if match["hidden"]:
            found.append(Step(line, "background" if match["behind"] else "type", match["hidden"]))
            continue
        lang, info, body = match["lang"], match["info"] or "", match["body"]
        if not KNOWN_INFO.match(info):
            raise ValueError(f"line {line}: {info!r} is no mark of a block; see {Path(__file__).name}")
        if info.startswith("not-run"):
            continue
        if info.startswith("file="):
            found.append(Step(line, "write", body, file=info.removeprefix("file=")))
        elif lang == "console":
            found += _typed(body, line, "background" if info == "background" else "type")
        elif lang in {"sh", "bash", "shell"}:
            raise ValueError(f"line {line}: a {lang} block is not run; make it `console` with `$ `")
    return found


def _typed(body: str, line: int, kind: Literal["type", "background"]) -> list[Step]:
    """Split a console block into commands with the output shown below each; `> ` continues a command."""
    out: list[Step] = []
    for offset, text in enumerate(body.splitlines(), start=1):
        if text.startswith("$ "):
            out.append(Step(line + offset, kind, text[2:]))
        elif not out:
            raise ValueError(f"line {line + offset}: a console block begins with `$ `, got {text!r}")
        elif text.startswith("> ") and not out[-1].expected:
            out[-1] = dataclasses.replace(out[-1], text=f"{out[-1].text}\n{text[2:]}")
        elif text.strip():
            out[-1] = dataclasses.replace(out[-1], expected=(*out[-1].expected, text))
    return out


def missing_line(expected: tuple[str, ...], output: str) -> str | None:
    """Return the first shown line that does not occur in `output` after the ones before it, or None."""
    lines = [_squeezed(line) for line in output.splitlines()]
    at = 0
    for shown in expected:
        if shown.strip() == "…":
            continue
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in _squeezed(shown).split("…")))
        for index in range(at, len(lines)):
            if pattern.search(lines[index]):
                at = index + 1
                break
        else:
            return shown
    return None


def _squeezed(line: str) -> str:
    """Widths of columns follow their content, so any run of blanks counts as one."""
    return " ".join(line.split())
