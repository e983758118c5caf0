"""A grid event on a live factory with embedded engines: `make power-event` in short."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import power_event


@pytest.mark.timeout(240)
def test_a_quarter_less_power_is_met_in_ten_seconds_and_premium_does_not_notice() -> None:
    result = asyncio.run(
        power_event.run(baseline_s=8.0, event_s=14.0, after_s=2.0, reduce=0.25, boundary="pools")
    )
    assert power_event.misses(result) == [], power_event.table(result)
    assert result.status == 0
    report = result.report
    assert report["provenance"] == "modelled" and report["boundary"] == "pools"
    assert report["gave_way"]["deferred_work"] > 0 and report["reached"]["joules_not_used"] > 0
