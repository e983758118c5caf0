"""What clients are told: heads, errors in OpenAI's shape, and the comment that tells a stream's charge."""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec

from wattmill.units import NUSD_PER_USD
from wattmill.vocab.refusal import CODES, Refusal
from wattmill.vocab.usage import Usage

DONE = b"data: [DONE]\n\n"
_STATUS = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_OK_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_OK_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
)
_encode = msgspec.json.Encoder().encode


def usd(nusd: int) -> bytes:
    """Return exact dollars of a non-negative number of nano-dollars, e.g. `0.000031000`."""
    return b"%d.%09d" % divmod(nusd, NUSD_PER_USD)


def json_head(request_id: str, status: int = 200) -> bytes:
    return plain_head(request_id, status, b"application/json")


def plain_head(request_id: str, status: int, content_type: bytes) -> bytes:
    """Return the head of an answer that comes from no engine."""
    return b"%bcontent-type: %b\r\nx-request-id: %b\r\n" % (
        _STATUS[status],
        content_type,
        request_id.encode(),
    )


def routed_head(request_id: str, *, stream: bool, pool: str, expected_nusd: int, more: bytes = b"") -> bytes:
    """Return the head of an answer that comes from a pool. `more`: further lines."""
    start = _OK_STREAM if stream else _OK_JSON
    return b"%bx-request-id: %b\r\nx-wattmill-pool: %b\r\nx-wattmill-expected-usd: %b\r\n%b" % (
        start,
        request_id.encode(),
        pool.encode(),
        usd(expected_nusd),
        more,
    )


def charge_lines(
    charge_nusd: int, usage: Usage | None, energy_j: float | None, *, stopped_by_budget: bool = False
) -> bytes:
    """Return the headers that tell a whole answer's charge, joules and tokens."""
    lines = b"x-wattmill-charge-usd: %b\r\n" % usd(charge_nusd)
    if energy_j is not None:
        lines += b"x-wattmill-energy-j: %.3f;modelled\r\n" % energy_j
    if usage is not None:
        figures = (usage.prompt_tok, usage.cached_tok, usage.output_tok)
        lines += b"x-wattmill-tokens: prompt=%d;cached=%d;output=%d\r\n" % figures
    if stopped_by_budget:
        lines += b"x-wattmill-stopped-by: budget\r\n"
    return lines


def charge_comment(
    request_id: str, charge_nusd: int, energy_j: float | None, *, stopped_by_budget: bool = False
) -> bytes:
    """Return the SSE comment that stands before `data: [DONE]`: clients skip it, people read it."""
    energy = "unknown provenance=unknown" if energy_j is None else f"{energy_j:.3f} provenance=modelled"
    stopped = b" stopped_by=budget" if stopped_by_budget else b""
    figures = (usd(charge_nusd), energy.encode(), request_id.encode(), stopped)
    return b": wattmill charge_usd=%b energy_j=%b request=%b%b\n\n" % figures


def error_object(refusal: Refusal, request_id: str) -> dict[str, object]:
    return {
        "error": {
            "message": refusal.message,
            "type": CODES[refusal.code].type,
            "code": refusal.code,
            "param": refusal.param,
            "request_id": request_id,
        }
    }


def error_event(refusal: Refusal, request_id: str) -> bytes:
    """Return the event that ends a stream which cannot go on."""
    return b"data: %b\n\n" % _encode(error_object(refusal, request_id))


def error_answer(
    refusal: Refusal,
    request_id: str,
    *,
    allow: bytes | None = None,
    body: dict[str, object] | None = None,
) -> tuple[bytes, bytes]:
    """Return head and body of a refusal: when waiting can cure it, how long; when not, not to retry.

    `body`: the error in the shape of another protocol than OpenAI's."""
    code = CODES[refusal.code]
    head = json_head(request_id, code.status)
    if code.retry:
        wait_s = refusal.retry_after_s if refusal.retry_after_s is not None else 1.0
        head += b"retry-after: %d\r\n" % max(1, math.ceil(wait_s))
    else:
        head += b"x-should-retry: false\r\n"
    if code.status == 401:
        head += b"www-authenticate: Bearer\r\n"
    if allow is not None:
        head += b"allow: %b\r\n" % allow
    return head, _encode(error_object(refusal, request_id) if body is None else body)


def models_body(models: list[tuple[str, str]]) -> bytes:
    return _encode({"object": "list", "data": [_model(name, owner) for name, owner in models]})


def model_body(name: str, owner: str) -> bytes:
    return _encode(_model(name, owner))


def _model(name: str, owner: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def length_event(endpoint: str, *, engine_id: str | None, model: str) -> bytes:
    """Return the chunk that ends a stream which was cut at its clamp."""
    name = "chat.completion.chunk" if endpoint == "chat" else "text_completion"
    choice: dict[str, object] = {"index": 0, "finish_reason": "length", "logprobs": None}
    if endpoint == "chat":
        choice["delta"] = {}
    else:
        choice["text"] = ""
    chunk = {"id": engine_id or "cut", "object": name, "created": 0, "model": model, "choices": [choice]}
    return b"data: %b\n\n" % _encode(chunk)


def usage_event(endpoint: str, *, engine_id: str | None, model: str, usage: Usage) -> bytes:
    """Return the chunk with which a client that asked for it learns the usage of a stream that was cut."""
    name = "chat.completion.chunk" if endpoint == "chat" else "text_completion"
    numbers = {
        "prompt_tokens": usage.prompt_tok,
        "completion_tokens": usage.output_tok,
        "total_tokens": usage.total_tok,
    }
    chunk = {
        "id": engine_id or "cut",
        "object": name,
        "created": 0,
        "model": model,
        "choices": [],
        "usage": numbers,
    }
    return b"data: %b\n\n" % _encode(chunk)
