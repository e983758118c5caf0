"""JSON bodies and query strings of the admin API, decoded once into frozen values."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from wattmill.web.errors import ApiError

BODY_MAX = 64 * 1024
T = TypeVar("T", bound=msgspec.Struct)


async def decoded(request: Request, kind: type[T]) -> T:
    """Return the body as `kind`; errors name the field, its rule and what was sent."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY_MAX:
            raise ApiError(413, "body_too_large", f"the body exceeds {BODY_MAX} bytes")
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, "bad_value", str(error), f"Fields: {', '.join(kind.__struct_fields__)}") from None


def queried(request: Request, kind: type[T]) -> T:
    """Return the query string as `kind`: a name it does not know is an error, not silence."""
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError as error:
        raise ApiError(
            400, "bad_value", str(error), f"Parameters: {', '.join(kind.__struct_fields__)}"
        ) from None


def answer(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
