"""`wattmill meters joules`: grams beside joules, where somebody told the carbon."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from wattmill.app.energy_views import EnergyView
from wattmill.cli.meters import _show
from wattmill.ledger.stores.sqlite_energy import MeterSums

HOST = MeterSums(
    meter="host", parent="", windows=37, seconds=37.2, total_uj=2_412_987_668, idle_uj=744_218_716,
    service_uj=8_088_769, foreign_uj=1_326_300_331, overhead_uj=0, unattributed_uj=7_190_017,
    host_uj=29_661_533, ug=201_082, provenance=("modelled",), source="host model", weights="declared",
    events={},
)  # fmt: skip


def view(*meters: MeterSums) -> EnergyView:
    return EnergyView(
        meters=meters, keys=(), rule="unallocated", shared_uj=0, unallocated_uj=0, unallocated_usd=Decimal(0)
    )


def test_grams_stand_beside_joules_where_the_carbon_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    # By hand: 2,412.99 J at 300 g/kWh are 0.201082 g.
    _show(view(HOST, msgspec.structs.replace(HOST, meter="board", ug=None)))
    lines = capsys.readouterr().out.splitlines()
    (head,) = (line for line in lines if "CO2e g" in line)
    (host,) = (line for line in lines if line.strip().startswith("host ") and "modelled" in line)
    assert "0.201082" in host and head
    _show(view(msgspec.structs.replace(HOST, ug=None)))
    assert "CO2e" not in capsys.readouterr().out
