"""How many racks a hall takes, and what of its power is stranded.

Water: heat = flow x density x capacity x rise (first law; density and capacity of water at 40 °C: 992 kg/m3
and 4,179 J/kg K, CRC Handbook). Weight over the floor that carries it. Oversubscription after Fan, Weber and
Barroso, "Power provisioning for a warehouse-sized computer", ISCA 2007: a group's peak is below the sum of
its members' peaks; `together` is the share of the gap between mean and peak that remains for a row (1: all
peaks at once; 1 / sqrt(n) for independent racks).
"""

from __future__ import annotations

from math import floor

from wattmill.site.racks.spec import Fill, Hall, Limit, Rack
from wattmill.units import W_PER_KW

WATER_KG_PER_L = 0.992
WATER_J_PER_KG_K = 4_179.0
_S_PER_MIN = 60.0


def flow_l_per_min(heat_w: float, rise_k: float) -> float:
    """Return the water that carries `heat_w` away while it warms by `rise_k`."""
    if rise_k <= 0:
        raise ValueError(f"rise_k must be > 0, got {rise_k}")
    return heat_w / (WATER_KG_PER_L * WATER_J_PER_KG_K * rise_k) * _S_PER_MIN


def filled(hall: Hall) -> Fill:
    """Return what stands in a hall, what binds it, and what is stranded. No rack may fit: `racks` is 0."""
    rack = hall.rack
    peak_kw = rack.peak_kw or rack.nameplate_kw
    mean_kw = rack.mean_kw or peak_kw
    counted_kw = rack.nameplate_kw if hall.counted == "nameplate" else peak_kw
    row_kw = hall.row_kw if hall.row_kw is not None else hall.row_positions * hall.feed_kw
    limits = [Limit(name="positions", racks=hall.positions, used=1, allowed=hall.positions, unit="racks")]
    limits.append(_each(hall, "feed of a position", counted_kw, hall.feed_kw, "kW"))
    in_row = _in_row(rack, hall, row_kw, counted_kw, mean_kw)
    rows, rest = divmod(hall.positions, hall.row_positions)
    limits.append(
        Limit(
            name="busway of a row",
            racks=rows * in_row + min(rest, in_row),
            used=_row_peak_kw(hall, in_row, counted_kw, mean_kw),
            allowed=row_kw,
            unit="kW",
        )
    )
    if hall.flow_l_per_min is not None:
        water = flow_l_per_min(counted_kw * W_PER_KW * rack.liquid_share, rack.rise_k)
        limits.append(_each(hall, "water of a position", water, hall.flow_l_per_min, "l/min"))
    if hall.floor_kg_per_m2 is not None:
        limits.append(_each(hall, "floor", rack.kg / rack.tiles_m2, hall.floor_kg_per_m2, "kg/m2"))
    if hall.count is not None:
        limits.append(Limit(name="racks wanted", racks=hall.count, used=1, allowed=hall.count, unit="racks"))
    tightest = min(limits, key=lambda limit: limit.racks)
    racks = tightest.racks
    provisioned_kw = hall.positions / hall.row_positions * row_kw
    nameplate_kw = racks * rack.nameplate_kw
    drawn_kw = racks * peak_kw
    # Wanted racks are a choice, not a limit: what they leave is unused, not stranded.
    most = min(limit.racks for limit in limits if limit.name != "racks wanted")
    reachable_kw = min(provisioned_kw, most * counted_kw)
    return Fill(
        racks=racks,
        binds=tightest.name,
        limits=tuple(limits),
        provisioned_kw=provisioned_kw,
        nameplate_kw=nameplate_kw,
        peak_kw=drawn_kw,
        mean_kw=racks * mean_kw,
        stranded_kw=provisioned_kw - reachable_kw,
        unused_kw=reachable_kw - min(drawn_kw, reachable_kw),
        oversubscription=nameplate_kw / provisioned_kw,
        amperes=rack.nameplate_kw * W_PER_KW / rack.volts,
    )


def _each(hall: Hall, name: str, used: float, allowed: float, unit: str) -> Limit:
    """A limit of every position: all racks pass it or none does."""
    return Limit(
        name=name, racks=hall.positions if used <= allowed else 0, used=used, allowed=allowed, unit=unit
    )


def _row_peak_kw(hall: Hall, racks: int, counted_kw: float, mean_kw: float) -> float:
    """Return what a row of `racks` draws at its own peak."""
    steady_kw = min(mean_kw, counted_kw)
    return racks * (steady_kw + hall.together * (counted_kw - steady_kw))


def _in_row(rack: Rack, hall: Hall, row_kw: float, counted_kw: float, mean_kw: float) -> int:
    one_kw = _row_peak_kw(hall, 1, counted_kw, mean_kw)
    return min(hall.row_positions, floor(row_kw / one_kw + 1e-9))
