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
from wattmill.power.spec import HostPower

if TYPE_CHECKING:
    from wattmill.twin.calibration.spec import Ask, Calibration, Figures, Sweep
    from wattmill.twin.calibration.sweep import Endpoint
    from wattmill.twin.engine.spec import StepCost

UrlOption = Annotated[str, typer.Option(help="The endpoint's base, e.g. http://127.0.0.1:8080/v1.")]
ModelOption = Annotated[str, typer.Option(help="The model's name there.")]
KeyOption = Annotated[str | None, typer.Option(envvar="WATTMILL_API_KEY", help="The endpoint's key.")]
PidOption = Annotated[
    int | None, typer.Option(help="The engine's process here: then the share of others is measured.")
]
OthersOption = Annotated[
    float, typer.Option(help="Cores that others may take during a sweep; above, it is measured again.")
]
SeedOption = Annotated[int, typer.Option(help="Of the drawn trace.")]

_TRIES = 3


def calibrate(
    url: UrlOption,
    model: ModelOption,
    key: KeyOption = None,
    scheduler: Annotated[str, typer.Option(help="vllm, sglang, trtllm or llamacpp.")] = "llamacpp",
    slots: Annotated[int, typer.Option(min=1, help="Requests that run at once.")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="Tokens in one step.")] = 128,
    context: Annotated[int, typer.Option(min=64, help="Tokens of context of one request.")] = 2_048,
    pid: PidOption = None,
    others: OthersOption = 0.3,
    seed: SeedOption = 1,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Measure a live endpoint for about two minutes and fit the twin's engine to it.

    The endpoint should serve nobody else meanwhile.
    """
    from wattmill.twin.calibration.fit import fit
    from wattmill.twin.calibration.kept import keep
    from wattmill.twin.calibration.load import FIT_LEVELS, closed
    from wattmill.twin.calibration.spec import Calibration
    from wattmill.twin.engine.defaults import limits

    if scheduler not in ("vllm", "sglang", "trtllm", "llamacpp"):
        fail(f"scheduler is {scheduler!r}, must be vllm, sglang, trtllm or llamacpp")
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
    )
    path = keep(home, calibration)
    _sweeps_next_to(path, sweeps, "fit")
    if json:
        show_json(msgspec.to_builtins(calibration))
        return
    typer.echo(f"{model} ({calibration.engine}): {_words(cost)}")
    typer.echo(f"fitted on {calibration.rows} requests, median error {error:.1%}; kept in {path}")


def _words(cost: StepCost) -> str:
    """Return what was found of an engine, for people."""
    context_us, way_ms = cost.context_ps_per_tok / 1e6, cost.overhead_ps / 1e9
    beside = f"{context_us:.1f} µs a token of context; {way_ms:.1f} ms on the way"
    if cost.piece_tok:
        sizes = [n for n in (1, 2, 4, 32, cost.piece_tok) if n < len(cost.step_ps)]
        pieces = ", ".join(f"{cost.step_ps[n] / 1e9:.1f} ms for {n}" for n in sizes)
        return f"a piece of a step takes {pieces} tokens; {beside}"
    return (
        f"step {cost.step_ps[0] / 1e9:.2f} ms + {cost.decode_ps / 1e9:.2f} ms a decoding request; prompts "
        f"{cost.prefill_ps_per_tok / 1e9:.3f} ms a token; {beside}"
    )


def check(
    url: UrlOption,
    model: ModelOption,
    key: KeyOption = None,
    requests: Annotated[int, typer.Option(min=5, help="Requests of one repeat.")] = 16,
    repeats: Annotated[int, typer.Option(min=2, help="Repeats of each load.")] = 3,
    load: Annotated[
        list[float] | None,
        typer.Option(help="Share of what the twin says it can serve. Default: 0.5 0.9 1.3."),
    ] = None,
    pid: PidOption = None,
    others: OthersOption = 0.3,
    seed: SeedOption = 1_001,
    max_w: Annotated[
        float | None, typer.Option(help="Declared watts with all cores busy, for modelled joules.")
    ] = None,
    idle_w: Annotated[float, typer.Option(help="Declared watts at rest.")] = 0.0,
    threads: Annotated[int, typer.Option(min=1, help="Cores that a step of the engine keeps busy.")] = 1,
    usd_per_hour: Annotated[float | None, typer.Option(help="What the machine costs.")] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Ask a live endpoint a fixed open-loop trace again and again, and hold the twin's prediction against it.

    Lengths and seed differ from those of the fit. A figure holds where its error is within 10 % or within the
    spread of the repeats.
    """
    from wattmill.twin.calibration.compare import Rates, measured, median_error, predicted
    from wattmill.twin.calibration.kept import keep, kept

    try:
        calibration = kept(home, model)
    except ValueError as bad:
        fail(str(bad))
    if calibration is None:
        fail(f"there is no calibration of {model!r} under {home}; run `wattmill twin calibrate` first")
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
        told = [predicted(sweep, calibration.cost, calibration.limits, rates) for sweep in sweeps]
        real = [measured(sweep, rates) for sweep in sweeps]
        pairs += zip(told, real, strict=True)
        rows += _rows(share, told, real, sweeps)
    checked = msgspec.structs.replace(
        calibration, check_error=median_error(pairs), checked_us=time.time_ns() // 1_000
    )
    _sweeps_next_to(keep(home, checked), every, "check")
    _keep_check(home, checked, rows, repeats=repeats, requests=requests)
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
) -> None:
    """Leave the check for the board's twin room."""
    from wattmill.app.results.checked import checked
    from wattmill.cli.kept_result import keep_result
    from wattmill.twin.calibration.compare import GOAL

    assert found.check_error is not None and found.checked_us is not None
    sheet = checked(
        found.model, found.engine, rows, median_error=found.check_error, repeats=repeats, requests=requests,
        goal=GOAL, at_us=found.checked_us,
    )  # fmt: skip
    keep_result(home, sheet, quiet=True)


def _rows(
    share: float, told: list[Figures], real: list[Figures], sweeps: list[Sweep]
) -> list[dict[str, object]]:
    from wattmill.twin.calibration.compare import FIGURES, GOAL, spread

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
                "provenance": "modelled" if name == "j_per_tok" else "measured",
                "others_cores": max(taken) if taken else None,
            }
        )  # fmt: skip
    return rows


def _trace(calibration: Calibration, requests: int, share: float, seed: int) -> list[Ask]:
    """Return a trace at `share` of the rate that the twin says the engine can serve."""
    from wattmill.twin.calibration.load import CHECK_OUTPUT_TOK, CHECK_WORDS, open_loop
    from wattmill.twin.engine.experiment import Requests, simulate

    rng = random.Random(seed)
    words = [rng.randint(*CHECK_WORDS) + 40 for _ in range(200)]
    output_tok = [rng.randint(*CHECK_OUTPUT_TOK) for _ in range(200)]
    ran = simulate(
        [(calibration.cost, calibration.limits)],
        Requests(at_ps=[0] * 200, input_tok=words, output_tok=output_tok),
    )
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
