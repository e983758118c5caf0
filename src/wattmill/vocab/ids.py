"""Identifiers. A request's id tells where its records are: the epoch of its worker and its number there."""

from __future__ import annotations

import re
from typing import NewType

RequestId = NewType("RequestId", str)
Epoch = NewType("Epoch", str)  # 12 hex digits, drawn when a worker starts; names its journal folder


_ID = re.compile("req_([0-9a-f]{12})_([0-9a-f]{1,15})")  # a number that fits a database's integers


def request_id(epoch: str, seq: int) -> RequestId:
    """Return the public id of the request whose first attempt is `seq` of `epoch`."""
    return f"req_{epoch}_{seq:x}"  # type: ignore[return-value]  # a NewType costs a call; this is on the hot path


def split_request_id(text: str) -> tuple[Epoch, int] | None:
    """Return (epoch, seq) of an id made by `request_id`, or None if it is no such id."""
    found = _ID.fullmatch(text.strip())
    return None if found is None else (Epoch(found[1]), int(found[2], 16))
