"""A recorded period played on the fitted engine: what the twin says of each figure, and what the books do."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import msgspec

from wattmill.ledger.rating import Unpriced, rate
from wattmill.twin.calibration.compare import Played, Rates, errors, figures_of, measured, played
from wattmill.twin.calibration.recorded import Recorded
from wattmill.twin.calibration.spec import GOAL, Calibration, Drawn, Figures
from wattmill.twin.engine.spec import EngineLimits, StepCost
from wattmill.units import NUSD_PER_USD, S_PER_H, TOK_PER_MTOK
from wattmill.vocab.price import Price
from wattmill.vocab.usage import Provenance, Usage, weakest

JUDGED = ("served_tok_per_s", "ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s")
"""Figures that the error is a median of. Tokens by second of a whole period are not among them: requests are
played when they came, so a twin of any speed makes nearly as many."""

FOREIGN_SHARE = 0.1
_NO_RATES = Rates()


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. `provenance` is that of `recorded`; what the twin says is always modelled."""

    figure: str
    predicted: float
    recorded: float
    error: float  # predicted / recorded - 1
    holds: bool
    provenance: Provenance
    judged: bool  # it could have come out otherwise, and counts in the error


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    lines: tuple[Line, ...]
    median_error: float  # over the judged figures of time and speed
    ttft_error: float | None  # median over the requests, each by itself
    tpot_error: float | None
    judged: int  # requests
    outside: int  # of these: longer or shorter by more than twice than what was fitted on
    notes: tuple[str, ...]


def drawn(period: Recorded, cost: StepCost, limits: EngineLimits) -> Drawn | None:
    """Return the watts that the books put on the period's requests while a step ran, on the fitted engine."""
    busy_s = played(period.sweep, cost, limits).busy_s
    tokens = sum(one.output_tok for one in period.works)
    if period.energy_j is None or period.energy_provenance == "unknown" or busy_s <= 0:
        return None
    whole_j = period.energy_j * tokens / period.energy_tok
    return Drawn(busy_w=whole_j / busy_s, provenance=period.energy_provenance)


def replayed(
    period: Recorded,
    calibration: Calibration,
    *,
    hour_usd: float | None = None,
    prices: Mapping[int, Price] | None = None,
) -> Replayed:
    """Play the period on the calibrated engine and hold the two beside each other.

    Args:
        hour_usd: what an hour of the place costs while it serves, in dollars.
        prices: versions of prices by id, to rate the replayed tokens again.

    Raises `ValueError` where a request could not run on the calibrated engine: the message says which limit.
    """
    ran = played(period.sweep, calibration.cost, calibration.limits)
    told, real = figures_of(period.sweep, ran, _NO_RATES), measured(period.sweep, _NO_RATES)
    lines = [
        _line(name, getattr(told, name), getattr(real, name), "measured", judged=name in JUDGED)
        for name in ("output_tok_per_s", *JUDGED)
    ]
    lines.append(_energy(period, calibration, ran))
    lines.append(_hours(told, real, hour_usd))
    lines.append(_booked(period, prices or {}))
    found = [abs(error) for error in errors([(told, real)], JUDGED)]
    ttft, tpot = _by_request(period, ran)
    outside = (
        0
        if calibration.covers is None
        else sum(calibration.covers.outside(one.prefill_tok, one.output_tok) for one in period.judged)
    )
    return Replayed(
        lines=tuple(line for line in lines if line is not None),
        median_error=median(found),
        ttft_error=ttft,
        tpot_error=tpot,
        judged=len(period.judged),
        outside=outside,
        notes=tuple(_notes(period, calibration, outside)),
    )


def _line(
    name: str, told: float | None, real: float | None, provenance: Provenance, *, judged: bool
) -> Line | None:
    if told is None or not real:
        return None
    error = told / real - 1
    return Line(
        figure=name,
        predicted=told,
        recorded=real,
        error=error,
        holds=abs(error) <= GOAL,
        provenance=provenance,
        judged=judged,
    )


def _energy(period: Recorded, calibration: Calibration, ran: Played) -> Line | None:
    """Joules that the books put on requests, idle ones not among them, by output token."""
    told, tokens = calibration.drawn, sum(one.output_tok for one in period.works)
    if told is None or period.energy_j is None or not period.energy_tok:
        return None
    return _line(
        "j_per_tok",
        told.busy_w * ran.busy_s / tokens,
        period.energy_j / period.energy_tok,
        weakest((told.provenance, period.energy_provenance)),
        judged=True,
    )


def _hours(told: Figures, real: Figures, hour_usd: float | None) -> Line | None:
    """Dollars of the hours in which anything was in flight, by a million output tokens."""
    if hour_usd is None or not told.served_tok_per_s or not real.served_tok_per_s:
        return None
    second_usd = hour_usd / S_PER_H * TOK_PER_MTOK
    return _line(
        "usd_per_mtok",
        second_usd / told.served_tok_per_s,
        second_usd / real.served_tok_per_s,
        "declared",
        judged=True,
    )


def _booked(period: Recorded, prices: Mapping[int, Price]) -> Line | None:
    """Dollars at the price by token, as booked and as the replayed tokens are rated again."""
    again = booked = tokens = 0
    for one in period.judged:
        price = prices.get(one.cost_price)
        if price is None:
            return None
        try:
            again += rate(
                price, Usage(one.prefill_tok + one.cached_tok, one.output_tok, cached_tok=one.cached_tok)
            )
        except Unpriced:
            return None
        booked += one.cost_nusd
        tokens += one.output_tok
    if not tokens:
        return None
    scale = TOK_PER_MTOK / NUSD_PER_USD / tokens
    return _line("booked_usd_per_mtok", again * scale, booked * scale, "declared", judged=False)


def _by_request(period: Recorded, ran: Played) -> tuple[float | None, float | None]:
    """Return the median errors, request by request, of the time to the first token and of that per token."""
    ttft: list[float] = []
    tpot: list[float] = []
    for i, at_s, first_s, end_s in zip(ran.order, ran.at_s, ran.first_s, ran.end_s, strict=True):
        one = period.sweep.seen[i]
        if one.company or one.first_s is None:
            continue
        ttft.append(abs((first_s - at_s) / max(one.first_s - one.at_s, 1e-6) - 1))
        if one.output_tok > 1:
            tpot.append(abs((end_s - first_s) / max(one.end_s - one.first_s, 1e-6) - 1))
    return (median(ttft) if ttft else None), (median(tpot) if tpot else None)


def _notes(period: Recorded, calibration: Calibration, outside: int) -> list[str]:
    notes: list[str] = []
    covers = calibration.covers
    if covers is None:
        notes.append("the calibration does not say what lengths it was fitted on: made by an older version")
    elif outside:
        notes.append(
            f"{outside} of {len(period.judged)} requests lie beyond twice the lengths of the fit (prompts "
            f"{covers.prompt_tok[0]} to {covers.prompt_tok[1]} tokens, answers {covers.output_tok[0]} to "
            f"{covers.output_tok[1]}): extrapolated"
        )
    if covers is not None and period.at_once > 2 * covers.at_once:
        notes.append(f"{period.at_once} requests at once, {covers.at_once} at most in the fit: extrapolated")
    fitted = calibration.period_us
    if fitted is not None and fitted[0] < period.until_us and period.since_us < fitted[1]:
        notes.append("this period overlaps the one of the fit: its error flatters")
    return notes + about(period)


def about(period: Recorded) -> list[str]:
    """Return what a reader should know of the period itself."""
    notes: list[str] = []
    if period.queued:
        notes.append(
            f"{period.queued} requests waited at the gate before they were sent: that wait is not in the "
            "figures (`wattmill simulate` plays gates)"
        )
    if period.unknown:
        notes.append(f"{period.unknown} attempts were never counted: what they took is not played")
    cached = sum(one.cached_tok for one in period.works)
    prompts = cached + sum(one.prefill_tok for one in period.works)
    if cached > 0.2 * prompts:
        notes.append(
            f"{cached / prompts:.0%} of the prompt tokens came from the engine's cache: the replay leaves "
            "them out, computed and as context"
        )
    if period.foreign_share is not None and period.foreign_share > FOREIGN_SHARE:
        notes.append(
            f"programs beside the factory took {period.foreign_share:.0%} of the meters' joules above idle: "
            "an engine on this machine was slower than it is by itself"
        )
    if period.energy_j is None:
        notes.append(
            "no J/token: the books put no joules on these requests (no meter, or not settled yet: wait a "
            "minute)"
        )
    return notes
