"""One HTTP request as the gateway sees it, and the rules that httptools does not enforce.

llhttp (strict) already refuses: Content-Length with Transfer-Encoding, repeated or signed lengths, folded
headers, bare CR or LF, NUL, spaces before a colon. It lets through what `judge_header` and `judge_head`
refuse: a missing or repeated Host, a repeated Authorization, Transfer-Encoding in HTTP/1.0, codings before
`chunked`, HTTP/0.9, and trailers reported as if they were headers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from wattmill.vocab.refusal import Refusal

if TYPE_CHECKING:
    from wattmill.distribution.connection import Connection
    from wattmill.distribution.known_head import KnownHead

MAX_LABEL_CHARS = 128

WANTED = frozenset(
    (
        b"host",
        b"authorization",
        b"content-length",
        b"transfer-encoding",
        b"content-encoding",
        b"expect",
        b"x-request-id",
        b"x-wattmill-privacy",
        b"x-wattmill-residency",
        b"x-wattmill-escalate",
        b"x-wattmill-tier",
        b"idempotency-key",
        b"x-api-key",
        b"anthropic-version",
        b"cache-control",
        b"x-wattmill-run",
        b"x-wattmill-step",
        b"baggage",
    )
)
"""Header names, lower case, that are looked at. Nothing else is read, and none of them is forwarded."""

_NO_HOST = re.compile(rb"[ \t,@/\\]").search
_ONCE = WANTED - {b"x-request-id", b"baggage", b"cache-control"}
RUN_IN_URL = b"/run"  # no header can have this name: the run that the path begins with


class HttpRequest:
    """A complete request, or the reason why there is none (`refusal`)."""

    __slots__ = (
        "arrived_s",
        "body",
        "close",
        "conn",
        "headers",
        "http10",
        "known",
        "method",
        "path",
        "query",
        "refusal",
        "want_continue",
    )

    def __init__(self, conn: Connection, arrived_s: float) -> None:
        self.conn = conn
        self.arrived_s = arrived_s  # of its first byte
        self.method = b"GET"
        self.path = b""
        self.query = b""
        self.headers: dict[bytes, bytes] = {}  # the wanted ones, by lower-case name
        self.body = b""
        self.http10 = False
        self.close = False  # after its answer
        self.want_continue = False
        self.refusal: Refusal | None = None
        self.known: KnownHead | None = None  # its head was read before

    @property
    def label(self) -> str | None:
        """Return the client's own id if it is short and printable. Only a label, never trusted."""
        raw = self.headers.get(b"x-request-id")
        if not raw or len(raw) > MAX_LABEL_CHARS or not raw.isascii():
            return None
        text = raw.decode("ascii")
        return text if text.isprintable() else None


def judge_header(request: HttpRequest, name: bytes, value: bytes) -> Refusal | None:
    """Keep one header of interest; refuse a second one of a kind that decides who asks, what, or how long."""
    headers = request.headers
    if name in headers and name in _ONCE:
        shown = name.decode("ascii")
        return Refusal(code="bad_header", message=f"header {shown!r} is given more than once", param=shown)
    if name == b"baggage" and name in headers:
        value = headers[name] + b"," + value  # a list may come in several headers
    headers[name] = value
    return None


def judge_head(request: HttpRequest, *, version: str, body_limit: int) -> Refusal | None:
    """Return why the head of `request` cannot be served, looking only at what a parser lets through."""
    headers = request.headers
    if version == "1.0":
        request.http10 = True
    elif version != "1.1":
        return Refusal(code="bad_http", message=f"HTTP/{version} is not spoken here; use HTTP/1.1")
    host = headers.get(b"host")
    if host is None:
        if not request.http10:
            return Refusal(code="bad_header", message="header 'host' is missing", param="host")
    elif _NO_HOST(host):
        return Refusal(code="bad_header", message="header 'host' is not one host", param="host")
    coding = headers.get(b"transfer-encoding")
    if coding is not None:
        if request.http10:
            return Refusal(
                code="bad_header",
                message="HTTP/1.0 has no transfer-encoding; send content-length",
                param="transfer-encoding",
            )
        if coding.strip().lower() != b"chunked" or b"content-length" in headers:
            return Refusal(
                code="bad_header",
                message="header 'transfer-encoding' may only be 'chunked', and not beside a content-length",
                param="transfer-encoding",
            )
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
        return Refusal(
            code="bad_header",
            message="compressed bodies are not read; send the JSON as it is",
            param="content-encoding",
        )
    length = headers.get(b"content-length")
    if length is not None and int(length) > body_limit:
        return too_large(body_limit)
    expect = headers.get(b"expect")
    if expect is not None:
        if expect.strip().lower() != b"100-continue":
            return Refusal(
                code="bad_header", message="header 'expect' may only be '100-continue'", param="expect"
            )
        request.want_continue = not request.http10 and (coding is not None or bool(length and int(length)))
    return None


def too_large(body_limit: int) -> Refusal:
    return Refusal(
        code="body_too_large",
        message=f"the body exceeds {body_limit} bytes; send less, or raise limits.body_bytes",
    )


def path_of(target: bytes) -> bytes | None:
    """Return the decoded path of a request target (origin or absolute form), or None if it has none."""
    if target[:1] != b"/":
        if target == b"*":
            return b"*"
        scheme, found, rest = target.partition(b"://")
        if not found or scheme.lower() not in (b"http", b"https"):
            return None
        slash = rest.find(b"/")
        target = rest[slash:] if slash >= 0 else b"/"
    path = target.partition(b"?")[0].partition(b"#")[0]
    return unquote_to_bytes(path) if b"%" in path else path
