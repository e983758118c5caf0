"""The lines of an input file: read whole, judged line by line."""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.app.batches.spec import Line

_line = msgspec.json.Decoder(Line).decode
_MOST_ERRORS = 100


def read_lines(content: bytes, *, endpoint: str, most: int) -> tuple[list[Line], list[dict[str, Any]]]:
    """Return the lines of an input file, and what is wrong with it. A large one takes a while: a thread."""
    lines: list[Line] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if not raw.strip():
            continue
        problem: tuple[str, str, str | None] | None
        try:
            line = _line(raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            problem = "invalid_json_line", f"this line is no request: {str(error)[:200]}", None
        else:
            problem = _problem(line, endpoint, seen)
            seen.add(line.custom_id)
            lines.append(line)
        if problem is not None:
            code, message, param = problem
            errors.append({"code": code, "message": message, "param": param, "line": number})
        elif len(lines) > most:
            errors.append(
                {
                    "code": "too_many_lines",
                    "message": f"a batch has at most {most} lines (batches.most_lines)",
                    "param": None,
                    "line": number,
                }
            )
            break
        if len(errors) >= _MOST_ERRORS:
            break
    if not lines and not errors:
        message = "the input file has no lines"
        errors.append({"code": "empty_file", "message": message, "param": None, "line": None})
    return lines, errors


def _problem(line: Line, endpoint: str, seen: set[str]) -> tuple[str, str, str | None] | None:
    if not line.custom_id or len(line.custom_id) > 512:
        return "invalid_custom_id", "'custom_id' must have 1 to 512 characters", "custom_id"
    if line.custom_id in seen:
        return "duplicate_custom_id", "'custom_id' is used by an earlier line", "custom_id"
    if line.method != "POST":
        return "invalid_method", "'method' must be POST", "method"
    if line.url != endpoint:
        return "mismatched_endpoint", f"'url' must be the batch's endpoint, {endpoint}", "url"
    if bytes(memoryview(line.body)[:1]) != b"{":
        return "invalid_body", "'body' must be a JSON object", "body"
    return None
