"""Software Carbon Intensity (Green Software Foundation; ISO/IEC 21031:2024): SCI = (E x I + M) / R, with
M = TE x TS x RS: embodied emissions x share of the expected life x share of the resource. R here is a million
tokens. Valid for any functional unit that is counted; an average intensity I, not a marginal one."""

from __future__ import annotations

from collections.abc import Sequence

from wattmill.site.embodied.spec import Built, Score
from wattmill.units import G_PER_KG, G_PER_T, H_PER_YEAR, TOK_PER_MTOK


def embodied_t(things: Sequence[Built], hours: float) -> float:
    """Return M of `hours`, in tonnes."""
    years = hours / H_PER_YEAR
    kg = sum(each.count * each.kg_co2e * each.share * years / each.life_years for each in things)
    return kg * G_PER_KG / G_PER_T


def score(things: Sequence[Built], *, hours: float, operation_t: float | None, tok: float | None) -> Score:
    """Return a year's SCI. Without an intensity of the grid there is none: zero would be a claim."""
    built = embodied_t(things, hours)
    whole = None if operation_t is None or not tok else (operation_t + built) * G_PER_T / tok * TOK_PER_MTOK
    return Score(operation_t=operation_t, embodied_t=built, g_per_mtok=whole)
