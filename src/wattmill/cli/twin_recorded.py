"""`wattmill twin calibrate --pool` and `check --pool`: from what the books of a factory hold of a period."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from wattmill.app.declared.declaration import restored
from wattmill.app.declared.plan import Place, places
from wattmill.app.declared.pool_settings import HttpPool, OwnedCost
from wattmill.app.declared.settings import Settings
from wattmill.app.running.engines import embedded_specs
from wattmill.cli.control_door import factory_in, fail, show_json, show_table
from wattmill.cli.pictures import write_pictures
from wattmill.cli.spans import instant_us
from wattmill.cli.twin_words import engine_words
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.units import J_PER_KWH, S_PER_H, US_PER_S
from wattmill.vocab.price import Price

if TYPE_CHECKING:
    from wattmill.twin.calibration.recorded import Recorded
    from wattmill.twin.calibration.replayed import Replayed
    from wattmill.twin.calibration.spec import Calibration
    from wattmill.twin.engine.spec import EngineLimits
    from wattmill.twin.plots.chart import Chart

FIT_MOST = 1_000
"""Requests of a period that a fit looks at: it plays them some two thousand times."""
_LONGEST_S = 31 * 24 * S_PER_H
_ADAPTERS = {"vllm": "vllm", "llama.cpp": "llamacpp"}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the engine as the command was told; None: as declared."""

    scheduler: str | None
    slots: int | None
    batch: int | None
    context: int | None


def calibrate_recorded(
    home: Path, pool: str, *, since: str, until: str | None, asked: Asked, json: bool
) -> None:
    """Fit the twin's engine to a period of the books."""
    settings, _ = _declared(home)
    scheduler, limits = _limits(settings, pool, asked)
    period = _period(home, pool, since=since, until=until)
    from wattmill.twin.calibration.fit import fit  # heavy: only once there is something to fit
    from wattmill.twin.calibration.kept import keep
    from wattmill.twin.calibration.recorded import thinned, unseen
    from wattmill.twin.calibration.replayed import JUDGED, about, drawn
    from wattmill.twin.calibration.spec import Calibration

    part = thinned(period, FIT_MOST)
    if not json:
        typer.echo(_told(period), err=True)
        typer.echo(f"fitting {len(part.works)} requests; this takes up to a minute", err=True)
    try:
        cost, error = fit([part.sweep], limits, figures=JUDGED)
        power = drawn(part, cost, limits)
    except ValueError as refused:
        fail(str(refused))
    calibration = Calibration(
        model=f"{pool}/{period.model}",
        engine=scheduler,
        at_us=_now_us(),
        cost=cost,
        limits=limits,
        rows=len(part.judged),
        fit_error=error,
        covers=period.covers,
        period_us=(period.since_us, period.until_us),
        drawn=power,
    )
    path = keep(home, calibration)
    notes = [*_thin(period), *unseen(period.covers), *about(period)]
    if json:
        show_json({**msgspec.to_builtins(calibration), "notes": notes})
        return
    covers = period.covers
    typer.echo(f"{calibration.model} ({scheduler}): {engine_words(cost)}")
    typer.echo(
        f"fitted on {calibration.rows} requests of the ledger, median error {error:.1%}; prompts "
        f"{covers.prompt_tok[0]} to {covers.prompt_tok[1]} tokens, answers {covers.output_tok[0]} to "
        f"{covers.output_tok[1]}, {covers.at_once} at once at most"
    )
    if power is not None:
        typer.echo(f"{power.busy_w:.1f} W on requests while a step runs ({power.provenance}: booked joules)")
    for note in notes:
        typer.echo(f"note: {note}")
    typer.echo(f"kept in {path}; hold it against another period: wattmill twin check --pool {pool}")


def check_recorded(
    home: Path,
    pool: str,
    *,
    since: str,
    until: str | None,
    hour_usd: float | None,
    plots: Path | None,
    json: bool,
) -> None:
    """Replay a period of the books on the calibrated engine and print both."""
    from wattmill.twin.calibration.kept import keep, kept

    settings, prices = _declared(home)
    place = _place(settings, pool)
    period = _period(home, pool, since=since, until=until)
    name = f"{pool}/{period.model}"
    try:
        calibration = kept(home, name)
    except ValueError as bad:
        fail(str(bad))
    if calibration is None:
        fail(
            f"there is no calibration of {name!r} under {home}; run `wattmill twin calibrate --pool {pool}` "
            f"on an earlier period, or `wattmill twin calibrate --url URL/v1 --model {name}` first"
        )
    from wattmill.twin.calibration.replayed import replayed  # heavy: only once there is something to play

    try:
        found = replayed(
            period,
            calibration,
            hour_usd=hour_usd if hour_usd is not None else _hour_usd(settings, place),
            prices=prices,
        )
    except ValueError as refused:
        fail(
            f"the period cannot be played on the engine that was fitted: {refused}. Calibrate again with the "
            "limits that it has now (--slots, --batch, --context)"
        )
    checked = msgspec.structs.replace(calibration, check_error=found.median_error, checked_us=_now_us())
    keep(home, checked)
    charts = _keep_check(home, checked, period, found)
    drawn = [] if plots is None else write_pictures(plots, {"predicted-measured.svg": charts})
    if json:
        show_json({"model": name, "since_us": period.since_us, "until_us": period.until_us,
                   **msgspec.to_builtins(found)})  # fmt: skip
        return
    _show(name, period, found)
    for picture in drawn:
        typer.echo(f"wrote {picture}")


def _show(name: str, period: Recorded, found: Replayed) -> None:
    from wattmill.twin.calibration.spec import GOAL

    typer.echo(f"{name}: predicted against recorded. {_told(period)}")
    show_table(
        ["figure", "predicted", "recorded", "off", "known by", "holds"],
        [
            [
                line.figure, f"{line.predicted:.4g}", f"{line.recorded:.4g}", f"{line.error:+.1%}",
                line.provenance, ("yes" if line.holds else "no") if line.judged else "follows",
            ]
            for line in found.lines
        ],
        numbers=["predicted", "recorded", "off"],
    )  # fmt: skip
    judged = [line for line in found.lines if line.judged]
    held = sum(line.holds for line in judged)
    typer.echo(
        f"{held} of {len(judged)} figures within {GOAL * 100:.0f} %; median error of speed and times "
        f"{found.median_error:.1%}"
    )
    if found.ttft_error is not None and found.tpot_error is not None:
        typer.echo(
            f"request by request (median of {found.judged}): first token {found.ttft_error:.1%} off, per "
            f"token {found.tpot_error:.1%}"
        )
    for note in found.notes:
        typer.echo(f"note: {note}")


def _told(period: Recorded) -> str:
    return (
        f"{_words(period.since_us)} to {_words(period.until_us)} UTC: {period.attempts} attempts at "
        f"{period.pool}, {period.streamed} with a first token and counted to their end, {period.at_once} at "
        "once at most"
    )


def _thin(period: Recorded) -> list[str]:
    if len(period.works) <= FIT_MOST:
        return []
    return [
        f"fitted on a part, {FIT_MOST} of {len(period.works)} requests at most: whole busy stretches, spread "
        "over the period"
    ]


def _words(at_us: int) -> str:
    return f"{dt.datetime.fromtimestamp(at_us // US_PER_S, dt.UTC):%Y-%m-%d %H:%M:%S}"


def _now_us() -> int:
    return time.time_ns() // 1_000


def _period(home: Path, pool: str, *, since: str, until: str | None) -> Recorded:
    from wattmill.twin.calibration.recorded import TooLittle, recorded

    now_us = _now_us()
    since_us = instant_us("--since", since, now_us)
    until_us = now_us if until is None else instant_us("--until", until, now_us)
    if since_us >= until_us:
        fail(f"--since {since} is not before --until {until or 'now'}: the period is empty")
    if until_us - since_us > _LONGEST_S * US_PER_S:
        fail(f"the period from --since {since} is longer than 31 days: name a shorter one")
    try:
        with Books(factory_in(home).ledger_db) as books:
            return recorded(books.db, pool, since_us=since_us, until_us=until_us)
    except FileNotFoundError as missing:
        fail(str(missing))
    except TooLittle as little:
        fail(str(little))


def _declared(home: Path) -> tuple[Settings, Mapping[int, Price]]:
    """Return the declaration that held last, and all versions of prices."""
    with Control(factory_in(home).control_db) as control:
        config = control.config()
        if config is None:
            fail(f"the factory in {home} has no declaration yet: `wattmill up` once")
        return restored(config[1]), control.prices()


def _place(settings: Settings, pool: str) -> Place:
    known = places(settings, os.environ)
    if pool not in known:
        fail(f"--pool is {pool!r}, must be one of {', '.join(known)}")
    return known[pool]


def _limits(settings: Settings, pool: str, asked: Asked) -> tuple[str, EngineLimits]:
    """Return the scheduler and the limits of the pool's engine: as asked, else as declared."""
    from wattmill.twin.engine.defaults import limits

    place = _place(settings, pool)
    declared = place.declared
    if declared.twin is not None and declared.twin.replicas > 1:
        fail(
            f"{pool!r} is {declared.twin.replicas} machines behind one address, and the books do not say "
            "which of them served what: measure one of them with `--url` and `--model`"
        )
    scheduler = asked.scheduler
    if scheduler is None and place.embedded:
        scheduler = "llamacpp"
    elif scheduler is None and isinstance(declared, HttpPool):
        scheduler = _ADAPTERS.get(declared.adapter)
    if scheduler is None:
        fail(
            f"nobody said which engine answers at {pool!r}: name its --scheduler (vllm, sglang, trtllm or "
            "llamacpp), and --slots and --batch where they are not its defaults. A provider's engine serves "
            "others too, and cannot be fitted"
        )
    slots = asked.slots or place.slots
    context = asked.context or place.context_tok
    batch = asked.batch
    if batch is None and place.embedded:
        engine = embedded_specs(settings, os.environ)[pool]
        batch = engine.ctx if engine.embeddings else engine.batch
    shape = limits(
        scheduler,  # type: ignore[arg-type]
        kv_tok=slots * context,
        max_num_seqs=slots,
        budget_tok=batch,
    )
    return scheduler, shape


def _hour_usd(settings: Settings, place: Place) -> float | None:
    """Return what an hour of the place costs while it works: its rent, and its power at the tariff."""
    cost = place.declared.cost
    if not isinstance(cost, OwnedCost):
        return None
    tariff = float(cost.tariff_usd_per_kwh or settings.host.tariff_usd_per_kwh)
    return float(cost.hourly_usd) + cost.power_w * S_PER_H / J_PER_KWH * tariff


def _keep_check(home: Path, calibration: Calibration, period: Recorded, found: Replayed) -> tuple[Chart, ...]:
    """Leave the check for the board's twin room; return its pictures."""
    from wattmill.app.results.checked import replayed_period
    from wattmill.cli.kept_result import keep_result

    assert calibration.checked_us is not None
    sheet = replayed_period(
        calibration.model, calibration.engine, found, period=_told(period), at_us=calibration.checked_us
    )
    keep_result(home, sheet, quiet=True)
    return sheet.charts
