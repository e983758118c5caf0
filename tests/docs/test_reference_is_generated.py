"""The reference pages are what the code says: written by `make docs`, compared here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from wattmill.app.declared.schema import settings_schema
from wattmill.cli.main import COMMANDS
from wattmill.cli.reference import declaration_page, pages
from wattmill.distribution.metrics import METRICS
from wattmill.vocab.refusal import CODES

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", pages())
def test_a_reference_page_says_what_the_code_says(name: str):
    page = REFERENCE / name
    assert page.exists(), "run `make docs`"
    assert page.read_text(encoding="utf-8") == pages()[name](), f"{name} is out of date: run `make docs`"


def test_every_setting_has_a_description():
    """A setting without words could not be explained on the page, nor in an error."""
    tables = ("[models", "[pools", "[prices", "[tenants", "[gateway", "[load")
    silent = [
        f"{name}.{key}"
        for name, struct in settings_schema()["$defs"].items()
        for key, prop in struct.get("properties", {}).items()
        if not prop.get("description") and len(prop.get("enum", ())) != 1
    ]
    assert silent == []
    assert all(table in declaration_page() for table in tables)


def test_every_setting_with_a_unit_says_it_in_its_name():
    units = (
        "_s",
        "_ms",
        "_h",
        "_days",
        "_chars",
        "_mib",
        "_bytes",
        "_us",
        "_gb",
        "_bits",
        "_tok",
        "_w",
        "_usd",
        "_per_s",
        "_per_mtok",
        "_per_kwh",
        "_per_tok",
        "_per_ktok",
        "_in_tok",
        "_per_min",
        "_per_kg_co2",
        "_per_quality",
    )
    bare = {
        # counts, shares and names: nothing to convert
        *("port", "workers", "headers", "connections", "in_flight", "alpha", "expansion", "params"),
        "unfinished_share",
        *("slots", "queue", "threads", "max_connections", "utilization", "cached_share", "markup", "seed"),
        *("rank", "weight", "reserved", "factor", "ahead", "prompt_share"),  # of tiers and admission
        *("margin_share", "least_engine_share"),  # of power limits
        *("attempts", "failures", "share", "window", "good_trials", "burst", "chain"),  # of resilience, doors
        *("max_open", "max_depth", "repeats", "last_repeats", "word_repeats", "twins", "leaps", "loads"),
        *("heavy_calls", "retries", "children", "direct_children"),  # of runs
        *(
            "replicas",
            "pp",
            "tp",
            "ep",
            "attn_dp",
            "least",
            "most",
            "target",
            "most_at_once",
            "spread",
            "concurrent",
            "error",
            "acceptance",
            "prefill_replicas",
        ),  # of the twin
        *("explore", "others", "energy", "score", "least_mean_logprob"),  # of routing
        *("alarm_backlog_records", "refuse_backlog_records", "most_lines", "most_running", "at_once"),
    }
    for struct in settings_schema()["$defs"].values():
        for key, prop in struct.get("properties", {}).items():
            kinds = {o.get("type") for o in prop.get("anyOf", [prop])}
            if kinds & {"integer", "number"}:
                assert key.endswith(units) or key in bare, f"{key} has no unit in its name"


def test_every_code_metric_and_command_is_on_its_page():
    texts = {name: (REFERENCE / name).read_text(encoding="utf-8") for name in pages()}
    assert [c for c in CODES if f"`{c}`" not in texts["errors.md"]] == []
    assert [m.name for m in METRICS if f"`{m.name}`" not in texts["metrics.md"]] == []
    assert [c for c in COMMANDS if f"`wattmill {c}" not in texts["cli.md"]] == []


def test_the_schema_can_be_written_as_json():
    written = msgspec.json.encode(settings_schema())
    assert msgspec.json.encode(msgspec.json.decode(written)) == written
