"""A bill by hand: energy by the hour, the month's peak, the ratchet, the minimum, what goes out."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from wattmill.power.tariff.model import bill
from wattmill.power.tariff.spec import Tariff, Window

START = datetime(2024, 1, 31, 22, tzinfo=UTC)


def tariff(**fields: object) -> Tariff:
    return Tariff(name="t", source="test", provenance="declared", **fields)  # type: ignore[arg-type]


def test_a_flat_tariff_charges_each_kilowatt_hour_in_the_month_in_which_it_was_taken() -> None:
    got = bill(tariff(usd_per_kwh=0.1), start=START, step_s=3600, import_w=np.array([1e3, 1e3, 2e3, 2e3]))
    assert [(month.month, month.energy_kwh) for month in got] == [("2024-01", 2.0), ("2024-02", 4.0)]
    assert [month.usd for month in got] == pytest.approx([0.2, 0.4])


def test_the_tariffs_own_clock_decides_which_window_an_hour_is_in() -> None:
    # 22:00 UTC is 17:00 in New York: the peak window is 17 to 19, then the flat price.
    windows = (Window(usd_per_kwh=0.3, from_hour=17, to_hour=19),)
    got = bill(
        tariff(usd_per_kwh=0.1, windows=windows, utc_offset_h=-5),
        start=START,
        step_s=3600,
        import_w=np.array([1e3, 1e3, 1e3]),
    )
    assert sum(month.energy_usd for month in got) == pytest.approx(0.3 + 0.3 + 0.1)


def test_a_night_window_goes_over_midnight_and_one_without_an_hour_is_refused() -> None:
    night = (Window(usd_per_kwh=0.05, from_hour=22, to_hour=6),)
    day = datetime(2024, 3, 5, tzinfo=UTC)
    got = bill(tariff(usd_per_kwh=0.2, windows=night), start=day, step_s=3600, import_w=np.full(24, 1e3))
    assert sum(month.energy_usd for month in got) == pytest.approx(8 * 0.05 + 16 * 0.2)
    with pytest.raises(ValueError, match="has no hour"):
        Window(usd_per_kwh=0.05, from_hour=6, to_hour=6)


def test_the_peak_is_a_mean_over_a_quarter_of_an_hour() -> None:
    five_minutes = np.array([0, 3e3, 0, 1e3, 1e3, 1e3])  # means 1 kW and 1 kW, never 3
    got = bill(tariff(demand_usd_per_kw=10), start=START, step_s=300, import_w=five_minutes)
    assert got[0].peak_kw == pytest.approx(1.0)
    assert got[0].demand_usd == pytest.approx(10.0)


def test_a_ratchet_charges_a_share_of_an_old_peak() -> None:
    got = bill(
        tariff(demand_usd_per_kw=10, ratchet=0.8),
        start=START,
        step_s=3600,
        import_w=np.array([1e3, 1e3, 2e3]),
        peaks_before_kw=(5.0,),
    )
    assert [month.charged_kw for month in got] == pytest.approx([4.0, 4.0])


def test_what_was_not_taken_is_paid_up_to_the_minimum_and_what_went_out_is_earned() -> None:
    got = bill(
        tariff(usd_per_kwh=0.1, least_kwh_per_month=10, export_usd_per_kwh=0.05),
        start=datetime(2024, 3, 1, tzinfo=UTC),
        step_s=3600,
        import_w=np.array([4e3, 0.0]),
        export_w=np.array([0.0, 2e3]),
    )
    assert got[0].minimum_usd == pytest.approx(0.6)
    assert got[0].usd == pytest.approx(0.4 + 0.6 - 0.1)


def test_a_few_hours_of_another_month_are_billed_with_the_one_beside_them() -> None:
    # Two hours of January, then February: one demand charge, not two.
    taken = np.full(72, 1e3)
    apart = bill(tariff(demand_usd_per_kw=10), start=START, step_s=3600, import_w=taken)
    together = bill(
        tariff(demand_usd_per_kw=10), start=START, step_s=3600, import_w=taken, least_month_s=2 * 86400
    )
    assert [(m.month, m.demand_usd) for m in apart] == [("2024-01", 10.0), ("2024-02", 10.0)]
    assert [(m.month, m.demand_usd) for m in together] == [("2024-02", 10.0)]


def test_a_real_time_tariff_without_its_series_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="tariff 't' needs a series of prices"):
        bill(tariff(real_time=True), start=START, step_s=3600, import_w=np.array([1.0]))
