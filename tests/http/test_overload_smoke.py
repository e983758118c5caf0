"""Three times the load that there is, on a real factory before paced engines: `make overload` in short."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import overload


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
def test_premium_keeps_its_promise_equals_share_equally_and_the_free_tier_gives_way_first(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "DEMAND", (("premium", 1, 0.4), ("high", 1, 0.3), ("free", 4, 2.3)))
    result = overload.run(workers, 10.0, seed=workers)
    assert overload.misses(result) == [], overload.table(result)
    assert result.by_tier["free"].refused > 0
    status = {tier["name"]: tier["kept"]["value"] for tier in result.status}
    assert status["premium"] >= 0.95 > 0.5 > status["free"]


def test_jains_index_is_one_for_equals_and_a_share_for_one_who_has_all() -> None:
    assert overload.jain([5, 5, 5]) == 1.0 and overload.jain([9, 0, 0]) == pytest.approx(1 / 3)
