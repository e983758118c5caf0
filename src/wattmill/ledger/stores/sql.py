"""The little SQL that the escrow speaks, so that its law is written once for SQLite and PostgreSQL.

Named parameters (`:name`), no functions that one of them lacks. `sqlite3.Connection` is one of these as it
is; `stores.postgres` makes one of a psycopg connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class Rows(Protocol):
    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Db(Protocol):
    """A connection inside a transaction of the caller."""

    def execute(self, sql: str, parameters: Mapping[str, Any] = ..., /) -> Rows: ...
