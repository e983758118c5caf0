"""The side doors `/v1/files` and `/v1/batches`, in OpenAI's shape."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec

from wattmill.app.batches.shelf import BatchShelf, Kept
from wattmill.app.batches.spec import (
    ENDED,
    ENDPOINTS,
    MAX_METADATA,
    PURPOSES,
    Batch,
    FileMeta,
    batch_object,
    file_object,
)
from wattmill.app.batches.upload import read_form
from wattmill.app.kept.spec import KeptUnavailable, NoRoom
from wattmill.app.runs.named import named
from wattmill.distribution.side_door import SideAnswer, SideDoor, SideRequest
from wattmill.units import US_PER_S, whole_from
from wattmill.vocab.caller import PRIVACY_CLASSES, out_of_scope
from wattmill.vocab.refusal import Refusal

_encode = msgspec.json.Encoder().encode
_WINDOW = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
_MOST_WINDOW_S = 30 * 86_400
_MOST_LISTED = 100
_RANK = {name: rank for rank, name in enumerate(PRIVACY_CLASSES)}


def batch_doors(shelf: BatchShelf, woken: Callable[[], None]) -> dict[bytes, SideDoor]:
    """Return the side doors. `woken` tells the lane of this worker that there is something new."""
    return {b"/v1/files": _Guarded(_files(shelf)), b"/v1/batches": _Guarded(_batches(shelf, woken))}


class _Asked(msgspec.Struct, frozen=True):
    """A request, with the most sensitive class that it works with."""

    request: SideRequest
    privacy: str
    node: int


_Serve = Callable[[SideRequest], Any]


class _Guarded:
    """Turns what the store raises into answers."""

    def __init__(self, serve: _Serve) -> None:
        self._serve = serve

    async def __call__(self, request: SideRequest) -> SideAnswer | Refusal:
        try:
            answer: SideAnswer | Refusal = await self._serve(request)
        except KeptUnavailable as error:
            return Refusal(code="kept_unavailable", message=str(error), retry_after_s=2.0)
        except NoRoom as error:
            return Refusal(code="no_room", message=str(error))
        return answer


def _files(shelf: BatchShelf) -> _Serve:
    async def serve(request: SideRequest) -> SideAnswer | Refusal:
        asked = _asked(shelf, request)
        if isinstance(asked, Refusal):
            return asked
        match request.method, request.path.decode("utf-8", "replace").split("/")[3:]:
            case b"POST", [] | [""]:
                return await _upload(shelf, asked)
            case b"GET", [] | [""]:
                return await _list_files(shelf, asked)
            case b"GET", [id]:
                found = await shelf.file(asked.node, id, privacy=asked.privacy)
                if found is None:
                    return _no("file", id)
                item, meta = found
                told = file_object(id, meta, created_us=item.created_us, expires_us=item.expires_us)
                return SideAnswer(_encode(told))
            case b"GET", [id, "content"]:
                found = await shelf.file(asked.node, id, privacy=asked.privacy)
                if found is None:
                    return _no("file", id)
                return SideAnswer(found[0].body, content_type=b"application/octet-stream")
            case b"DELETE", [id]:
                if await shelf.file(asked.node, id, privacy=asked.privacy) is None:
                    return _no("file", id)
                await shelf.delete_file(asked.node, id)
                return SideAnswer(_encode({"id": id, "object": "file", "deleted": True}))
            case _, [] | [_] | [_, "content"]:
                return _method(request, "GET or POST /v1/files, GET or DELETE /v1/files/ID")
        return _unknown(request, "/v1/files, /v1/files/ID, /v1/files/ID/content")

    return serve


async def _upload(shelf: BatchShelf, asked: _Asked) -> SideAnswer | Refusal:
    form = await asyncio.to_thread(read_form, asked.request.body)
    if isinstance(form, Refusal):
        return form
    if form.content is None:
        return Refusal(code="bad_value", message="the form has no part 'file'", param="file")
    purpose = form.fields.get("purpose", "")
    if purpose not in PURPOSES:
        known = ", ".join(PURPOSES)
        text = f"'purpose' must be one of {known}, got {purpose[:64]!r}"
        return Refusal(code="bad_value", message=text, param="purpose")
    keep_s: float | None = None
    seconds = form.fields.get("expires_after[seconds]")
    if seconds is not None:
        if not 3_600 <= (whole_from(seconds) or 0) <= 2_592_000:
            text = f"'expires_after[seconds]' must be from 3600 to 2592000, got {seconds[:20]!r}"
            return Refusal(code="bad_value", message=text, param="expires_after")
        keep_s = float(seconds)
    meta = FileMeta(
        filename=(form.filename or "file")[:256],
        purpose=purpose,
        size=len(form.content),
        key=asked.request.caller.key,
    )
    item = await shelf.add_file(asked.node, meta, form.content, privacy=asked.privacy, keep_s=keep_s)
    return SideAnswer(
        _encode(file_object(item.id, meta, created_us=item.created_us, expires_us=item.expires_us))
    )


async def _list_files(shelf: BatchShelf, asked: _Asked) -> SideAnswer | Refusal:
    page = _page(asked.request, most=10_000, usual=10_000)
    if isinstance(page, Refusal):
        return page
    after, limit, query = page
    purpose = query.get("purpose", [None])[0]
    found = await shelf.files(
        asked.node, privacy=asked.privacy, after=after, limit=limit + 1, purpose=purpose
    )
    objects = [
        file_object(id, meta, created_us=created_us, expires_us=expires_us)
        for id, meta, created_us, expires_us in found
    ]
    return _listed(objects, limit)


# --- batches ---------------------------------------------------------------------------------------------


class _New(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says of a new batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Annotated[dict[str, str], msgspec.Meta(max_length=MAX_METADATA)] | None = None


_new = msgspec.json.Decoder(_New).decode


def _batches(shelf: BatchShelf, woken: Callable[[], None]) -> _Serve:
    async def serve(request: SideRequest) -> SideAnswer | Refusal:
        asked = _asked(shelf, request)
        if isinstance(asked, Refusal):
            return asked
        match request.method, request.path.decode("utf-8", "replace").split("/")[3:]:
            case b"POST", [] | [""]:
                made = await _create(shelf, asked)
                woken()
                return made
            case b"GET", [] | [""]:
                page = _page(request, most=_MOST_LISTED, usual=20)
                if isinstance(page, Refusal):
                    return page
                after, limit, _ = page
                found = await shelf.batches(asked.node, privacy=asked.privacy, after=after, limit=limit + 1)
                return _listed([batch_object(batch) for batch in found], limit)
            case b"GET", [id]:
                kept = await shelf.batch(asked.node, id, privacy=asked.privacy)
                return _no("batch", id) if kept is None else _told(kept)
            case b"POST", [id, "cancel"]:
                answer = await _cancel(shelf, asked, id)
                woken()
                return answer
            case _, [] | [_] | [_, "cancel"]:
                return _method(request, "GET or POST /v1/batches, GET /v1/batches/ID, POST .../cancel")
        return _unknown(request, "/v1/batches, /v1/batches/ID, /v1/batches/ID/cancel")

    return serve


async def _create(shelf: BatchShelf, asked: _Asked) -> SideAnswer | Refusal:
    refusal = _in_a_run(asked.request)
    if refusal is not None:
        return refusal
    try:
        new = _new(asked.request.body)
    except (msgspec.MsgspecError, RecursionError) as error:
        return Refusal(code="bad_value", message=f"the batch cannot be read: {error}")
    if new.endpoint not in ENDPOINTS:
        known = ", ".join(ENDPOINTS)
        text = f"'endpoint' must be one of {known}, got {new.endpoint[:64]!r}"
        return Refusal(code="bad_value", message=text, param="endpoint")
    refusal = out_of_scope(asked.request.caller, endpoint=ENDPOINTS[new.endpoint])
    if refusal is not None:
        return refusal
    window = _WINDOW.fullmatch(new.completion_window)
    window_s = int(window[1]) * _SECONDS[window[2]] if window else 0
    if not 0 < window_s <= _MOST_WINDOW_S:
        text = f"'completion_window' must be such as '24h', '90m' or '7d', got {new.completion_window[:20]!r}"
        return Refusal(code="bad_value", message=text, param="completion_window")
    found = await shelf.file(asked.node, new.input_file_id, privacy=asked.privacy)
    if found is None:
        return _no("file", new.input_file_id)
    item, meta = found
    if meta.purpose != "batch":
        text = f"file {item.id} has purpose {meta.purpose!r}; upload it with purpose 'batch'"
        return Refusal(code="bad_value", message=text, param="input_file_id")
    most = shelf.settings().most_running
    running = sum(node == asked.node for node, _ in await shelf.running())
    if running >= most:
        return Refusal(
            code="too_many_batches",
            message=f"{running} batches are running already, at most {most} may (batches.most_running)",
            retry_after_s=60.0,
        )
    now = int(shelf.wall_us() // US_PER_S)
    residency = asked.request.headers.get(b"x-wattmill-residency")
    batch = Batch(
        id=f"batch_{secrets.token_hex(12)}",
        endpoint=new.endpoint,
        input_file_id=item.id,
        completion_window=new.completion_window,
        created_at=now,
        expires_at=now + window_s,
        key=asked.request.caller.key,
        residency=None if residency is None else residency.decode("latin-1"),
        privacy=max(item.data_class, asked.privacy, key=_RANK.__getitem__),
        metadata=new.metadata,
    )
    await shelf.add_batch(asked.node, batch)
    return SideAnswer(_encode(batch_object(batch)))


def _in_a_run(request: SideRequest) -> Refusal | None:
    """A batch outlives the run that began it, and its lines are asked by the key alone: a run's budget would
    not hold them, so it is not made there."""
    said = named(request.headers)
    if isinstance(said, Refusal):
        return said
    if said[0] is not None:
        return Refusal(
            code="field_refused",
            message="a batch is not part of a run, whose budget would not hold it: send POST /v1/batches "
            "without the run (its URL, header x-wattmill-run and baggage), and the key pays",
            param="x-wattmill-run",
        )
    if request.caller.requires_run:
        return Refusal(
            code="run_required",
            message=f"key {request.caller.name!r} serves nothing outside of a run, and a batch is not part "
            "of one; use another key for batches",
        )
    return None


async def _cancel(shelf: BatchShelf, asked: _Asked, id: str) -> SideAnswer | Refusal:
    while True:
        kept = await shelf.batch(asked.node, id, privacy=asked.privacy)
        if kept is None:
            return _no("batch", id)
        batch = kept.batch
        if batch.status in ENDED or batch.status == "finalizing":
            text = f"batch {id} cannot be cancelled any more: it is {batch.status}"
            return Refusal(code="bad_value", message=text)
        if batch.status == "cancelling":
            return _told(kept)
        now = int(shelf.wall_us() // US_PER_S)
        changed = await shelf.change(
            kept, msgspec.structs.replace(batch, status="cancelling", cancelling_at=now)
        )
        if changed is not None:
            return _told(changed)


# --- what both share -------------------------------------------------------------------------------------


def _asked(shelf: BatchShelf, request: SideRequest) -> _Asked | Refusal:
    caller = request.caller
    privacy = caller.privacy
    said = request.headers.get(b"x-wattmill-privacy")
    if said is not None:
        named = said.decode("latin-1").strip().lower()
        if named not in _RANK:
            return Refusal(
                code="bad_header",
                message=f"header 'x-wattmill-privacy' must be one of {', '.join(_RANK)}, got {named[:64]!r}",
                param="x-wattmill-privacy",
            )
        privacy = max(privacy, named, key=_RANK.__getitem__)
    return _Asked(request, privacy, shelf.scope(caller))


def _page(request: SideRequest, *, most: int, usual: int) -> tuple[str, int, dict[str, list[str]]] | Refusal:
    query: dict[str, list[str]] = parse_qs(request.query.decode("latin-1"))
    text = query.get("limit", [str(usual)])[0]
    limit = whole_from(text) or 0
    if not 1 <= limit <= most:
        no = f"'limit' must be from 1 to {most}, got {text[:20]!r}"
        return Refusal(code="bad_value", message=no, param="limit")
    return query.get("after", [""])[0], limit, query


def _listed(objects: list[dict[str, Any]], limit: int) -> SideAnswer:
    page = objects[:limit]
    return SideAnswer(
        _encode(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(objects) > limit,
            }
        )
    )


def _told(kept: Kept) -> SideAnswer:
    return SideAnswer(_encode(batch_object(kept.batch)))


def _no(noun: str, id: str) -> Refusal:
    return Refusal(code="no_such_item", message=f"no {noun} {id[:80]!r} for this key", param="id")


def _unknown(request: SideRequest, known: str) -> Refusal:
    shown = request.path[:200].decode("utf-8", "replace")
    return Refusal(code="not_found", message=f"no path {shown!r} here; there are {known}")


def _method(request: SideRequest, verbs: str) -> Refusal:
    method = request.method.decode("latin-1")
    return Refusal(code="method_not_allowed", message=f"{method} is not allowed on this path; use {verbs}")
