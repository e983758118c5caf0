"""Meters that say what cannot be: no number, less than nothing, a counter that stammers or began again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.power.counters import span
from wattmill.power.live.bank import MeterBank
from wattmill.power.live.meters.registry import open_meter
from wattmill.power.spec import MeterConfig
from wattmill.vocab.fact import MeterWindow
from wattmill.vocab.meter import MeterError, Reading

S = 1_000_000


def played(path: Path, column: str, values: Sequence[object], **rules: float) -> list[MeterWindow]:
    """Return the windows of a recording of one value a second."""
    file = path / "meter.csv"
    rows = "".join(f"{t},{value}\n" for t, value in enumerate(values))
    file.write_text(f"t_s,{column}\n{rows}")
    config = MeterConfig(name="m", source="replay", at=str(file), **rules)  # type: ignore[arg-type]
    bank = MeterBank([(config, open_meter(config))])
    return [
        window
        for t in range(len(values))
        for window in bank.sample(None, t_s=100.0 + t, wall_us=(1_000 + t) * S)
    ]


@pytest.mark.parametrize("wrong", ["nan", "inf", "-50"])
def test_a_figure_that_cannot_be_is_a_silence_and_no_end_of_the_sampler(tmp_path: Path, wrong: str) -> None:
    told = played(tmp_path, "power_w", [10, 10, wrong, 10, 10])
    assert [window.total_uj for window in told] == [10 * S, 20 * S, 10 * S], "no joule of it is made up"
    with pytest.raises(MeterError, match="turn its clamp round"):
        Reading(meter="m", t_s=0.0, power_w=float(wrong))


def test_a_gap_of_a_gauge_stands_at_the_window_after_it(tmp_path: Path) -> None:
    told = played(tmp_path, "power_w", [10, 10, *[""] * 6, 10, 10, 10])
    assert [(window.total_uj, window.event) for window in told] == [
        (10 * S, ""),
        (10 * S, "gap"),
        (10 * S, ""),
    ]


@pytest.mark.parametrize("seconds", [1, 5])
@settings(max_examples=20, deadline=None)
@given(low=st.integers(0, 20), high=st.integers(10_000, 10**9))
def test_a_counter_that_stammers_is_not_counted_from_its_beginning(
    tmp_path_factory: pytest.TempPathFactory, seconds: int, low: int, high: int
) -> None:
    """A controller that answers nothing for a while and then its life's sum again: ten watts all the time."""
    values = [high + 10 * t for t in range(20)]
    values[5 : 5 + seconds] = [low] * seconds
    told = played(tmp_path_factory.mktemp("m"), "energy_j", values)
    whole = sum(window.total_uj for window in told)
    assert abs(whole - 190 * S) <= 2 * low * S
    assert max(window.total_uj for window in told) <= (10 * (seconds + 1) + low) * S


def test_a_counter_that_began_again_is_told_once_its_second_figure_says_so(tmp_path: Path) -> None:
    told = played(tmp_path, "energy_j", [1_000, 1_010, 1_020, 3, 13, 23, 33])
    assert [(window.total_uj, window.event) for window in told] == [
        (10 * S, ""), (10 * S, ""), (13 * S, "reset"), (10 * S, ""), (10 * S, ""),
    ]  # fmt: skip


def test_more_than_a_meter_can_draw_is_not_believed_and_that_is_told(tmp_path: Path) -> None:
    jump = played(tmp_path, "energy_j", [0, 10, 20, 900_000, 900_010, 900_020, 900_030], max_w=100.0)
    assert max(window.total_uj for window in jump) == 10 * S
    assert [window.event for window in jump] == ["", "", "reset", ""]
    gauge = played(tmp_path, "power_w", [10, 10, 65_535, 10, 10, 10], max_w=100.0)
    assert [(window.total_uj, window.event) for window in gauge] == [
        (10 * S, ""),
        (10 * S, "gap"),
        (10 * S, ""),
    ]


def test_a_coarse_counters_step_is_of_all_the_time_it_stood_still(tmp_path: Path) -> None:
    """A watt-hour at a time at 36 W: a step of 3,600 J every hundred seconds is no more than 100 W."""
    told = played(tmp_path, "energy_j", [3_600 * (t // 100) for t in range(301)], max_w=100.0)
    assert sum(window.total_uj for window in told) == 3 * 3_600 * S and {w.event for w in told} == {""}


def test_a_packages_counter_that_began_again_is_not_taken_to_have_run_over(tmp_path: Path) -> None:
    """A quarter of a megajoule in a second would be the price: the machine was suspended, say."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    (zone / "energy_uj").write_text("0\n")
    spec = open_meter(MeterConfig(name="cpu", source="rapl", at=str(tmp_path))).spec
    before, after = (
        Reading(meter="cpu", t_s=t, energy_uj=uj, wraps_at_uj=262_143_328_851)
        for t, uj in ((0.0, 200_000 * S), (1.0, 5 * S))
    )
    assert span(before, after, period_s=1.0, max_w=spec.max_w) == (5 * S, "reset")
    near = Reading(meter="cpu", t_s=0.0, energy_uj=262_143 * S, wraps_at_uj=262_143_328_851)
    assert span(near, after, period_s=1.0, max_w=spec.max_w).event == "wrap"


def test_a_chip_that_comes_or_goes_leaves_a_gap_that_is_told() -> None:
    class Chips:
        def __init__(self) -> None:
            self.spec = MeterConfig(name="m", source="x").spec("two chips")

        def read(self, *, t_s: float) -> list[Reading]:
            chips = [0] if 3 <= t_s < 6 else [0, 1]
            return [Reading(meter="m", counter=str(c), t_s=t_s, energy_uj=round(10 * t_s * S)) for c in chips]

    bank = MeterBank([(MeterConfig(name="m", source="x"), Chips())])
    told = [w for t in range(9) for w in bank.sample(None, t_s=float(t), wall_us=t * S)]
    assert [(w.total_uj, w.event) for w in told] == [
        (20 * S, ""), (20 * S, ""), (10 * S, "gap"), (10 * S, ""), (20 * S, "gap"), (20 * S, ""),
    ]  # fmt: skip


def test_a_meter_that_sees_less_than_those_below_it_is_told() -> None:
    chip = MeterConfig(name="chip", source="x", level="chip", parent="node", pools=("p",))
    node = MeterConfig(name="node", source="x")

    class Steady:
        def __init__(self, config: MeterConfig, watts: float) -> None:
            self.spec, self.watts = config.spec("steady"), watts

        def read(self, *, t_s: float) -> list[Reading]:
            return [Reading(meter=self.spec.name, t_s=t_s, energy_uj=round(self.watts * t_s * S))]

    def events(node_w: float) -> set[str]:
        bank = MeterBank([(chip, Steady(chip, 100.0)), (node, Steady(node, node_w))])
        told = [w for t in range(80) for w in bank.sample(None, t_s=float(t), wall_us=t * S)]
        assert sum(w.total_uj for w in told if w.meter == "chip") == 79 * 100 * S
        return {w.event for w in told if w.meter == "node" and w.start_us > 60 * S}

    assert events(80.0) == {"short"} and events(120.0) == {""}
