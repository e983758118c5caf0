"""One fault of a declaration, as a value and as a line for people."""

from __future__ import annotations

from typing import Literal

import msgspec


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of a declaration. `key` is a dotted path, `line` counts from 1; None: not known."""

    file: str
    key: str
    rule: str
    way_out: str
    value: str | None = None  # as TOML would write it; never of a secret
    line: int | None = None
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        value = "" if self.value is None else f" = {self.value}"
        head = f"{where}: {self.level}: " + (f"{self.key}{value}: " if self.key else "")
        stop = "" if self.way_out.endswith((".", "?")) else "."
        return f"{head}{self.rule}. {self.way_out}{stop}"
