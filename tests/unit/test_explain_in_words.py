"""What `wattmill explain` and the board say of how an attempt ended: words first, the code beside them."""

from __future__ import annotations

from typing import Any

import pytest

from wattmill.app.seeing.explain import Try
from wattmill.app.seeing.request_words import why_ended, why_excluded
from wattmill.scheduling.filters import RULES
from wattmill.vocab.refusal import CODES

KINDS = ("connect", "busy", "reset", "timeout", "protocol", "stale")
"""As `upstream_conn.Sink.on_lost` names them."""


def ended(status: str, cause: str | None = None, http_status: int | None = 0) -> str | None:
    nothing: dict[str, Any] = dict.fromkeys(Try.__struct_fields__)
    nothing |= {"pool": "edge", "status": status, "cause": cause, "http_status": http_status}
    return why_ended(Try(**nothing))


@pytest.mark.parametrize("cause", [*KINDS, "malformed", "clamp", "hedge_lost", *CODES])
def test_each_way_to_fail_is_told_in_words_with_its_code(cause: str) -> None:
    told = ended("failed", cause)
    assert told is not None and told.endswith(f" ({cause})") and len(told.split()) > 3


@pytest.mark.parametrize(
    ("status", "cause", "http_status", "told"),
    [
        ("failed", "upstream_failed", 503, "it answered with status 503 (upstream_failed)"),
        (
            "failed",
            "upstream_failed",
            None,
            "it answered with an error (upstream_failed)",
        ),
        ("failed", "malformed", 200, "what it sent is no answer (malformed)"),
        ("aborted", None, 200, "the client left"),
        ("finished", None, 200, None),
        ("finished", "its answer was no JSON", 200, "its answer was no JSON"),  # a cascade's own words
    ],
)
def test_how_an_attempt_ended(
    status: str, cause: str | None, http_status: int | None, told: str | None
) -> None:
    assert ended(status, cause, http_status) == told


def test_each_hard_rule_is_told_in_words() -> None:
    for rule, words in RULES.items():
        assert why_excluded(rule) == f"{words} ({rule})"
    assert why_excluded("of a plugin") == "of a plugin"
