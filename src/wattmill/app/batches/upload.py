"""A multipart form with one file in it. The library's mail parser reads the few lines before each part; the
parts themselves are cut out by their boundary, as it would take seconds for a body of short lines.
"""

from __future__ import annotations

import msgspec

from wattmill.vocab.refusal import Refusal

_MOST_PARTS = 64
_MOST_HEAD_BYTES = 8_192
_PLAIN = ("", "7bit", "8bit", "binary")


class Form(msgspec.Struct, frozen=True):
    fields: dict[str, str]
    filename: str | None
    content: bytes | None  # of the part "file"


def read_form(body: bytes) -> Form | Refusal:
    """Read `body`; its first line names the boundary, so no header is needed. Run it in a thread."""
    import email
    import email.policy

    line, found, _ = body[:256].partition(b"\r\n")
    if not found or not line.startswith(b"--") or len(line) < 3 or len(line) > 72 or b'"' in line:
        return _bad("the body must be multipart/form-data with the parts 'file' and 'purpose'")
    fields: dict[str, str] = {}
    filename: str | None = None
    content: bytes | None = None
    end = b"\r\n" + line
    at = len(line)
    for _ in range(_MOST_PARTS):
        if body[at : at + 2] == b"--":
            return Form(fields, filename, content)
        head_at = body.find(b"\r\n", at) + 2
        data_at = body.find(b"\r\n\r\n", at, head_at + _MOST_HEAD_BYTES) + 4
        at = body.find(end, data_at - 2)
        while at >= 0 and body[at + len(end) : at + len(end) + 2] not in (b"--", b"\r\n"):
            at = body.find(end, at + 1)  # a longer word that begins like the boundary
        if head_at < 2 or data_at < 4 or at < 0:
            return _bad("the form breaks off")
        part = email.message_from_bytes(body[head_at:data_at], policy=email.policy.HTTP)
        data = body[data_at:at]
        at += len(end)
        name = part.get_param("name", header="content-disposition")
        if str(part.get("content-transfer-encoding", "")).strip().lower() not in _PLAIN:
            return _bad("parts are sent as they are, without a content-transfer-encoding")
        if not isinstance(name, str):
            continue
        if name == "file":
            filename, content = part.get_filename() or "file", data
        else:
            fields[name] = data.decode("utf-8", "replace")
    return _bad(f"a form has at most {_MOST_PARTS} parts")


def _bad(message: str) -> Refusal:
    return Refusal(code="bad_value", message=message, param="file")
