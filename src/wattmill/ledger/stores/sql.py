"""The little SQL that the escrow speaks, so that its law is written once for SQLite and PostgreSQL.

Named parameters (`:name`), no functions that one of them lacks. `sqlite3.Connection` is one of these as it
is; `stores.postgres` makes one of a psycopg connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol


class Rows(Protocol):
    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Db(Protocol):
    """A connection inside a transaction of the caller."""

    def execute(self, sql: str, parameters: Mapping[str, Any] = ..., /) -> Rows: ...


def any_of(values: Sequence[int]) -> tuple[str, dict[str, int]]:
    """Return what stands behind `column IN` for some values, and its parameters."""
    named = {f"any_{_letters(n)}": value for n, value in enumerate(values)}
    return f"({', '.join(f':{name}' for name in named)})", named


def _letters(n: int) -> str:
    word = ""
    while True:
        n, letter = divmod(n, 26)
        word += chr(ord("a") + letter)
        if not n:
            return word
