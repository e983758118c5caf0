"""Which run a request names: by its base URL, by a header, by W3C baggage. They must agree."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from wattmill.distribution.http import RUN_IN_URL
from wattmill.vocab.refusal import Refusal

RUN_HEADER = b"x-wattmill-run"
STEP_HEADER = b"x-wattmill-step"
BAGGAGE = b"baggage"
_MAX_ID = 128
_MAX_STEP = 64


def named(headers: Mapping[bytes, bytes]) -> tuple[str | None, str | None] | Refusal:
    """Return (run id, step name) of a request, None where it names none."""
    run = step = None
    baggage = headers.get(BAGGAGE)
    if baggage is not None and b"wattmill." in baggage:
        told = _members(baggage)
        run, step = told.get("wattmill.run"), told.get("wattmill.step")
    source = "baggage"
    for name, raw in (
        ("header 'x-wattmill-run'", headers.get(RUN_HEADER)),
        ("the base URL", headers.get(RUN_IN_URL)),
    ):
        if raw is None:
            continue
        said = raw.decode("latin-1").strip()
        if run is not None and said != run:
            return Refusal(
                code="run_mismatch",
                message=f"{name} and {source} name different runs; name one, or the same everywhere",
                param="x-wattmill-run",
            )
        run, source = said, name
    if run is not None and not 0 < len(run) <= _MAX_ID:
        return Refusal(code="unknown_run", message=f"a run's id has 1 to {_MAX_ID} characters, see {source}")
    raw = headers.get(STEP_HEADER)
    if raw is not None:
        said = raw.decode("latin-1").strip()
        if step is not None and said != step:
            return Refusal(
                code="run_mismatch",
                message="header 'x-wattmill-step' and baggage name different steps",
                param="x-wattmill-step",
            )
        step = said
    if step is not None:
        if run is None:
            return Refusal(
                code="bad_header",
                message="a step is named, and no run that it belongs to",
                param="x-wattmill-run",
            )
        if not 0 < len(step) <= _MAX_STEP:
            return Refusal(
                code="bad_header",
                message=f"a step's name has 1 to {_MAX_STEP} characters",
                param="x-wattmill-step",
            )
    return run, step


def _members(baggage: bytes) -> dict[str, str]:
    """Return our members of a baggage list, without their properties."""
    out: dict[str, str] = {}
    for member in baggage.decode("latin-1").split(","):
        pair = member.partition(";")[0]
        key, equals, value = pair.partition("=")
        key = key.strip()
        if equals and key.startswith("wattmill."):
            out.setdefault(key, unquote(value.strip()))
    return out
