"""Errors of the admin API: one JSON shape with a code, what was wrong and the way out."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from wattmill.ledger.stores.control_records import ControlError, NoSuch, Taken


class ApiError(Exception):
    """An expected no. `help` is the way out: a command or what to send instead."""

    def __init__(self, status: int, code: str, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.help = status, code, help


def error_response(status: int, code: str, message: str, help: str | None = None) -> Response:
    """Return `{"error": {"code", "message", "help"}}`."""
    body = msgspec.json.encode({"error": {"code": code, "message": message, "help": help}})
    headers = {"www-authenticate": 'Bearer realm="wattmill"'} if status == 401 else None
    return Response(body, status, headers, "application/json")


def control_error(error: ControlError) -> Response:
    """Return what the control database refused, in its own words."""
    match error:
        case NoSuch():
            return error_response(404, "not_found", str(error))
        case Taken():
            return error_response(409, "taken", str(error))
        case _:
            return error_response(400, "bad_value", str(error))
