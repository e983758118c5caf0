"""Asking over HTTP, with a limit of time and of size, by the standard library."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from wattmill.vocab.meter import MeterError

_MOST_BYTES = 16 * 1024 * 1024


def get(url: str, *, meter: str, headers: Mapping[str, str], timeout_s: float) -> bytes:
    """Return what `url` answers with 200. Raises `MeterError` that says what it did instead."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise MeterError(f"meter {meter!r}: {url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MeterError(
            f"meter {meter!r}: `at` is {url!r}, must be a URL such as http://127.0.0.1:9400/metrics"
        )
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.hostname, port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout_s)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"accept": "*/*", **headers})
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise MeterError(f"meter {meter!r}: {url}: {type(error).__name__}: {error}") from None
    finally:
        connection.close()
    if answer.status in (401, 403):
        raise MeterError(
            f"meter {meter!r}: {url} answers {answer.status}: it wants a login; name a variable with the "
            'whole header in `authorization_env`, e.g. "Basic dXNlcjpwYXNz"'
        )
    if answer.status != 200:
        raise MeterError(f"meter {meter!r}: {url} answers {answer.status} {answer.reason}")
    return body
