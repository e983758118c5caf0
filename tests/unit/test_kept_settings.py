"""What a declaration may say of caching, idempotency, resilience and the kept store."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from wattmill.app.declared.kept_checks import kept_findings
from wattmill.app.declared.settings import Settings
from wattmill.distribution.resilience import Resilience

POOL = {
    "engine": "openai_http", "place": "here", "base_url": "http://127.0.0.1:1/v1", "models": ["m"],
    "speed": {"prefill_tok_per_s": 1.0, "decode_tok_per_s": 1.0},
    "cost": {"rule": "rates", "input_usd_per_mtok": "1", "output_usd_per_mtok": "1"},
}  # fmt: skip


def declared(pool: str = "a", **sections: Any) -> Settings:
    tenants = {"demo": {"teams": {"search": {}}}}
    return msgspec.convert({"pools": {pool: POOL}, "tenants": tenants, **sections}, Settings)


def test_the_defaults_hold_together_and_cache_nothing() -> None:
    settings = declared()
    assert list(kept_findings(settings)) == []
    assert settings.cache.models == ()
    assert settings.resilience.hedge_after == "off" and not settings.resilience.continuation


@pytest.mark.parametrize(
    "sections, path, value",
    [
        ({"pool": "cache"}, ("pools", "cache"), "cache"),
        ({"cache": {"models": ["m", "n"]}}, ("cache", "models"), "n"),
        ({"cache": {"models": ["*"], "teams": ["demo/find"]}}, ("cache", "teams"), "demo/find"),
        ({"kept": {"scope_mib": 100, "total_mib": 50}}, ("kept",), "64, 100, 50"),
        ({"kept": {"scope_mib": 10}}, ("kept",), "64, 10, 2048"),
    ],
)
def test_what_cannot_be_meant_is_named_with_the_way_out(
    sections: dict[str, Any], path: tuple[Any, ...], value: str
) -> None:
    (finding,) = kept_findings(declared(**sections))
    assert (finding[0], finding[1], finding[4]) == ("error", path, value)
    assert finding[2].startswith(("must", "no pool")) and finding[3]


@pytest.mark.parametrize("good", [{"models": ["*"], "teams": ["demo/search"]}, {"models": ["m"]}])
def test_a_cache_for_known_models_and_teams_is_fine(good: dict[str, Any]) -> None:
    assert list(kept_findings(declared(cache=good))) == []


@pytest.mark.parametrize(
    "text, quantile, seconds",
    [("off", None, None), ("p95", 0.95, None), ("p99.5", 0.995, None), ("800 ms", None, 0.8),
     ("1.5 s", None, 1.5)],
)  # fmt: skip
def test_when_to_hedge_is_a_percentile_or_a_time(
    text: str, quantile: float | None, seconds: float | None
) -> None:
    rules = msgspec.convert({"hedge_after": text}, Resilience)
    assert rules.hedge_quantile == (None if quantile is None else pytest.approx(quantile))
    assert rules.hedge_s == seconds


@pytest.mark.parametrize("text", ["p0", "p100", "95", "p9", "1s", "-1 s", "1 h", ""])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"hedge_after": text}, Resilience)


@pytest.mark.parametrize("share", ["1.1", "2", "-0.5", ".5", "half"])
def test_a_share_is_between_nothing_and_all(share: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        declared(cache={"models": ["m"], "charge_share": share})
