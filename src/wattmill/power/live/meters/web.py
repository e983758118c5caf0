"""Asking over HTTP, with a limit of time and of size, by the standard library."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from wattmill.power.spec import MeterConfig
from wattmill.vocab.meter import MeterError

_MOST_BYTES = 16 * 1024 * 1024


def fetched(url: str, config: MeterConfig) -> bytes:
    """Return what `url` answers, by a meter's own headers, time and authorities."""
    return get(
        url, meter=config.name, headers=config.headers, timeout_s=config.timeout_s, ca_file=config.ca_file
    )


def get(
    url: str, *, meter: str, headers: Mapping[str, str], timeout_s: float, ca_file: str | None = None
) -> bytes:
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
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise MeterError(f"meter {meter!r}: ca_file {ca_file!r} holds no certificate: {error}") from None
        connection = http.client.HTTPSConnection(parts.hostname, port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout_s)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"accept": "*/*", **headers})
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES)
    except ssl.SSLCertVerificationError as error:
        where = f"{parts.hostname}:{port or 443}"
        raise MeterError(
            f"meter {meter!r}: {url}: its certificate is not trusted ({error.verify_message}); save it "
            f"(`openssl s_client -connect {where} </dev/null | openssl x509 > bmc.pem`), look at it, "
            'and name it: ca_file = "bmc.pem"'
        ) from None
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
