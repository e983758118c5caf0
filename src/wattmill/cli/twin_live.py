"""`wattmill twin calibrate` and `check`: the twin fitted to a live engine, and held against it again."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from wattmill.cli.bar import bars
from wattmill.cli.control_door import DEFAULT_HOME, HomeOption, JsonOption, fail, show_json, show_table
from wattmill.cli.pictures import PlotsOption, write_pictures
from wattmill.cli.twin_words import engine_words
from wattmill.power.spec import HostPower

if TYPE_CHECKING:
    from wattmill.twin.calibration.spec import Ask, Calibration, Figures, Sweep
    from wattmill.twin.calibration.sweep import Endpoint
    from wattmill.twin.plots.chart import Chart

_ALONE_CORES = 0.3
"""Cores that others may take before a sweep says more of them than of the engine."""

UrlOption = Annotated[
    str | None, typer.Option(help="Measure this endpoint; its base, e.g. http://127.0.0.1:8080/v1.")
]
ModelOption = Annotated[str | None, typer.Option(help="The model's name there.")]
PoolOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Measure nothing: take what the books of --home hold of this place."),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="With --pool: where the period begins, 2h back or 2026-11-28T12:00 (UTC). Default: 1h.",
    ),
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="With --pool: where the period ends. Default: now.")
]
KeyOption = Annotated[str | None, typer.Option(envvar="WATTMILL_API_KEY", help="The endpoint's key.")]
PidOption = Annotated[
    int | None, typer.Option(help="The engine's process here: then the share of others is measured.")
]
OthersOption = Annotated[
    float, typer.Option(help="Cores that others may take during a sweep; above, it is measured again.")
]
SeedOption = Annotated[int, typer.Option(help="Of the drawn trace.")]

_TRIES = 3
_PROVENANCE = {"j_per_tok": "modelled", "usd_per_mtok": "declared"}  # of what is called measured


def calibrate(
    url: UrlOption = None,
    model: ModelOption = None,
    pool: PoolOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    key: KeyOption = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="vllm, sglang, trtllm or llamacpp. Default: the pool's, else llamacpp."),
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Requests that run at once. Default: the pool's, else 4.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Tokens in one step. Default: the pool's engine's, else 128.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=64, help="Tokens of context of one request. Default: the pool's, else 2048."),
    ] = None,
    pid: PidOption = None,
    others: OthersOption = _ALONE_CORES,
    seed: SeedOption = 1,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Fit the twin's engine to a live one: by two minutes of measuring (--url), or to the ledger (--pool).

    A measured endpoint should serve nobody else meanwhile. A recorded period costs nothing and is as good as
    what was asked in it: long and short prompts, one request and many at once.
    """
    if scheduler not in (None, "vllm", "sglang", "trtllm", "llamacpp"):
        fail(f"scheduler is {scheduler!r}, must be vllm, sglang, trtllm or llamacpp")
    if pool is not None:
        from wattmill.cli.twin_recorded import Asked, calibrate_recorded

        _no_endpoint(url, model)
        calibrate_recorded(
            home,
            pool,
            since=since or "1h",
            until=until,
            asked=Asked(scheduler=scheduler, slots=slots, batch=batch, context=context),
            json=json,
        )
        return
    url, model = _endpoint_named(url, model, since, until)
    _calibrate_by_sweep(
        url, model, key, scheduler or "llamacpp", slots or 4, batch or 128, context or 2_048, pid, others,
        seed, home, json=json,
    )  # fmt: skip


def _no_endpoint(url: str | None, model: str | None) -> None:
    if url is not None or model is not None:
        fail("--pool takes what is recorded, --url and --model measure: name one of the two")


def _endpoint_named(
    url: str | None, model: str | None, since: str | None, until: str | None
) -> tuple[str, str]:
    if url is None or model is None:
        fail("name what to measure with --url and --model, or a place whose books to take with --pool")
    if since is not None or until is not None:
        fail("--since and --until are for a recorded period: they need --pool")
    return url, model


def _calibrate_by_sweep(
    url: str, model: str, key: str | None, scheduler: str, slots: int, batch: int, context: int,
    pid: int | None, others: float, seed: int, home: Path, *, json: bool,
) -> None:  # fmt: skip
    from wattmill.twin.calibration.fit import covered, fit
    from wattmill.twin.calibration.kept import keep
    from wattmill.twin.calibration.load import FIT_LEVELS, closed
    from wattmill.twin.calibration.spec import Calibration
    from wattmill.twin.engine.defaults import limits

    shape = limits(
        scheduler,  # type: ignore[arg-type]
        kv_tok=slots * context,
        max_num_seqs=slots,
        budget_tok=batch,
    )
    endpoint = _endpoint(url, model, key)
    rng = random.Random(seed)
    asked = [
        (name, max(1, round(full * slots)), closed(requests, words, output_tok, rng))
        for name, full, requests, words, output_tok in FIT_LEVELS
    ]
    sweeps = [
        _measured(endpoint, name, asks, concurrency, seed=seed + at, pid=pid, others=others, quiet=json)
        for at, (name, concurrency, asks) in enumerate(asked)
    ]
    try:
        cost, error = fit(sweeps, shape)
    except ValueError as refused:
        fail(str(refused))
    calibration = Calibration(
        model=model,
        engine=endpoint.fingerprint or scheduler,
        at_us=time.time_ns() // 1_000,
        cost=cost,
        limits=shape,
        rows=sum(len(sweep.seen) for sweep in sweeps),
        fit_error=error,
        covers=covered(sweeps, at_once=max(concurrency for _, concurrency, _ in asked)),
    )
    path = keep(home, calibration)
    _sweeps_next_to(path, sweeps, "fit")
    if json:
        show_json(msgspec.to_builtins(calibration))
        return
    typer.echo(f"{model} ({calibration.engine}): {engine_words(cost)}")
    typer.echo(f"fitted on {calibration.rows} requests, median error {error:.1%}; kept in {path}")


def check(
    url: UrlOption = None,
    model: ModelOption = None,
    pool: PoolOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    key: KeyOption = None,
    requests: Annotated[int, typer.Option(min=5, help="Requests of one repeat.")] = 16,
    repeats: Annotated[int, typer.Option(min=2, help="Repeats of each load.")] = 3,
    load: Annotated[
        list[float] | None,
        typer.Option(help="Share of what the twin says it can serve. Default: 0.5 0.9 1.3."),
    ] = None,
    pid: PidOption = None,
    others: OthersOption = _ALONE_CORES,
    seed: SeedOption = 1_001,
    max_w: Annotated[
        float | None, typer.Option(help="Declared watts with all cores busy, for modelled joules.")
    ] = None,
    idle_w: Annotated[float, typer.Option(help="Declared watts at rest.")] = 0.0,
    threads: Annotated[int, typer.Option(min=1, help="Cores that a step of the engine keeps busy.")] = 1,
    usd_per_hour: Annotated[float | None, typer.Option(help="What the machine costs.")] = None,
    plots: PlotsOption = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Hold the twin's prediction against a live engine: asked a fixed trace (--url), or as recorded (--pool).

    A trace is asked again and again, open loop, with other lengths and another seed than the fit's; a figure
    holds where its error is within 10 % or within the spread of the repeats. A recorded period is replayed
    with the arrivals and lengths that the books hold; a figure holds within 10 %.
    """
    if pool is not None:
        from wattmill.cli.twin_recorded import check_recorded

        _no_endpoint(url, model)
        check_recorded(
            home, pool, since=since or "1h", until=until, hour_usd=usd_per_hour, plots=plots, json=json
        )
        return
    from wattmill.twin.calibration.compare import Rates, measured, median_error, predicted
    from wattmill.twin.calibration.kept import keep, kept

    url, model = _endpoint_named(url, model, since, until)
    try:
        calibration = kept(home, model)
    except ValueError as bad:
        fail(str(bad))
    if calibration is None:
        fail(f"there is no calibration of {model!r} under {home}; run `wattmill twin calibrate` first")
    wrong = [share for share in load or () if not 0.0 < share < float("inf")]
    if wrong:
        fail(f"--load is {wrong[0]:g}, must be above 0: a share of what the engine can serve, such as 0.5")
    endpoint = _endpoint(url, model, key)
    host = None
    if max_w is not None:
        host = HostPower(idle_w=idle_w, max_w=max_w, cores=os.cpu_count() or 1)
    rates = Rates(host, usd_per_hour, threads)
    rows: list[dict[str, object]] = []
    pairs: list[tuple[Figures, Figures]] = []
    every: list[Sweep] = []
    for share in load or [0.5, 0.9, 1.3]:
        asks = _trace(calibration, requests, share, seed)
        sweeps = [
            _measured(
                endpoint, f"{share:g}, repeat {repeat + 1}", asks, 0, seed=seed + repeat, pid=pid,
                others=others, quiet=json,
            )
            for repeat in range(repeats)
        ]  # fmt: skip
        every += sweeps
        try:
            told = [predicted(sweep, calibration.cost, calibration.limits, rates) for sweep in sweeps]
        except ValueError as misfit:
            fail(_misfit(misfit))
        real = [measured(sweep, rates) for sweep in sweeps]
        pairs += zip(told, real, strict=True)
        rows += _rows(share, told, real, sweeps)
    checked = msgspec.structs.replace(
        calibration, check_error=median_error(pairs), checked_us=time.time_ns() // 1_000
    )
    _sweeps_next_to(keep(home, checked), every, "check")
    charts = _keep_check(home, checked, rows, repeats=repeats, requests=requests)
    drawn = [] if plots is None else write_pictures(plots, {"predicted-measured.svg": charts})
    if json:
        show_json({"model": model, "median_error": checked.check_error, "figures": rows})
        return
    typer.echo(f"{model}: predicted against measured, {repeats} repeats of {requests} requests")
    show_table(
        ["load", "figure", "predicted", "measured", "off", "repeats apart", "holds"],
        [
            [
                f"{row['load']:g}", _called(row), f"{row['predicted']:.4g}", f"{row['measured']:.4g}",
                f"{row['error']:+.1%}", f"{row['spread']:.1%}", "yes" if row["holds"] else "no",
            ]
            for row in rows
        ],
    )  # fmt: skip
    held = sum(bool(row["holds"]) for row in rows)
    typer.echo(
        f"{held} of {len(rows)} figures within max(10 %, spread of the repeats); "
        f"median error {checked.check_error:.1%}"
    )
    busy = [taken for row in rows if isinstance(taken := row["others_cores"], float)]
    if busy and max(busy) > _ALONE_CORES:
        typer.echo(
            f"note: others took up to {max(busy):.1f} cores meanwhile: the engine was slower than it is "
            "alone, and repeats are apart by their doing"
        )
    for picture in drawn:
        typer.echo(f"wrote {picture}")


def _called(row: dict[str, object]) -> str:
    """Return a figure's name; joules say that both sides of them are modelled."""
    return f"{row['figure']} (modelled)" if row["provenance"] == "modelled" else str(row["figure"])


def _keep_check(
    home: Path,
    found: Calibration,
    rows: list[dict[str, object]],
    *,
    repeats: int,
    requests: int,
) -> tuple[Chart, ...]:
    """Leave the check for the board's twin room; return its pictures."""
    from wattmill.app.results.checked import checked
    from wattmill.cli.kept_result import keep_result
    from wattmill.twin.calibration.spec import GOAL

    assert found.check_error is not None and found.checked_us is not None
    sheet = checked(
        found.model, found.engine, rows, median_error=found.check_error, repeats=repeats, requests=requests,
        goal=GOAL, at_us=found.checked_us,
    )  # fmt: skip
    keep_result(home, sheet, quiet=True)
    return sheet.charts


def _rows(
    share: float, told: list[Figures], real: list[Figures], sweeps: list[Sweep]
) -> list[dict[str, object]]:
    from wattmill.twin.calibration.compare import FIGURES, spread
    from wattmill.twin.calibration.spec import GOAL

    rows: list[dict[str, object]] = []
    taken = [sweep.others_cores for sweep in sweeps if sweep.others_cores is not None]
    for name in (*FIGURES, "j_per_tok", "usd_per_mtok"):
        ours, theirs = [getattr(one, name) for one in told], [getattr(one, name) for one in real]
        if None in ours or None in theirs:
            continue
        prediction, measurement = sum(ours) / len(ours), sum(theirs) / len(theirs)
        error, apart = prediction / measurement - 1, spread(theirs)
        rows.append(
            {
                "load": share, "figure": name, "predicted": prediction, "measured": measurement,
                "error": error,
                "spread": apart, "holds": abs(error) <= max(GOAL, apart),
                "provenance": _PROVENANCE.get(name, "measured"),
                "others_cores": max(taken) if taken else None,
            }
        )  # fmt: skip
    return rows


def _misfit(error: ValueError) -> str:
    return (
        f"the trace cannot be played on the engine that was fitted: {error}. Calibrate again with the limits "
        "that it has (--slots, --batch, --context)"
    )


def _trace(calibration: Calibration, requests: int, share: float, seed: int) -> list[Ask]:
    """Return a trace at `share` of the rate that the twin says the engine can serve."""
    from wattmill.twin.calibration.load import CHECK_OUTPUT_TOK, CHECK_WORDS, open_loop
    from wattmill.twin.engine.experiment import Requests, simulate

    rng = random.Random(seed)
    words = [rng.randint(*CHECK_WORDS) + 40 for _ in range(200)]
    output_tok = [rng.randint(*CHECK_OUTPUT_TOK) for _ in range(200)]
    try:
        ran = simulate(
            [(calibration.cost, calibration.limits)],
            Requests(at_ps=[0] * 200, input_tok=words, output_tok=output_tok),
        )
    except ValueError as misfit:
        fail(_misfit(misfit))
    most_per_s = 200 / (float(ran.end_ps.max()) / 1e12)
    return open_loop(requests, share * most_per_s, CHECK_WORDS, CHECK_OUTPUT_TOK, random.Random(seed))


def _endpoint(url: str, model: str, key: str | None) -> Endpoint:
    from wattmill.twin.calibration.sweep import Endpoint

    try:
        return Endpoint(url, model=model, key=key)
    except ValueError as bad:
        fail(str(bad))
        raise


def _measured(
    endpoint: Endpoint,
    name: str,
    asks: list[Ask],
    concurrency: int,
    *,
    seed: int,
    pid: int | None,
    others: float,
    quiet: bool,
) -> Sweep:
    """Sweep until others leave the machine alone, three times at most; the calmest counts."""
    from wattmill.twin.calibration.sweep import SweepFailed, sweep

    best: Sweep | None = None
    with bars(quiet=quiet) as progress:
        for attempt in range(_TRIES):
            task = progress.add_task(
                f"{name}{f' (again, {attempt + 1})' if attempt else ''}", total=len(asks)
            )
            try:
                found = sweep(
                    endpoint, name, asks, concurrency=concurrency, seed=seed + 10_000 * attempt, pid=pid,
                    told=lambda task=task: progress.advance(task),  # type: ignore[misc]
                )  # fmt: skip
            except (SweepFailed, OSError) as error:
                fail(f"the sweep {name!r} failed: {error}")
                raise
            if best is None or (found.others_cores or 0.0) < (best.others_cores or 0.0):
                best = found
            if (found.others_cores or 0.0) <= others:
                break
    assert best is not None
    if (best.others_cores or 0.0) > others and not quiet:
        typer.echo(
            f"{name}: others took {best.others_cores:.2f} cores meanwhile; taken all the same", err=True
        )
    return best


def _sweeps_next_to(path: Path, sweeps: list[Sweep], what: str) -> None:
    """Keep what was seen beside the calibration, so that it can be looked at and fitted again."""
    path.with_suffix(f".{what}.sweeps").write_bytes(msgspec.json.encode(sweeps))
