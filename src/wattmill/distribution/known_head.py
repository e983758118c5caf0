"""A request whose head was read before: clients on a kept connection repeat themselves, but for the length.

Such a request is understood by comparing bytes (`known_length`), which costs a tenth. Everything else goes
the parser's way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wattmill.distribution.http import HttpRequest
from wattmill.distribution.known_length import AroundLength, around_length

if TYPE_CHECKING:
    from wattmill.distribution.gate import Gate
    from wattmill.distribution.known_body import KnownBody
    from wattmill.vocab.caller import Caller

Asked = tuple[str, frozenset[str] | None, int]
"""Class of the data, regions that may see it, steps of a cascade."""

_TRIES = 4


class KnownHead(AroundLength):
    """The bytes before and after the digits of the length, and what the request said."""

    __slots__ = ("body", "gates", "headers", "method", "path", "query", "said", "unlike")

    def __init__(self, before: bytes, after: bytes, request: HttpRequest) -> None:
        super().__init__(before, after)
        self.method = request.method
        self.path = request.path
        self.query = request.query
        self.headers = request.headers
        self.body: KnownBody | None = None  # of the last request that was read field by field
        self.unlike = _TRIES  # how many more bodies are learnt: a client may never repeat itself
        self.gates: tuple[tuple[Gate, ...], Caller, tuple[Gate, ...]] | None = None  # of all, those concerned
        self.said: tuple[Caller, Asked] | None = None  # what its headers say for a caller


def learn(data: bytes, request: HttpRequest) -> KnownHead | None:
    """Return what to know of `request`, which the parser has read from `data` and found good; None if its
    head depends on more than its bytes, or `data` holds anything else."""
    if request.refusal is not None or request.close or request.http10 or request.want_continue:
        return None
    around = around_length(data)
    if around is None or b"transfer-encoding" in request.headers or data[around[2] :] != request.body:
        return None
    return KnownHead(around[0], around[1], request)
