"""Files and batches as their owners see them, in OpenAI's shape, and how they are declared."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

PURPOSES = ("batch", "user_data")
OUTPUT = "batch_output"
ENDPOINTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
"""What a line may ask for, and what scopes of keys call it; all lines of a batch ask for the same."""

Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ENDED: frozenset[str] = frozenset({"failed", "completed", "expired", "cancelled"})
LANE = "lane"
"""Owner of the items that the lane works on: those it looks for when it begins."""

MAX_METADATA = 16
INSIDE = b"inside"
"""Scheme of the authorization of requests that a worker makes in the name of a key."""


class BatchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files and batches of clients (`/v1/files`, `/v1/batches`)."""

    tier: Annotated[
        str | None,
        Meta(
            description="Tier in which lines are served: its price is what they cost, its rank who goes "
            "first. Absent: `batch` if `[tiers]` declare one, else that of the key."
        ),
    ] = None
    at_once: Annotated[
        int, Meta(ge=1, le=1_024, description="Lines of all batches that are at work at the same time.")
    ] = 4
    most_lines: Annotated[int, Meta(ge=1, le=1_000_000, description="Lines of one batch.")] = 50_000
    most_running: Annotated[
        int, Meta(ge=1, le=10_000, description="Batches of one key or team that have not ended.")
    ] = 100
    keep_days: Annotated[
        float,
        Meta(gt=0, le=3_650, description="How long files, and batches that have ended, are kept, in days."),
    ] = 30.0
    scope: Annotated[
        Literal["key", "team"],
        Meta(description="Who finds a file or batch: the key that made it, or all keys of its team."),
    ] = "key"


class FileMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file beside its bytes."""

    filename: str
    purpose: str
    size: int
    key: int  # node of the key that made it


class Counts(msgspec.Struct, frozen=True):
    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One batch. Times are whole seconds, as clients expect them."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    key: int  # node of the key under which its lines are asked, and paid
    residency: str | None = None  # header of the request that made it: it holds for every line
    privacy: str = "internal"  # class of the data in it
    status: Status = "validating"
    errors: list[dict[str, Any]] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    counts: Counts = Counts()
    metadata: dict[str, str] | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an input file."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


NOTHING = msgspec.Raw(b"null")  # msgspec has no union of Raw and None


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A finished line, as it is kept until the batch ends."""

    custom_id: str
    status: int
    request_id: str
    body: msgspec.Raw = NOTHING  # the answer's JSON
    error: dict[str, str] | None = None
    privacy: str = "internal"  # class of the request: of its answer too

    @property
    def good(self) -> bool:
        return self.error is None and self.status < 300


def batch_object(batch: Batch) -> dict[str, Any]:
    """Return a batch as clients see it."""
    told = msgspec.structs.asdict(batch)
    for inner in ("key", "residency", "privacy", "counts"):
        del told[inner]
    told["errors"] = None if batch.errors is None else {"object": "list", "data": batch.errors}
    told["request_counts"] = msgspec.structs.asdict(batch.counts)
    return {"object": "batch", **told}


def file_object(id: str, meta: FileMeta, *, created_us: int, expires_us: int) -> dict[str, Any]:
    return {
        "id": id,
        "object": "file",
        "bytes": meta.size,
        "created_at": created_us // 1_000_000,
        "expires_at": expires_us // 1_000_000,
        "filename": meta.filename,
        "purpose": meta.purpose,
        "status": "processed",
    }
