"""A kilowatt-hour has a price and a carbon of its hour: they enter price and score, each by itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from wattmill.app.declared.declaration import decode, example_text
from wattmill.app.declared.electricity_settings import Electricity, Hours, Now, now_of
from wattmill.app.declared.plan import backends, fleet_pools
from wattmill.app.declared.price_plan import price_specs, publish
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.settings_checks import problems
from wattmill.ledger.stores.control import Control
from wattmill.scheduling.policies import POLICIES
from wattmill.scheduling.spec import Fleet, Pool, Weights
from wattmill.vocab.caller import Caller
from wattmill.vocab.request import Request
from wattmill.vocab.route import Route

HOUR_US = 3_600_000_000
MIDNIGHT_US = 1_795_132_800_000_000  # Friday, 2026-11-20, 00:00 UTC
TABLE = """
[electricity.house]
usd_per_kwh = "0.25"
g_per_kwh = 300.0
utc_offset_h = 1
source = "test"
hours = [
  { from_h = 22, to_h = 24, usd_per_kwh = "0.10", g_per_kwh = 100.0 },
  { from_h = 0, to_h = 6, usd_per_kwh = "0.10" },
  { from_h = 17, to_h = 20, weekdays = [0, 1, 2, 3, 4], usd_per_kwh = "0.50" },
]
"""


def settings(text: str = "") -> Settings:
    whole = example_text().replace('place = "edge box"', 'place = "edge box"\nelectricity = "house"')
    loaded = decode(whole + (text or TABLE), file="wattmill.toml", folder=Path("/srv"), env={})
    assert not isinstance(loaded, list), [str(p) for p in loaded]
    return loaded.settings


def at(hour: float) -> int:
    return MIDNIGHT_US + round(hour * HOUR_US)


def test_the_first_hours_that_fit_count_in_the_tables_own_time() -> None:
    house = settings().electricity["house"]
    assert now_of(house, at(0)) == Now("0.10", 300.0)  # one o'clock there
    assert now_of(house, at(10)) == Now("0.25", 300.0)
    assert now_of(house, at(16.5)) == Now("0.50", 300.0)  # half past five on a Friday
    assert now_of(house, at(24 + 16.5)) == Now("0.25", 300.0)  # on a Saturday
    assert now_of(house, at(21)) == Now("0.10", 100.0)
    assert now_of(house, None) == Now("0.25", 300.0)


def test_hours_that_end_before_they_begin_go_over_midnight() -> None:
    night = Electricity(usd_per_kwh="0.25", source="t", hours=(Hours(from_h=22, to_h=6, usd_per_kwh="0.12"),))
    prices = [now_of(night, at(hour)).usd_per_kwh for hour in range(24)]
    assert prices == ["0.12"] * 6 + ["0.25"] * 16 + ["0.12"] * 2


def edge_rates(hour: float) -> tuple[int | None, ...]:
    specs = price_specs(settings(), {}, now_us=at(hour))
    (cost,) = [s.listing for s in specs if s.pool == "edge" and s.leg == "cost"]
    return cost.versions[0].rates_nusd_per_mtok


def test_an_owned_places_price_follows_the_hour_by_what_its_watts_cost() -> None:
    # The edge box: a working hour's dollars differ by (0.25 - 0.10) x (12 W + idle share) / 1000.
    cost = settings().pools["edge"].cost
    day, night = edge_rates(10), edge_rates(0)
    busy = cost.utilization  # type: ignore[union-attr]
    watts = cost.power_w + (1 - busy) / busy * cost.idle_w  # type: ignore[union-attr]
    usd = 0.15 * watts / 1000 / (3600 * cost.decode_tok_per_s) * 1e6  # type: ignore[union-attr]
    assert day[4] is not None and night[4] is not None
    assert (day[4] - night[4]) / 1e9 == pytest.approx(usd, rel=1e-6)


def test_a_price_is_published_when_its_hour_comes_and_not_again(tmp_path: Path) -> None:
    with Control(tmp_path / "control.db") as control:

        def versions(hour: float) -> int:
            declared = settings()
            now_us = at(hour)
            prices = publish(control, price_specs(declared, {}, now_us=now_us), now_us=now_us)
            return prices["edge", "smollm2-135m"].cost.id

        first = versions(10)
        assert versions(11) == first
        evening = versions(16.5)
        assert evening != first
        assert control.price_at("edge cost", "smollm2-135m", at(16.6)).id == evening  # type: ignore[union-attr]
        assert control.price_at("edge cost", "smollm2-135m", at(12)).id == first  # type: ignore[union-attr]


class _End:
    url, key = "http://127.0.0.1:1/v1", "k"


def seen(tmp_path: Path, hour: float) -> dict[str, Pool]:
    declared = settings()
    with Control(tmp_path / "control.db") as control:
        prices = publish(control, price_specs(declared, {}, now_us=at(hour)), now_us=at(hour))
    reached = backends(declared, prices, dict.fromkeys(declared.pools, _End()), {})
    pools = fleet_pools(declared, reached, {}, lambda _: frozenset({"chat"}), now_us=at(hour))
    return {pool.name: pool for pool in pools}


def test_the_policy_sees_price_and_carbon_of_the_hour_at_places_that_name_it(tmp_path: Path) -> None:
    pools = seen(tmp_path, 21)
    assert (pools["edge"].energy_usd_per_kwh, pools["edge"].carbon_g_per_kwh) == (0.10, 100.0)
    assert pools["local"].energy_usd_per_kwh == 0.25  # of [host], all day
    assert pools["local"].carbon_g_per_kwh is None
    assert pools["cloud"].energy_usd_per_kwh is None  # a stand-in's power is not its provider's


def place(name: str, **fields: object) -> Pool:
    given: dict[str, object] = {
        "models": frozenset({"m"}),
        "capabilities": frozenset({"chat"}),
        "context_tok": 8192,
        "privacy": "internal",
        "charge_in_nusd_per_mtok": {"m": 1_000_000},
        "charge_out_nusd_per_mtok": {"m": 1_000_000},
        "prefill_tok_per_s": 1000.0,
        "decode_tok_per_s": 100.0,
        "energy_j_per_tok": 36.0,
        "energy_j_per_in_tok": 0.36,
    }
    return Pool(name=name, **{**given, **fields})  # type: ignore[arg-type]


def decided(*pools: Pool, weights: Weights) -> Route:
    ask = Request(
        id="req_0123456789ab_1",
        endpoint="chat",
        model="m",
        pool=None,
        stream=True,
        input_bound_tok=4_000,
        max_output_tok=100,
        choices=1,
        needs=frozenset(),
        privacy="internal",
    )
    caller = Caller(key=1, name="o/t/k", path=(1,), models=None, pools=None, privacy="internal")
    fleet = Fleet(id=1, at_us=0, pools=pools)
    answer = POLICIES["cheapest-adequate"](ask, caller, fleet, busy=[0] * len(pools), weights=weights)
    assert isinstance(answer, Route)
    return answer


DEAR, CHEAP = (
    place("dear", energy_usd_per_kwh=0.5, carbon_g_per_kwh=10.0),
    place("cheap", energy_usd_per_kwh=0.1, carbon_g_per_kwh=500.0),
)


def test_dollars_and_grams_of_the_hour_are_two_weights() -> None:
    # 1,000 prompt tokens x 0.36 J + 100 x 36 J = 3,960 J = 1.1 Wh: 0.00055 against 0.00011 dollars.
    by_energy = decided(DEAR, CHEAP, weights=Weights(usd_per_s=0.0, energy=1.0))
    assert [c.pool for c in by_energy.candidates] == ["cheap", "dear"]
    first, second = by_energy.candidates
    assert second.score - first.score == pytest.approx(0.0011 * 0.4)
    by_carbon = decided(DEAR, CHEAP, weights=Weights(usd_per_s=0.0, usd_per_kg_co2=1.0))
    assert [c.pool for c in by_carbon.candidates] == ["dear", "cheap"]
    # Worth so much that both pull alike: 0.00044 dollars against 0.0011 kWh x 490 g.
    even = 0.4 / 0.49
    both = decided(DEAR, CHEAP, weights=Weights(usd_per_s=0.0, energy=1.0, usd_per_kg_co2=even))
    assert both.candidates[0].score == pytest.approx(both.candidates[1].score)


def test_without_the_weight_no_decision_changes() -> None:
    plain = [replace(pool, energy_usd_per_kwh=None) for pool in (DEAR, CHEAP)]
    weights = Weights()
    assert decided(DEAR, CHEAP, weights=weights) == decided(*plain, weights=weights)


def test_a_place_whose_power_has_no_price_counts_as_the_dearest_known() -> None:
    unknown = place("unknown", energy_usd_per_kwh=None)
    got = decided(DEAR, CHEAP, unknown, weights=Weights(usd_per_s=0.0, energy=1.0))
    by = {c.pool: c.score for c in got.candidates}
    assert by["unknown"] == pytest.approx(by["dear"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n", "pools.edge.electricity: is not declared"),
        (TABLE.replace("to_h = 6", "to_h = 25"), "to_h"),
        (TABLE.replace("from_h = 0, to_h = 6", "from_h = 6, to_h = 6"), "hours from 6 to 6 are none"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    whole = example_text().replace('place = "edge box"', 'place = "edge box"\nelectricity = "house"') + text
    try:
        declared = msgspec.toml.decode(whole, type=Settings)
    except msgspec.ValidationError as error:
        assert words in str(error)
        return
    said = [f"{p.key}: {p.rule}" for p in problems(declared, file="x", text=whole, env={})]
    assert words in said


def test_hours_hold_on_their_days_and_in_their_months_only() -> None:
    winter = Hours(from_h=0, to_h=24, months=(12, 1), usd_per_kwh="0.9")
    table = Electricity(usd_per_kwh="0.2", hours=(winter,), source="test")
    assert now_of(table, MIDNIGHT_US).usd_per_kwh == "0.2"
    assert now_of(table, MIDNIGHT_US + 20 * 24 * HOUR_US).usd_per_kwh == "0.9"
