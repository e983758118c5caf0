"""Prices: what providers list and what owned places cost, as exact integer rates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import genai_prices
import msgspec
import pytest

from wattmill.ledger.cost_basis import owned_rates
from wattmill.ledger.price_book import Listing, Omitted, list_price, providers, publish_listing, read_provider
from wattmill.ledger.rating import rate
from wattmill.ledger.stores.control import Control
from wattmill.units import usd_from_nusd
from wattmill.vocab.price import Price
from wattmill.vocab.usage import Usage

NOW = 1_790_000_000_000_000


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with Control(tmp_path / "control.db") as control:
        yield control


def listing(model: str, provider: str = "openai") -> Listing:
    found = list_price(provider, model)
    assert isinstance(found, Listing), found
    return found


def test_the_hand_calculated_owned_place_costs_what_the_formula_says() -> None:
    # A working hour: 0.02 USD / 0.5 + 50 W x 0.25 USD/kWh = 0.04 + 0.0125 = 0.0525 USD.
    # It computes 200 x 3600 = 720,000 prompt tokens or makes 50 x 3600 = 180,000 output tokens, so
    # 0.0525 / 0.72 = 0.0729166... and 0.0525 / 0.18 = 0.2916666... USD per million; cached costs a tenth.
    rates = owned_rates(
        hourly_usd="0.02",
        power_w=50.0,
        tariff_usd_per_kwh="0.25",
        prefill_tok_per_s=200.0,
        decode_tok_per_s=50,
        utilization=0.5,
        cached_share=0.1,
    )
    assert rates == (72_916_667, 7_291_667, 72_916_667, None, 291_666_667, 291_666_667, None)


def test_idle_watts_are_paid_by_the_working_hours() -> None:
    # A quarter of the hours works: 3 idle hours x 20 W x 0.5 USD/kWh = 0.03 USD for each working one.
    rates = owned_rates(
        hourly_usd=0,
        power_w=0,
        idle_w=20,
        tariff_usd_per_kwh="0.5",
        prefill_tok_per_s=1,
        decode_tok_per_s=1,
        utilization=0.25,
        cached_share=0,
    )
    # 0.03 USD per 3,600 tokens is 8.333... USD per million.
    assert rates[0] == 8_333_333_333
    assert rates[1] == 0


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("utilization", 0, "must be above 0"),
        ("utilization", 1.5, "must be 0 to 1"),
        ("hourly_usd", "-1", "must be >= 0"),
        ("decode_tok_per_s", 0, "must be > 0"),
        ("power_w", float("nan"), "must be a finite number"),
        ("tariff_usd_per_kwh", "cheap", "must be a finite number"),
    ],
)
def test_an_impossible_cost_basis_names_the_figure(name: str, value: float | str, rule: str) -> None:
    basis: dict[str, float | str] = {
        "hourly_usd": "1",
        "power_w": 1,
        "tariff_usd_per_kwh": "1",
        "prefill_tok_per_s": 1,
        "decode_tok_per_s": 1,
        "utilization": 1,
        "cached_share": 1,
    }
    with pytest.raises(ValueError, match=f"{name} is .*{rule}"):
        owned_rates(**(basis | {name: value}))


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4o", "gpt-4.1", "o3-mini"])
def test_a_listed_price_charges_what_the_data_package_charges(model: str) -> None:
    found = listing(model)
    price = Price(
        id=1, book="openai", model=model, rates_nusd_per_mtok=found.versions[-1].rates_nusd_per_mtok
    )
    ours = rate(
        price, Usage(prompt_tok=1_000_000, output_tok=500_000, cached_tok=400_000, reasoning_tok=90_000)
    )
    theirs = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=1_000_000,
            output_tokens=500_000,
            cache_read_tokens=400_000,
            output_reasoning_tokens=90_000,
        ),
        model,
        provider_id="openai",
        genai_request_timestamp=dt.datetime(2026, 11, 1, tzinfo=dt.UTC),
    ).total_price
    assert usd_from_nusd(ours) == theirs


def test_audio_without_a_price_stays_unpriced() -> None:
    assert listing("gpt-4o-mini").versions[0].rates_nusd_per_mtok[3] is None


def test_dated_prices_become_dated_versions(control: Control) -> None:
    published = publish_listing(control, listing("o3"), book="openai", now_us=NOW)
    assert [price.effective_us for price in published.new] == [0, 1_749_513_600_000_000]
    assert published.price == published.new[-1]
    day = dt.datetime(2025, 6, 10, tzinfo=dt.UTC).timestamp()
    before = control.price_at("openai", "o3", int(day * 1e6) - 1)
    assert before is not None and before.rates_nusd_per_mtok[0] == 10_000_000_000


def test_an_import_that_runs_twice_publishes_nothing_the_second_time(control: Control) -> None:
    first = publish_listing(control, listing("o3"), book="openai", now_us=NOW)
    second = publish_listing(control, listing("o3"), book="openai", now_us=NOW + 1)
    assert (len(first.new), len(second.new), second.price) == (2, 0, first.price)


def test_a_list_that_changed_holds_from_now_on_and_rewrites_nothing(control: Control) -> None:
    found = listing("gpt-4o-mini")
    old = publish_listing(control, found, book="openai", now_us=NOW).price
    dearer = msgspec.structs.replace(
        found, versions=(msgspec.structs.replace(found.versions[0], request_nusd=5),)
    )
    new = publish_listing(control, dearer, book="openai", now_us=NOW + 10)
    assert [price.effective_us for price in new.new] == [NOW + 10]
    assert control.price_at("openai", "gpt-4o-mini", NOW + 9) == old


def test_what_a_price_cannot_say_is_named() -> None:
    notes = listing("gpt-4o").notes
    assert "not priced here: web_searches_kcount = 10 USD" in notes
    assert "variant not used: processing=batch" in notes


def test_a_price_that_jumps_with_the_prompt_is_left_out_unless_a_tier_is_chosen() -> None:
    refused = list_price("openai", "gpt-5.4")
    assert isinstance(refused, Omitted)
    assert "above 272000 input tokens" in refused.reason and "--tiers highest" in refused.reason
    base, highest = (list_price("openai", "gpt-5.4", tiers=t) for t in ("base", "highest"))  # type: ignore[arg-type]
    assert isinstance(base, Listing) and isinstance(highest, Listing)
    assert base.versions[0].rates_nusd_per_mtok[0] == 2_500_000_000
    assert highest.versions[0].rates_nusd_per_mtok[0] == 5_000_000_000
    assert highest.notes[0].startswith("highest tier taken of: ")


def test_every_model_of_every_provider_is_listed_or_left_out_with_a_reason() -> None:
    entries = [entry for provider in providers() for entry in read_provider(provider)]
    assert len(entries) > 1_000
    for entry in entries:
        if isinstance(entry, Listing):
            assert entry.versions[0].effective_us == 0
            assert all(version.rates_nusd_per_mtok[0] is not None for version in entry.versions)
        else:
            assert entry.reason


def test_an_unknown_provider_or_model_says_what_there_is() -> None:
    with pytest.raises(LookupError, match="provider is 'opena', must be one of: anthropic"):
        list_price("opena", "x")
    assert list_price("openai", "nope") == Omitted(
        provider="openai", model="nope", reason="not in the data of this provider"
    )
