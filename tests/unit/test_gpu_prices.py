"""Prices of GPU-hours say what they contain, and failures are counted over GPU-years."""

from __future__ import annotations

import pytest

from wattmill.compute.catalogue import accelerator
from wattmill.compute.prices import CONTAINS, gpu_prices, prices_of
from wattmill.compute.reliability import failures, unavailable_share


def test_every_price_names_its_source_and_what_it_contains():
    prices = gpu_prices()
    assert len(prices) == 46
    assert all(p.source and p.usd_per_gpu_h > 0 for p in prices)
    assert {p.kind for p in prices} == set(CONTAINS)


def test_every_price_with_a_part_points_into_the_catalogue():
    for price in gpu_prices():
        if price.accelerator is not None:
            assert accelerator(price.accelerator).name == price.accelerator


def test_prices_that_disagree_are_all_returned_the_cheapest_first():
    listed = prices_of("H100-SXM", "on_demand_list")
    assert [p.usd_per_gpu_h for p in listed] == [2.4, 3.49, 3.99]


def test_energy_comes_out_of_a_price_once():
    # 1.30 USD - 1.73 kW x 0.8 x 0.07 USD/kWh = 1.30 - 0.09688
    (price,) = prices_of("H100-SXM", "tco_hyperscaler")
    assert price.usd_per_gpu_h_without_energy(usd_per_kwh=0.07, mean_load=0.8) == pytest.approx(1.20312)


def test_energy_of_unknown_power_is_not_guessed():
    with pytest.raises(ValueError, match="states no power"):
        prices_of("H100-SXM", "on_demand_list")[0].usd_per_gpu_h_without_energy(usd_per_kwh=0.07)


def test_energy_dearer_than_the_price_is_refused():
    with pytest.raises(ValueError, match="exceeds"):
        prices_of("H100-SXM", "rental")[0].usd_per_gpu_h_without_energy(usd_per_kwh=1.0)


def test_failures_are_counted_over_the_fleets_years():
    # 16,384 devices x 54 days / 365.25 = 2,422.3 GPU-years; 419 interruptions, 262 of them of the device
    every, device = failures(), failures("device")
    assert every.count == 419
    assert every.per_gpu_year == pytest.approx(0.173, abs=5e-4)
    assert device.count == 148 + 72 + 19 + 17 + 6
    assert device.low < device.per_gpu_year < device.high
    with pytest.raises(ValueError, match="layers: device"):
        failures("gremlins")


def test_a_replica_of_more_devices_is_down_longer():
    # 0.173 a year x 8 devices x 1 day of 365.25 = 0.003789 -> 0.003775
    assert unavailable_share(0.173, gpus=8, repair_s=86_400.0) == pytest.approx(0.003775, abs=1e-6)
    assert unavailable_share(0.173, gpus=1, repair_s=86_400.0) < unavailable_share(
        0.173, gpus=8, repair_s=86_400.0
    )
