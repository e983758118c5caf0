"""Expected refusals: a closed table of codes, the one source of the error reference."""

from __future__ import annotations

import msgspec

from wattmill.vocab.route import Route


class Code(msgspec.Struct, frozen=True):
    """How a refusal looks on the wire: HTTP status, OpenAI error type, and whether waiting can cure it."""

    status: int
    type: str
    retry: bool
    meaning: str


CODES: dict[str, Code] = {
    # the message was not understood
    "bad_http": Code(
        400, "invalid_request_error", False, "The bytes are not a well-formed HTTP/1.1 request."
    ),
    "bad_json": Code(400, "invalid_request_error", False, "The body is not one JSON object."),
    "bad_value": Code(
        400, "invalid_request_error", False, "A field has the wrong type or an impossible value."
    ),
    "bad_header": Code(400, "invalid_request_error", False, "A header is missing, repeated or malformed."),
    "duplicate_field": Code(400, "invalid_request_error", False, "A field that governs cost is given twice."),
    "field_refused": Code(400, "invalid_request_error", False, "A field would change cost or length unseen."),
    "headers_too_large": Code(431, "invalid_request_error", False, "The request's headers exceed the limit."),
    "body_too_large": Code(413, "invalid_request_error", False, "The request's body exceeds the limit."),
    "request_timeout": Code(408, "invalid_request_error", True, "The request did not arrive in time."),
    "not_found": Code(404, "invalid_request_error", False, "No such path."),
    "method_not_allowed": Code(405, "invalid_request_error", False, "The path exists, this method does not."),
    # who is asking
    "missing_key": Code(401, "authentication_error", False, "No API key was sent."),
    "invalid_key": Code(401, "authentication_error", False, "The API key is unknown."),
    "revoked_key": Code(401, "authentication_error", False, "The API key was revoked."),
    "expired_key": Code(401, "authentication_error", False, "The API key has expired."),
    "out_of_scope": Code(
        403, "permission_error", False, "The API key may not use this model, place or endpoint."
    ),
    # what can be served
    "unknown_model": Code(
        404, "invalid_request_error", False, "No place that the key may use serves this model."
    ),
    "no_capability": Code(400, "invalid_request_error", False, "No place can do what the request needs."),
    "context_too_long": Code(
        400, "invalid_request_error", False, "The prompt exceeds every place's context."
    ),
    "privacy": Code(403, "permission_error", False, "No place may see data of this privacy class."),
    "residency": Code(
        403, "permission_error", False, "No place stands where the data of this request may go."
    ),
    "operator": Code(403, "permission_error", False, "No place is run by whom this request allows."),
    "promise": Code(503, "server_error", False, "No place can ever keep what the request's tier promises."),
    "content_refused": Code(
        403, "permission_error", False, "A rule or a guardrail does not let this text through."
    ),
    "guard_unavailable": Code(
        503, "server_error", True, "A guardrail did not answer, and nothing passes without it."
    ),
    "unpriced": Code(503, "server_error", False, "A token class of this request has no price here."),
    # money and capacity
    "budget_exceeded": Code(
        429, "insufficient_quota", False, "A cap does not allow the worst case of the request."
    ),
    # runs
    "run_required": Code(403, "permission_error", False, "The API key serves nothing outside of a run."),
    "run_mismatch": Code(
        400, "invalid_request_error", False, "Header, baggage and base URL name different runs."
    ),
    "unknown_run": Code(404, "invalid_request_error", False, "No such run of this API key."),
    "run_limit": Code(
        429, "insufficient_quota", False, "A limit of depth, fan-out or number allows no further run."
    ),
    "run_paused": Code(
        429, "insufficient_quota", False, "The run waits for a person to resume it or to top it up."
    ),
    "run_ended": Code(410, "invalid_request_error", False, "The run was closed or stopped, or has expired."),
    "runaway": Code(429, "rate_limit_error", True, "The calls look like a runaway's and are held back."),
    "limit_reached": Code(
        429,
        "rate_limit_error",
        True,
        "A limit does not allow the request now: its period begins anew later, or requests in flight end.",
    ),
    "no_ceiling": Code(
        503,
        "server_error",
        False,
        "A limit of joules or grams holds, and the place declares no ceiling per token.",
    ),
    "caps_unavailable": Code(
        503, "server_error", True, "The caps cannot be read; nothing leaves unreserved."
    ),
    "overloaded": Code(503, "server_error", True, "All places that could serve this are full."),
    "queue_timeout": Code(503, "server_error", True, "No place was free for as long as the tier may wait."),
    "power_limit": Code(
        503, "server_error", True, "Power is short, and the tier was held back for as long as it may wait."
    ),
    "tier_too_high": Code(403, "permission_error", False, "The API key's tier is lower than the one asked."),
    "no_healthy_place": Code(503, "server_error", True, "All places that could serve this are down."),
    "draining": Code(503, "server_error", True, "This gateway is shutting down."),
    "journal_unavailable": Code(
        503, "server_error", True, "The journal cannot be written; nothing is served unbooked."
    ),
    "ledger_backlog": Code(503, "server_error", True, "The ledger is too far behind to take on more."),
    # kept for later
    "idempotency_mismatch": Code(
        409, "invalid_request_error", False, "The idempotency key was used for another request."
    ),
    "idempotency_running": Code(
        409, "invalid_request_error", True, "The request with this idempotency key is still running."
    ),
    "idempotency_gone": Code(
        409, "invalid_request_error", False, "It was answered, and the answer was not or could not be kept."
    ),
    "no_such_item": Code(404, "invalid_request_error", False, "No such file or batch of this API key."),
    "no_room": Code(413, "invalid_request_error", False, "What is kept for this API key has no room for it."),
    "too_many_batches": Code(429, "rate_limit_error", True, "Too many batches of this API key are running."),
    "kept_unavailable": Code(
        503, "server_error", True, "The store of what is kept for tenants cannot be used now."
    ),
    # upstream
    "upstream_failed": Code(
        502, "upstream_error", True, "Every candidate place failed before its first content."
    ),
    "upstream_timeout": Code(504, "upstream_error", True, "The place did not answer in time."),
    "provider_auth": Code(
        502, "upstream_error", False, "The provider refused the factory's own credentials."
    ),
    "upstream_rejected": Code(
        400, "invalid_request_error", False, "The engine refused the request; its reason follows."
    ),
    "upstream_rate_limited": Code(429, "rate_limit_error", True, "The provider limits the factory's rate."),
    "internal": Code(
        500, "server_error", True, "A defect in wattmill; please report it with the request id."
    ),
}


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An expected no. `message` names the argument, the rule, the value and the way out."""

    code: str  # a key of CODES
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    route: Route | None = None  # where a policy says no: what it looked at, without candidates

    @property
    def status(self) -> int:
        return CODES[self.code].status
