"""Identifiers. A request's id tells where its records are: the epoch of its worker and its number there."""

from __future__ import annotations

from typing import NewType

RequestId = NewType("RequestId", str)
Epoch = NewType("Epoch", str)  # 12 hex digits, drawn when a worker starts; names its journal folder


def request_id(epoch: str, seq: int) -> RequestId:
    """Return the public id of the request whose first attempt is `seq` of `epoch`."""
    return f"req_{epoch}_{seq:x}"  # type: ignore[return-value]  # a NewType costs a call; this is on the hot path


def split_request_id(text: str) -> tuple[Epoch, int] | None:
    """Return (epoch, seq) of an id made by `request_id`, or None if it is no such id."""
    parts = text.strip().split("_")
    if len(parts) != 3 or parts[0] != "req" or len(parts[1]) != 12:
        return None
    try:
        int(parts[1], 16)
        return Epoch(parts[1]), int(parts[2], 16)
    except ValueError:
        return None
