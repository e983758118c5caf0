"""A lived year as an account: energy by stage that closes, ratios, money, carbon, what binds."""

from __future__ import annotations

import numpy as np

from wattmill.power.tariff.model import bill
from wattmill.site.availability.model import site_up
from wattmill.site.climate.spec import Hours, Weather
from wattmill.site.embodied.model import score
from wattmill.site.racks.model import filled
from wattmill.site.yearly.answer import (
    Binding,
    Boundary,
    Carbon,
    Energy,
    EnergyRow,
    Money,
    PerToken,
    Ratios,
    YearAnswer,
)
from wattmill.site.yearly.load import tokens
from wattmill.site.yearly.model import LEAST_MONTH_S, Lived, live
from wattmill.site.yearly.series import Zone
from wattmill.site.yearly.spec import Site
from wattmill.units import G_PER_T, J_PER_KWH, J_PER_MWH, S_PER_H, TOK_PER_MTOK, W_PER_MW
from wattmill.vocab.usage import Provenance

CLOSES_TO = 1e-3
"""Energy that comes in and energy that is accounted for differ by less, on every run."""

_AT_LIMIT = 1.0 - 1e-6
_L_PER_M3 = 1_000.0  # a cubic metre has a thousand litres


class DoesNotClose(RuntimeError):
    """The account of a year has a hole: a defect of the model, never of a declaration."""


def year(site: Site, weather: Weather, zone: Zone | None) -> YearAnswer:
    """Return the year of `site`.

    Raises `ValueError` in words for people where the site cannot be, `DoesNotClose` where energy is lost.
    """
    lived = live(site, weather, zone)
    energy = energy_of(lived)
    if energy.gap >= CLOSES_TO:
        raise DoesNotClose(f"in {energy.in_mwh:.3f} MWh, accounted for {energy.out_mwh:.3f} MWh")
    hours = len(weather.dry_bulb_c)
    money = _money(lived, zone)
    carbon = _carbon(lived)
    plant = lived.facility.carried
    return YearAnswer(
        name=site.name,
        place=weather.place,
        climate=weather.climate,
        year=weather.year,
        hours=hours,
        filled_hours=weather.filled_hours,
        units=lived.built.units,
        equipment_mw=lived.built.equipment_w / W_PER_MW,
        busy=float((lived.load.base + lived.load.deferrable).mean()),
        energy=energy,
        ratios=ratios_of(lived),
        money=money,
        carbon=carbon,
        peak_mw=float(lived.import_w.max()) / W_PER_MW,
        chiller_hours=int((plant.liquid.chiller_share > 0).sum()),
        air_chiller_hours=int((plant.air.chiller_share > 0).sum()),
        too_warm_hours=int(((plant.liquid.too_warm_k > 0) | (plant.air.too_warm_k > 0)).sum()),
        heat_sold_mwh=_mwh(lived.facility.delivered_w),
        heat_pump_cop=_cop(lived),
        water_m3=float(plant.water_l_per_s.sum()) * S_PER_H / _L_PER_M3,
        binding=_binding(lived),
        dispatch=lived.compared,
        per_token=_per_token(lived, money, carbon),
        hall=None if site.racks is None else filled(site.racks),
        up=site_up(site.parts) if site.parts else None,
        sci=score(site.embodied, hours=hours, operation_t=carbon.location_t, tok=tokens(site, hours))
        if site.embodied
        else None,
        notes=_notes(lived),
    )


def energy_of(lived: Lived) -> Energy:
    """Return where the joules came from and where each went. Nothing here is the difference of the rest."""
    f, done, site = lived.facility, lived.dispatch, lived.built.site
    stages = lived.built.chain.stages
    rows = [
        _row("grid", "in", lived.import_w),
        *([_row("sun", "in", lived.sun_w)] if site.solar is not None else []),
        _row("chips", "computing", f.chip_w),
    ]
    for stage in reversed(stages):
        where: Boundary = "computing" if stage.in_equipment else "conversion"
        rows.append(_row(stage.name, where, f.losses_w[stage.name], stage.provenance))
    rows.append(_row("feed of the cooling plant", "conversion", f.plant_feed_w, "declared"))
    loops = (("water loop", f.carried.liquid), ("air loop", f.carried.air))
    for name, loop in loops:
        for part, watts in (
            ("fans outside", loop.fan_w),
            ("pumps", loop.pump_w),
            ("fans inside", loop.inside_fan_w),
            ("chiller", loop.chiller_w),
        ):
            if watts.any():
                rows.append(_row(f"{name}: {part}", "cooling", watts))
    if f.fixed_w:
        rows.append(_row("light, controls, offices", "other", np.full_like(f.chip_w, f.fixed_w), "declared"))
    if f.heat_pump_w.any():
        rows.append(_row("heat pump of the buyer", "other", f.heat_pump_w))
    if site.battery is not None:
        battery = site.battery.battery()
        lost_w = done.charge_w * (1.0 - battery.charge_efficiency)
        lost_w = lost_w + done.discharge_w * (1.0 / battery.discharge_efficiency - 1.0)
        rows.append(_row("battery: losses", "other", lost_w))
        stored = EnergyRow(
            name="battery: left in it",
            boundary="out",
            mwh=float(done.stored_j[-1]) / J_PER_MWH,
            provenance="modelled",
        )
        rows.append(stored)
    if lived.export_w.any():
        rows.append(_row("grid, given back", "out", lived.export_w))
    return Energy(
        rows=tuple(rows),
        in_mwh=sum(row.mwh for row in rows if row.boundary == "in"),
        out_mwh=sum(row.mwh for row in rows if row.boundary != "in"),
    )


def ratios_of(lived: Lived) -> Ratios:
    f = lived.facility
    equipment = float(f.equipment_w.sum())
    inside = float(f.inside_w.sum())
    chips = float(f.chip_w.sum())
    chain = chips + sum(float(watts.sum()) for watts in f.losses_w.values())
    water_l = float(f.carried.water_l_per_s.sum()) * S_PER_H
    return Ratios(
        pue=inside / equipment,
        peak_pue=float(f.inside_w.max()) / float(f.equipment_w.max()),
        tue=inside / chips,
        wue_l_per_kwh=water_l / (equipment * S_PER_H / J_PER_KWH),
        ere=(inside - float(f.taken_w.sum())) / equipment,
        chain_efficiency=chips / chain,
    )


def _row(name: str, boundary: Boundary, watts: Hours, provenance: Provenance = "modelled") -> EnergyRow:
    return EnergyRow(name=name, boundary=boundary, mwh=_mwh(watts), provenance=provenance)


def _mwh(watts: Hours) -> float:
    return float(watts.sum()) * S_PER_H / J_PER_MWH


def _cop(lived: Lived) -> float | None:
    f = lived.facility
    pump = float(f.heat_pump_w.sum())
    return float(f.delivered_w.sum()) / pump if pump else None


def _money(lived: Lived, zone: Zone | None) -> Money:
    site, tariff = lived.built.site, lived.built.site.grid.tariff
    months = bill(
        tariff,
        start=lived.weather.start(site.place.utc_offset_h),
        step_s=S_PER_H,
        import_w=lived.import_w,
        export_w=lived.export_w,
        real_time_usd_per_kwh=zone.usd_per_kwh if zone is not None and tariff.real_time else None,
        least_month_s=LEAST_MONTH_S,
    )
    sun_mwh = _mwh(lived.sun_w + lived.curtailed_w)
    return Money(
        energy_usd=sum(month.energy_usd for month in months),
        demand_usd=sum(month.demand_usd for month in months),
        minimum_usd=sum(month.minimum_usd for month in months),
        export_usd=sum(month.export_usd for month in months),
        sun_usd=0.0 if site.solar is None else sun_mwh * site.solar.usd_per_mwh,
        heat_usd=0.0 if site.heat is None else _mwh(lived.facility.delivered_w) * site.heat.usd_per_mwh,
        months=months,
    )


def _carbon(lived: Lived) -> Carbon:
    site, intensity = lived.built.site, lived.g_per_kwh
    if intensity is None:
        return Carbon(location_t=None, market_t=None, mean_g_per_kwh=None)
    kwh = lived.import_w * (S_PER_H / J_PER_KWH)
    bought = float((kwh * intensity).sum())
    panels = 0.0
    if site.solar is not None:
        panels = float(lived.sun_w.sum()) * S_PER_H / J_PER_KWH * site.solar.g_per_kwh
    market: float | None = None
    if site.grid.contract_share is not None:
        share, residual = site.grid.contract_share, site.grid.residual_g_per_kwh
        rest = bought if residual is None else float(kwh.sum()) * residual
        market = float(kwh.sum()) * share * site.grid.contract_g_per_kwh + (1.0 - share) * rest + panels
    return Carbon(
        location_t=(bought + panels) / G_PER_T,
        market_t=None if market is None else market / G_PER_T,
        mean_g_per_kwh=bought / float(kwh.sum()) if kwh.any() else None,
        months_g_per_kwh=_by_month(lived, kwh, intensity),
    )


def _by_month(lived: Lived, kwh: Hours, intensity: Hours) -> tuple[float, ...]:
    """Return the intensity of what was bought in each month of the site's clock."""
    start = lived.weather.start(lived.built.site.place.utc_offset_h).replace(tzinfo=None)
    local = np.datetime64(start, "h") + np.timedelta64(round(lived.built.site.place.utc_offset_h), "h")
    months = (local + np.arange(len(kwh)) * np.timedelta64(1, "h")).astype("datetime64[M]")
    found = []
    for month in np.unique(months):
        at = months == month
        bought = float(kwh[at].sum())
        if bought and int(at.sum()) * S_PER_H >= LEAST_MONTH_S:
            found.append(float((kwh[at] * intensity[at]).sum()) / bought)
    return tuple(found)


def _binding(lived: Lived) -> tuple[Binding, ...]:
    b, f = lived.built, lived.facility
    compared = lived.compared
    share = f.chip_w / b.chip_w
    rows = [
        Binding(
            limit="equipment at work",
            unit="MW",
            used=float(f.equipment_w.max()) / W_PER_MW,
            allowed=b.equipment_w / W_PER_MW,
            hours=int((share >= _AT_LIMIT).sum()),
            worth_usd=None if compared is None else compared.load_worth_usd,
        )
    ]
    if lived.limits.import_w is not None:
        rows.append(
            Binding(
                limit="interconnection",
                unit="MW",
                used=float(lived.import_w.max()) / W_PER_MW,
                allowed=lived.limits.import_w / W_PER_MW,
                hours=int((lived.import_w >= lived.limits.import_w * _AT_LIMIT).sum()),
                worth_usd=None if compared is None else compared.import_worth_usd,
            )
        )
    if lived.limits.ramp_w_per_step is not None:
        steps = np.abs(np.diff(lived.import_w))
        rows.append(
            Binding(
                limit="ramp of the grid",
                unit="MW/h",
                used=float(steps.max()) / W_PER_MW,
                allowed=lived.limits.ramp_w_per_step / W_PER_MW,
                hours=int((steps >= lived.limits.ramp_w_per_step * (1.0 - 1e-3)).sum()),
                worth_usd=None,
            )
        )
    for stage in b.full.stages:
        if stage.load_share is not None and not stage.in_equipment:
            peak = float(f.chip_w.max()) / b.chip_w * stage.load_share
            rows.append(
                Binding(
                    limit=f"{stage.name}, of its rating",
                    unit="share",
                    used=peak,
                    allowed=1.0,
                    hours=int(peak >= _AT_LIMIT),
                    worth_usd=None,
                )
            )
    for name, loop in (("water", f.carried.liquid), ("air", f.carried.air)):
        if loop.too_warm_k.any():
            rows.append(
                Binding(
                    limit=f"supply of {name}, above its promise",
                    unit="K",
                    used=float(loop.too_warm_k.max()),
                    allowed=0.0,
                    hours=int((loop.too_warm_k > 0).sum()),
                    worth_usd=None,
                )
            )
    return tuple(rows)


def _per_token(lived: Lived, money: Money, carbon: Carbon) -> PerToken | None:
    tok = tokens(lived.built.site, len(lived.import_w))
    if not tok:
        return None
    return PerToken(
        tok=tok,
        j_per_tok=float((lived.import_w + lived.sun_w - lived.export_w).sum()) * S_PER_H / tok,
        chip_j_per_tok=float(lived.facility.chip_w.sum()) * S_PER_H / tok,
        usd_per_mtok=money.usd / tok * TOK_PER_MTOK,
        g_per_mtok=None if carbon.location_t is None else carbon.location_t * G_PER_T / tok * TOK_PER_MTOK,
    )


def _notes(lived: Lived) -> tuple[str, ...]:
    site, notes = lived.built.site, list[str]()
    tariff = site.grid.tariff
    if tariff.demand_usd_per_kw and tariff.demand_s < S_PER_H:
        notes.append("hours hide their highest quarter: the demand charge is a lower bound")
    if tariff.ratchet and lived.compared is not None:
        notes.append("the dispatch does not know the ratchet; the bill does")
    if lived.weather.filled_hours:
        notes.append(f"{lived.weather.filled_hours} hours of weather are those beside them")
    plant = site.cooling
    if "wet" in (plant.liquid.cooler, plant.air.cooler):
        notes.append("wet coolers: all heat is taken to leave by evaporation, an upper bound of the water")
    if site.solar is not None and lived.weather.sun_w_m2 is None:
        notes.append("sun from cloud cover, not from radiation: some 15 % over a year")
    return tuple(notes)
