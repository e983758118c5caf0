"""What a declaration says of the scheduler reaches the policy, and what does not hold together is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from wattmill.app.declared.declaration import decode, example_text, stored
from wattmill.app.declared.plan import _fleet_pool, backends, places, route_weights
from wattmill.app.declared.price_plan import Prices
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.settings_checks import problems
from wattmill.app.ledger_process import _retention_h
from wattmill.distribution.spec import Backend
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.scheduling.spec import Pool, Rates
from wattmill.vocab.price import Price

ENV = {"OPENAI_API_KEY": "x"}


class Endpoint(msgspec.Struct):
    url: str = "http://127.0.0.1:1/v1"
    key: str = "k"


def changed(*edits: tuple[str, str]) -> str:
    text = example_text()
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def settings(*edits: tuple[str, str]) -> Settings:
    return decode(changed(*edits), file="wattmill.toml", folder=Path("/srv"), env=ENV).settings


def said(*edits: tuple[str, str]) -> list[str]:
    text = changed(*edits)
    found = msgspec.toml.decode(text, type=Settings)
    return [f"{p.level} {p.key}: {p.rule}" for p in problems(found, file="x", text=text, env=ENV)]


def pools(declared: Settings) -> dict[str, Pool]:
    price = Price(
        id=1, book="b", model="m", effective_us=0, rates_nusd_per_mtok=(100, 10, 100, None, 400, 400, None)
    )
    cost = msgspec.structs.replace(price, rates_nusd_per_mtok=(50, None, 50, None, 200, 200, None))
    legs = {
        (place.pool, model): Prices(cost=cost, charge=price, tiers={"ultra": cost})
        for place in places(declared, ENV).values()
        for model in place.models
    }
    ends = {name: Endpoint() for name in declared.pools}
    reached: dict[str, Backend] = backends(declared, legs, ends, ENV)
    return {
        name: _fleet_pool(declared, place, reached[name], lambda a: ADAPTERS[a].capabilities)
        for name, place in places(declared, ENV).items()
    }


def test_an_owned_places_joules_follow_from_its_power_and_speed_and_a_bought_ones_are_unknown() -> None:
    declared = settings(
        ("[pools.edge.speed]", '[pools.edge.carbon]\ng_per_kwh = 40.0\nsource = "x"\n\n[pools.edge.speed]')
    )
    edge, cloud = pools(declared)["edge"], pools(declared)["cloud"]
    assert edge.carbon_g_per_kwh == 40.0
    assert edge.energy_j_per_tok == pytest.approx(12.0 / 125.0)
    assert edge.energy_j_per_in_tok == pytest.approx(12.0 / 350.0)
    assert (cloud.carbon_g_per_kwh, cloud.energy_j_per_tok) == (None, None)


def test_prices_reach_the_policy_for_cached_tokens_for_each_tier_and_as_cost() -> None:
    edge = pools(settings())["edge"]
    model = next(iter(edge.models))
    assert edge.charge_cached_nusd_per_mtok == {model: 10}
    assert edge.tier_rates == {"ultra": {model: Rates(50, 200, 50)}}
    assert edge.cost_rates == {model: Rates(50, 200, 50)}


def test_weights_and_quality_are_what_was_declared() -> None:
    declared = settings(
        ("usd_per_s = 0.00005 ", 'usd_per_kg_co2 = 0.2\nexplore = 0.02\nmoney = "cost"\nusd_per_s = 0.0001 '),
        (
            "[pools.edge.speed]",
            '[pools.edge.quality.smollm2-135m]\nscore = 0.2\nsource = "x"\n\n[pools.edge.speed]',
        ),
    )
    weights = route_weights(declared)
    assert (weights.usd_per_kg_co2, weights.explore, weights.leg, weights.usd_per_s) == (
        0.2,
        0.02,
        "cost",
        1e-4,
    )
    assert pools(declared)["edge"].quality == {"smollm2-135m": 0.2}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (('"cheapest-adequate"', '"cheapest"'), "error routing.policy: no policy 'cheapest' (known:"),
        (('"cheapest-adequate"', '"no.such:thing"'), "cannot be imported"),
        (('"cheapest-adequate"', '"greenest"'), "warning routing.policy: looks at carbon, and no pool"),
        (('"cheapest-adequate"', '"cascade"'), "warning routing.policy: looks at quality, and no pool"),
        (
            ("[tenants.demo.teams.load]", '[tenants.demo.teams.load]\npolicy = "fastets"'),
            "error tenants.demo.teams.load.policy: no policy 'fastets'",
        ),
        (
            (
                "[pools.edge.speed]",
                '[pools.edge.quality.other]\nscore = 1\nsource = "x"\n\n[pools.edge.speed]',
            ),
            "error pools.edge.quality.other: is no model of this pool",
        ),
    ],
)
def test_what_does_not_hold_together_is_told(edit: tuple[str, str], words: str) -> None:
    assert any(words in line for line in said(edit)), said(edit)


def test_the_example_has_nothing_to_say() -> None:
    assert said() == []


@pytest.mark.parametrize(
    ("journal", "hours"),
    [
        ("retention_h = 2.0", 2.0),
        ("retention_h = 2.0\nkeep_decisions_days = 30", 720.0),
        ("sync_ms = 200", 72.0),
    ],
)
def test_decisions_are_kept_as_long_as_declared_and_the_journal_with_them(journal: str, hours: float) -> None:
    declared = settings(("[routing]", f"[journal]\n{journal}\n\n[routing]"))

    class Control:
        def config(self) -> tuple[int, str]:
            return 1, stored(declared)

    assert _retention_h(Control()) == hours  # type: ignore[arg-type]
