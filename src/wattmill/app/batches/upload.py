"""A multipart form with one file in it, read by the standard library's mail parser."""

from __future__ import annotations

import msgspec

from wattmill.vocab.refusal import Refusal


class Form(msgspec.Struct, frozen=True):
    fields: dict[str, str]
    filename: str | None
    content: bytes | None  # of the part "file"


def read_form(body: bytes) -> Form | Refusal:
    """Read `body`; its first line names the boundary, so no header is needed. May take a while: a thread."""
    import email
    import email.policy

    line, _, _ = body[:256].partition(b"\r\n")
    if not line.startswith(b"--") or len(line) < 3 or len(line) > 72 or b'"' in line:
        return Refusal(
            code="bad_value",
            message="the body must be multipart/form-data with the parts 'file' and 'purpose'",
            param="file",
        )
    head = b'content-type: multipart/form-data; boundary="%b"\r\n\r\n' % line[2:]
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    fields: dict[str, str] = {}
    filename: str | None = None
    content: bytes | None = None
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        data = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(data, bytes):
            continue
        if name == "file":
            filename, content = part.get_filename() or "file", data
        else:
            fields[name] = data.decode("utf-8", "replace")
    return Form(fields, filename, content)
