"""Tiers as declared: presets, prices by tier, and what must hold between tiers, tenants and places."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattmill.app.declared.declaration import Loaded, decode, example_text, restored, stored
from wattmill.app.declared.plan import backends
from wattmill.app.declared.price_plan import price_specs, publish
from wattmill.app.declared.prices_in_force import prices_in_force
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tier_settings import (
    PRESETS,
    Multiplier,
    admission_rules,
    default_tier,
    tier_plans,
)
from wattmill.ledger.rating import rate, worst_case_nusd
from wattmill.ledger.stores.control import Control
from wattmill.vocab.usage import Usage

TWO = """
[models.m]
context_tok = 8192

[pools.near]
engine = "openai_http"
place = "near"
base_url = "http://127.0.0.1:1/v1"
models = ["m"]
privacy = "private"
context_tok = 8192
slots = 4
speed = { prefill_tok_per_s = 1000, decode_tok_per_s = 100 }
cost = { rule = "rates", input_usd_per_mtok = "1", output_usd_per_mtok = "2" }
charge = { rule = "cost_plus", markup = 0.5 }

[pools.far]
engine = "openai_http"
place = "far"
base_url = "http://127.0.0.1:2/v1"
models = ["m"]
speed = { prefill_tok_per_s = 1000, decode_tok_per_s = 50 }
cost = { rule = "rates", input_usd_per_mtok = "4", output_usd_per_mtok = "8" }
"""


def loaded(more: str) -> Settings:
    found = decode(TWO + more, file="wattmill.toml", folder=Path("/"), env={})
    assert isinstance(found, Loaded), found
    return found.settings


def wrong(more: str) -> list[str]:
    found = decode(TWO + more, file="wattmill.toml", folder=Path("/"), env={})
    if isinstance(found, Loaded):
        return [str(problem) for problem in found.warnings]
    return [str(problem) for problem in found]


def test_the_five_presets_have_the_published_price_points_and_say_where_they_come_from() -> None:
    settings = loaded("".join(f"[tiers.{name}]\n" for name in PRESETS))
    plans = tier_plans(settings.tiers)
    batch = plans.pop("batch")  # of work that may wait: not one of the five
    assert batch.rank < min(plan.rank for plan in plans.values())
    assert batch.price == Multiplier(factor=0.5, source=batch.price.source)
    assert list(plans) == ["free", "medium", "high", "premium", "ultra"]  # the lowest first
    assert [plan.price.usd_per_mtok for plan in plans.values()] == ["0", "3", "6", "45", "150"]  # type: ignore[union-attr]
    assert all("2026-03-16" in plan.price.source for plan in plans.values())
    promised = [plan.tok_per_s or 0 for plan in plans.values()]
    assert promised == sorted(promised)


def test_what_a_tier_leaves_out_is_taken_from_its_preset() -> None:
    plan = tier_plans(loaded('[tiers.gold]\npreset = "premium"\nttft_s = 0.5\nrank = 99').tiers)["gold"]
    assert (plan.ttft_s, plan.rank, plan.tok_per_s) == (0.5, 99, 40.0)
    assert plan.price.source.startswith("price points") and plan.source == "declared"


def test_a_tier_without_a_preset_promises_nothing_and_costs_what_the_pool_charges(tmp_path: Path) -> None:
    settings = loaded("[tiers.plain]\n")
    with Control(tmp_path / "control.db") as control:
        prices = publish(control, price_specs(settings, {}), now_us=1)
    for both in prices.values():
        assert both.tiers["plain"].rates_nusd_per_mtok == both.charge.rates_nusd_per_mtok
    plan = tier_plans(settings.tiers)["plain"]
    assert plan.ttft_s is None and plan.tok_per_s is None and plan.rank == 0


def test_each_tier_pays_by_price_versions_of_its_own(tmp_path: Path) -> None:
    settings = loaded(
        "[tiers.free]\n[tiers.premium]\n"
        '[tiers.double]\nprice = { rule = "multiplier", factor = 2 }\n'
        '[tiers.own]\nprice = { rule = "rates", input_usd_per_mtok = "7", output_usd_per_mtok = "9", '
        'cached_input_usd_per_mtok = "1", source = "contract of May" }\n'
    )
    with Control(tmp_path / "control.db") as control:
        first = publish(control, price_specs(settings, {}), now_us=1)
        before = len(control.prices())
        publish(control, price_specs(settings, {}), now_us=2)
        assert len(control.prices()) == before  # a factory that starts again publishes nothing
        assert prices_in_force(control, settings, {}, now_us=3) == first
    near, far = first["near", "m"], first["far", "m"]
    million = Usage(1_000_000, 1_000_000)
    dollars = {tier: rate(price, million) / 1e9 for tier, price in near.tiers.items()}
    assert dollars == {"free": 0.0, "premium": 90.0, "double": 2 * 1.5 * (1 + 2), "own": 16.0}
    assert rate(far.tiers["double"], million) / 1e9 == 2 * (4 + 8)
    assert far.tiers["premium"].id == near.tiers["premium"].id  # one price for all places
    assert near.tiers["own"].source == "contract of May"
    assert rate(near.tiers["own"], Usage(1_000_000, 0, cached_tok=1_000_000)) == 10**9
    assert worst_case_nusd(near.tiers["free"], 10_000, 10_000) == 0


def test_a_backend_model_is_charged_as_its_tier_pays(tmp_path: Path) -> None:
    settings = loaded("[tiers.free]\n[tiers.premium]\n")
    with Control(tmp_path / "control.db") as control:
        prices = publish(control, price_specs(settings, {}), now_us=1)
    model = backends(settings, prices, {}, {})["near"].models["m"]
    assert set(model.by_tier) == {"free", "premium"}
    assert model.by_tier["premium"].charge.book == "tier premium"
    assert model.by_tier["premium"].cost is model.cost and model.charge.book == "near charge"


def test_a_declaration_without_tiers_has_none(tmp_path: Path) -> None:
    settings = loaded("")
    with Control(tmp_path / "control.db") as control:
        prices = publish(control, price_specs(settings, {}), now_us=1)
    assert backends(settings, prices, {}, {})["near"].models["m"].by_tier == {}
    found = decode(example_text(), file="x", folder=Path("/"), env={})
    assert isinstance(found, Loaded)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[tiers.free]\n[tenants.a]\ntier = "fre"', "Did you mean 'free'? Declare [tiers.fre]"),
        ('[tenants.a.teams.b]\ntier = "gold"', "no tier 'gold' (known: none)"),
        ('[tiers.free]\n[admission]\ndefault_tier = "x"', "no tier 'x'"),
        ('[tiers.free]\nsaving = "slow"', "no tier 'slow'"),
        (
            '[tiers.free]\nsaving = "high"\n[tiers.high]',
            "'high' has rank 20, 'free' has 5",
        ),
        ('[tiers.high]\nsaving = "high"', "must be a lower tier"),
        ("[tiers.ultra]\ntok_per_s = 500", "no place is declared to make so many tokens per second"),
        ("[tiers.ultra]\ncontext_tok = 100000", "no place has so long a context (the longest: 8192)"),
        ("[tiers.a]\nreserved = 0.6\n[tiers.b]\nreserved = 0.5", "leaves the lowest no slot"),
        ('[tiers.a]\nprice = { rule = "gift" }', "rule"),
        ("[tiers.a]\nspeed = 3", "unknown key"),
    ],
)
def test_what_does_not_hold_together_is_said_with_its_way_out(more: str, words: str) -> None:
    assert words in "\n".join(wrong(more))


def test_tiers_survive_the_way_into_the_control_database() -> None:
    settings = loaded('[tiers.free]\n[tiers.gold]\npreset = "high"\nqueue = 7\n[admission]\nahead = 2')
    assert restored(stored(settings)) == settings


def test_the_tier_of_keys_that_have_none_is_the_lowest_that_is_no_batch_tier() -> None:
    for text, tier in (
        ("[tiers.batch]\n[tiers.free]\n[tiers.ultra]", "free"),
        ("[tiers.ultra]\n[tiers.high]", "high"),
        ("[tiers.batch]", "batch"),
        ('[tiers.free]\n[tiers.ultra]\n[admission]\ndefault_tier = "ultra"', "ultra"),
        ("", ""),
    ):
        settings = loaded(text)
        assert default_tier(settings.tiers, settings.admission) == tier


def test_every_worker_queues_its_part_of_a_tier() -> None:
    settings = loaded("[tiers.free]\nqueue = 10\n[tiers.premium]\nqueue_s = 3")
    rules = admission_rules(settings.tiers, settings.admission, workers=3)
    assert [(rule.name, rule.queue) for rule in rules.tiers] == [("free", 4), ("premium", 86)]
    assert rules.tiers[1].timeout_s == 3.0 and rules.between == "strict"
