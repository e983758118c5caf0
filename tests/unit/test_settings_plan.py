"""From a declaration to what a worker runs on: backends, fleet, prices in both legs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill.app.declared.declaration import Loaded, decode, example_text
from wattmill.app.declared.plan import Prices, backends, cards, fleet_pools, route_weights
from wattmill.app.declared.pool_settings import CostPlus, Rates
from wattmill.app.declared.price_plan import price_specs, publish, rate_row
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tenants import apply_tenants
from wattmill.ledger.rating import rate
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.scheduling.policy import cheapest_adequate
from wattmill.scheduling.spec import Fleet
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.route import Route
from wattmill.vocab.usage import TOKEN_CLASSES, Usage

KEY = {"OPENAI_API_KEY": "sk-not-a-real-one"}
NOW_US = 1_795_000_000_000_000
ABLE = frozenset({"chat", "completions", "tools"})


@dataclasses.dataclass(frozen=True)
class At:
    url: str = "http://127.0.0.1:1/v1"
    key: str = "engine-key"


ENDPOINTS = {"edge": At(), "local": At(), "cloud": At()}


def example(env: Mapping[str, str], text: str | None = None) -> Settings:
    loaded = decode(text or example_text(), file="wattmill.toml", folder=Path("/srv"), env=env)
    assert isinstance(loaded, Loaded), [str(p) for p in loaded]
    return loaded.settings


def published(settings: Settings, env: Mapping[str, str], folder: Path) -> dict[tuple[str, str], Prices]:
    with Control(folder / "control.db") as control:
        return publish(control, price_specs(settings, env), now_us=NOW_US)


EXAMPLE = example({})


def test_every_model_of_every_pool_has_a_cost_and_a_charge(tmp_path: Path):
    prices = published(example({}), {}, tmp_path)
    assert set(prices) == {(pool, "smollm2-135m") for pool in ("edge", "local", "cloud")}
    for both in prices.values():
        assert len(both.cost.rates_nusd_per_mtok) == len(TOKEN_CLASSES)
        assert both.cost.id != both.charge.id


def test_no_place_of_the_example_sells_below_its_cost(tmp_path: Path):
    usage = Usage(prompt_tok=900, output_tok=200, cached_tok=300)
    for both in published(example({}), {}, tmp_path).values():
        assert rate(both.charge, usage) > rate(both.cost, usage) > 0


def test_the_cloud_costs_what_the_provider_lists_with_its_source_and_date(tmp_path: Path):
    cost = published(example(KEY), KEY, tmp_path)["cloud", "gpt-4o-mini"].cost
    assert cost.rates_nusd_per_mtok[TOKEN_CLASSES.index("input")] == 150_000_000
    assert cost.rates_nusd_per_mtok[TOKEN_CLASSES.index("output")] == 600_000_000
    assert "genai-prices" in cost.source
    assert cost.provenance == "declared"


def test_publishing_twice_publishes_nothing_new(tmp_path: Path):
    settings = example({})
    with Control(tmp_path / "control.db") as control:
        first = publish(control, price_specs(settings, {}), now_us=NOW_US)
        assert publish(control, price_specs(settings, {}), now_us=NOW_US + 1) == first


def test_a_changed_markup_is_a_new_version_and_the_old_one_stays(tmp_path: Path):
    before = example({})
    edge = msgspec.structs.replace(before.pools["edge"], charge=CostPlus(markup=2.0))
    after = msgspec.structs.replace(before, pools={**before.pools, "edge": edge})
    with Control(tmp_path / "control.db") as control:
        old = publish(control, price_specs(before, {}), now_us=NOW_US)["edge", "smollm2-135m"]
        new = publish(control, price_specs(after, {}), now_us=NOW_US + 10)["edge", "smollm2-135m"]
        assert control.prices()[old.charge.id] == old.charge
    assert new.cost == old.cost
    assert new.charge.id != old.charge.id
    assert new.charge.effective_us == NOW_US + 10


@given(
    markup=st.floats(min_value=0, max_value=100, allow_nan=False),
    tokens=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
)
def test_at_any_markup_the_charge_is_never_below_the_cost(markup: float, tokens: tuple[int, int]):
    settings = EXAMPLE
    edge = msgspec.structs.replace(settings.pools["edge"], charge=CostPlus(markup=markup))
    settings = msgspec.structs.replace(settings, pools={"edge": edge})
    rows = {spec.leg: spec.listing.versions[0].rates_nusd_per_mtok for spec in price_specs(settings, {})}
    for cost, charge in zip(rows["cost"], rows["charge"], strict=True):
        assert (cost is None) == (charge is None)
        if cost is not None and charge is not None:
            exact = cost * (1 + markup)
            assert charge >= cost
            assert abs(charge - exact) <= 1 + exact * 1e-12


def test_a_part_without_a_rate_costs_what_the_whole_costs_and_audio_is_not_sold():
    row = dict(
        zip(TOKEN_CLASSES, rate_row(Rates(input_usd_per_mtok="0.15", output_usd_per_mtok="0.6")), strict=True)
    )
    assert row["cached_input"] == row["cache_write"] == row["input"] == 150_000_000
    assert row["reasoning"] == row["output"] == 600_000_000
    assert row["audio_input"] is row["audio_output"] is None


def test_money_of_the_declaration_is_exact_to_the_nano_dollar():
    assert rate_row(Rates(input_usd_per_mtok="0.000000001", output_usd_per_mtok="0.1"))[:1] == (1,)


def test_an_embedded_engine_is_reached_with_its_own_key_and_the_provider_with_the_provider_s(tmp_path: Path):
    stand_in = backends(example({}), published(example({}), {}, tmp_path), ENDPOINTS, {})
    assert stand_in["edge"].headers == (("authorization", "Bearer engine-key"),)
    assert stand_in["cloud"].base_url == "http://127.0.0.1:1/v1"
    assert stand_in["cloud"].adapter == "llama.cpp"
    real = backends(example(KEY), published(example(KEY), KEY, tmp_path), ENDPOINTS, KEY)
    assert real["cloud"].headers == (("authorization", "Bearer sk-not-a-real-one"),)
    assert real["cloud"].base_url == "https://api.openai.com/v1"
    assert real["cloud"].adapter == "openai"


def test_a_backend_does_not_show_the_key(tmp_path: Path):
    real = backends(example(KEY), published(example(KEY), KEY, tmp_path), ENDPOINTS, KEY)
    assert "sk-not" not in repr(real)


def test_an_engine_without_an_address_is_a_defect_of_the_start(tmp_path: Path):
    prices = published(example({}), {}, tmp_path)
    with pytest.raises(LookupError):
        backends(example({}), prices, {"edge": At()}, {})


def test_a_declared_list_narrows_what_an_adapter_can_do(tmp_path: Path):
    text = example_text().replace(
        'place = "edge box"', 'place = "edge box"\ncapabilities = ["chat", "vision"]'
    )
    settings = example({}, text)
    found = backends(settings, published(settings, {}, tmp_path), ENDPOINTS, {})
    pools = {p.name: p for p in fleet_pools(settings, found, {}, lambda _: ABLE)}
    assert pools["edge"].capabilities == {"chat"}
    # An engine of ours has no capability that depends on its weights or its start unless it is declared.
    assert pools["local"].capabilities == ABLE & {
        "chat",
        "completions",
        "embeddings",
        "json_schema",
        "logprobs",
    }
    assert pools["cloud"].capabilities == ABLE - {"tools", "embeddings"}  # the stand-in


def test_cards_carry_the_name_that_clients_use():
    assert {name: card.name for name, card in cards(EXAMPLE).items()} == {
        "smollm2-135m": "smollm2-135m",
        "gpt-4o-mini": "gpt-4o-mini",
    }


# --- the example decides ------------------------------------------------------------------------------------


def decide(
    folder: Path,
    *,
    prompt_tok: int,
    privacy: str = "internal",
    busy: tuple[int, int, int] = (0, 0, 0),
    env: Mapping[str, str] | None = None,
    model: str = "smollm2-135m",
) -> Route | Refusal:
    settings = example(env or {})
    found = backends(settings, published(settings, env or {}, folder), ENDPOINTS, env or {})
    fleet = Fleet(id=1, at_us=NOW_US, pools=fleet_pools(settings, found, env or {}, lambda _: ABLE))
    weights = route_weights(settings)
    request = Request(
        id="r",
        endpoint="chat",
        model=model,
        pool=None,
        stream=True,
        input_bound_tok=round(prompt_tok * weights.bound_tok_per_tok),
        max_output_tok=None,
        privacy=privacy,
    )
    return cheapest_adequate(request, Caller(key=1, name="k", path=(1,)), fleet, busy=busy, weights=weights)


def pools_of(route: Route | Refusal) -> list[str]:
    assert isinstance(route, Route), route
    return [candidate.pool for candidate in route.candidates]


def test_in_the_example_a_short_prompt_goes_to_the_cheapest_place(tmp_path: Path):
    assert pools_of(decide(tmp_path, prompt_tok=40))[0] == "edge"


def test_in_the_example_a_prompt_too_long_for_the_edge_goes_to_the_next_cheapest(tmp_path: Path):
    found = pools_of(decide(tmp_path, prompt_tok=3000))
    assert found[0] == "local"
    assert "edge" not in found


def test_in_the_example_local_takes_over_when_the_edge_is_busy(tmp_path: Path):
    assert pools_of(decide(tmp_path, prompt_tok=40, busy=(4, 0, 0)))[0] == "local"


def test_in_the_example_the_cloud_takes_what_the_house_cannot_take_soon(tmp_path: Path):
    assert pools_of(decide(tmp_path, prompt_tok=40, busy=(8, 6, 0)))[0] == "cloud"


@pytest.mark.parametrize("prompt_tok", [40, 1500, 3000])
def test_in_the_example_private_data_never_leaves_the_house(tmp_path: Path, prompt_tok: int):
    route = decide(tmp_path, prompt_tok=prompt_tok, privacy="private", busy=(8, 6, 0))
    assert "cloud" not in pools_of(route)


def test_with_a_provider_key_nobody_reaches_the_provider_without_asking_for_its_model(tmp_path: Path):
    busy = (8, 6, 0)
    assert "cloud" not in pools_of(decide(tmp_path, prompt_tok=40, busy=busy, env=KEY))
    assert pools_of(decide(tmp_path, prompt_tok=40, env=KEY, model="gpt-4o-mini")) == ["cloud"]


def test_a_limit_that_was_set_by_hand_holds_until_the_declaration_changes_that_one(tmp_path: Path) -> None:
    def declared(*limits: str) -> Settings:
        words = ", ".join(f'"{limit}"' for limit in limits)
        return example({}, example_text() + f"\n[tenants.acme]\nlimits = [{words}]\n")

    with Control(tmp_path / "control.db", wall_us=lambda: NOW_US) as control:

        def amounts() -> dict[str, int]:
            node = control.find("acme").id
            return {limit.unit: limit.amount for limit in Limits(control).at(node)}

        one = declared("100 requests/day", "5000 tokens/hour", "9 concurrent")
        apply_tenants(control, one, None)
        Limits(control).put(control.find("acme").id, "requests", "day", 10)
        two = declared("100 requests/day", "6000 tokens/hour")
        apply_tenants(control, two, one)
        assert amounts() == {"requests": 10, "total_tok": 6_000}
        apply_tenants(control, declared("200 requests/day"), two)
        assert amounts() == {"requests": 200}
