"""Reading a demand file: types first, then what must hold between its parts, then what it points to."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from wattmill.app.declared.planning_files import decoded, text_of
from wattmill.app.declared.problem import Problem
from wattmill.app.declared.settings_errors import Path as Keys
from wattmill.app.declared.settings_errors import dotted, line_of
from wattmill.app.declared.site_file import Standing, load_site
from wattmill.compute.catalogue import UnknownAccelerator, accelerator
from wattmill.models.architectures import UnknownModel, architecture
from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.given import Given
from wattmill.twin.planning.jobs import flops
from wattmill.twin.planning.listed import with_listed_prices
from wattmill.twin.planning.load import Forecast, Rate, Recorded, Trace, Users, recorded
from wattmill.twin.planning.options import BITS
from wattmill.twin.planning.supply import Listed

_Finding = tuple[Keys, str, str, "str | None"]


class Asking(NamedTuple):
    """A demand file that holds together, with listed prices looked up, and the trace it points to."""

    demand: Demand
    trace: Recorded | None
    text: str


def load_demand(path: Path) -> Asking | list[Problem]:
    """Read a demand file, or say everything that is wrong with it."""
    text = text_of(path)
    if isinstance(text, list):
        return text
    return decoded_demand(text, file=str(path), folder=path.resolve().parent)


def decoded_demand(text: str, *, file: str, folder: Path) -> Asking | list[Problem]:
    """Return what a text asks; a trace's path is meant from `folder`."""
    demand = decoded(text, Demand, file=file)
    if isinstance(demand, list):
        return demand
    found = list(_findings(demand))
    trace: Recorded | None = None
    if isinstance(demand.load, Trace) and not found:
        read = _trace(demand.load, folder)
        if isinstance(read, Recorded):
            trace = read
        else:
            found.append((("load", "file"), *read, f'"{demand.load.file}"'))
    if not found and demand.site.file is not None:
        stood = _with_site(demand, demand.site.file, folder)
        if isinstance(stood, Demand):
            demand = stood
        elif isinstance(stood, tuple):
            found.append(stood)
        else:
            return stood
    if not found:
        try:
            return Asking(with_listed_prices(demand), trace, text)
        except LookupError as error:
            found.append(
                (
                    ("candidates",),
                    str(error),
                    "Give it a rate of its own, or a kind that gpu_prices.csv lists for it",
                    None,
                )
            )
    return [
        Problem(file=file, key=dotted(at), rule=rule, way_out=way_out, value=value, line=line_of(text, at))
        for at, rule, way_out, value in found
    ]


def _findings(demand: Demand) -> Iterator[_Finding]:
    yield from _figures(demand, ())
    yield from _load(demand)
    yield from _tiers(demand)
    for name, model in demand.models.items():
        try:
            architecture(model.name)
        except UnknownModel as error:
            yield (
                ("models", name, "name"),
                error.what.rstrip("."),
                "`wattmill twin known models` lists them",
                f'"{model.name}"',
            )
    for name in demand.candidates:
        yield from _candidate(demand, name)
    yield from _jobs(demand)
    for name, rental in demand.rentals.items():
        if rental.candidate not in demand.candidates:
            yield _unknown(("rentals", name, "candidate"), "candidate", rental.candidate, demand.candidates)
    for name, api in demand.apis.items():
        if api.model is not None and api.model not in demand.models:
            yield _unknown(("apis", name, "model"), "model", api.model, demand.models)
    if (
        demand.limits.tonnes_co2_per_year is not None
        and demand.site.g_per_kwh is None
        and not demand.site.file
    ):
        yield (
            ("limits", "tonnes_co2_per_year"),
            "cannot be held: the site's `g_per_kwh` is not declared",
            "Declare it under [site]",
            str(demand.limits.tonnes_co2_per_year),
        )


def _figures(value: Any, at: Keys) -> Iterator[_Finding]:
    """Every figure with an interval lies inside it, and is finite."""
    if isinstance(value, Given):
        low, high = value.low, value.high
        if not math.isfinite(value.value):
            yield (*at, "value"), "must be finite", "Write a number", str(value.value)
        elif (low is not None and low > value.value) or (high is not None and high < value.value):
            limits = f"{low} to {high}"
            yield (
                at,
                f"`value` must lie inside its interval ({limits})",
                "Correct one of them",
                str(value.value),
            )
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _figures(getattr(value, field), (*at, field))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _figures(inner, (*at, str(key)))


def _load(demand: Demand) -> Iterator[_Finding]:
    load = demand.load
    free = (isinstance(load, Rate) and load.requests_per_s is None) or (
        isinstance(load, Trace) and load.as_many_as_fit
    )
    if free and demand.goal == "cost":
        yield (
            ("goal",),
            "the least cost of as many requests as fit is that of none",
            'Say how many requests are asked (`requests_per_s`), or `goal = "margin"`',
            '"cost"',
        )
    if isinstance(load, Forecast) and not any(load.hourly_requests_per_s):
        yield (
            ("load", "hourly_requests_per_s"),
            "is 0 in every hour: nothing is asked",
            "Write the mean requests per second of each hour",
            None,
        )
    if isinstance(load, Trace) and load.as_many_as_fit and load.requests_per_s is not None:
        yield ("load", "as_many_as_fit"), "`requests_per_s` is given too", "Keep one of the two", "true"
    yield from _site(demand)
    rented = [
        name
        for name, candidate in demand.candidates.items()
        if candidate.rent is not None and candidate.most_nodes is None
    ]
    if free and rented and demand.limits.usd_per_year is None:
        yield (
            ("candidates", rented[0], "rent"),
            "nothing limits what is rented, nor how many requests are asked",
            "Declare `most_nodes` of the candidate, `limits.usd_per_year`, or `load.requests_per_s`",
            None,
        )


def _site(demand: Demand) -> Iterator[_Finding]:
    site = demand.site
    for name, figure in (("pue", site.pue), ("peak_pue", site.peak_pue)):
        if figure is not None and figure.value < 1.0:
            yield ("site", name), "must be at least 1", "The meter sees all of the IT", str(figure.value)
    if site.file is None:
        for name, figure in (("pue", site.pue), ("usd_per_mwh", site.usd_per_mwh)):
            if figure is None:
                way_out = "Declare it with its source, or name a site's file (`file`) whose year gives it"
                yield ("site",), f"`{name}` is missing", way_out, None


def _tiers(demand: Demand) -> Iterator[_Finding]:
    users = isinstance(demand.load, Users)
    for name, tier in demand.tiers.items():
        at = ("tiers", name)
        if tier.model is None and len(demand.models) > 1:
            yield at, "`model` is missing and there are several", "Name one of `models`", None
        if tier.model is not None and tier.model not in demand.models:
            yield _unknown((*at, "model"), "model", tier.model, demand.models)
        if users and (tier.users is None or tier.requests_per_user_day is None):
            yield (
                at,
                "`users` and `requests_per_user_day` are missing",
                'They are asked by load.from = "users"',
                None,
            )
        if not users and tier.share is None:
            yield at, "`share` is missing", "Say which part of all requests comes in this tier", None
        if users and tier.share is not None:
            yield (*at, "share"), "follows from the users", "Leave it out", str(tier.share)
    whole = sum(tier.share or 0.0 for tier in demand.tiers.values())
    if not users and abs(whole - 1.0) > 1e-6:
        yield ("tiers",), f"shares sum to {whole:g}, must be 1", "Correct the shares", None


def _candidate(demand: Demand, name: str) -> Iterator[_Finding]:
    candidate, at = demand.candidates[name], ("candidates", name)
    try:
        part = accelerator(candidate.accelerator)
    except UnknownAccelerator as error:
        yield (
            (*at, "accelerator"),
            error.what.rstrip("."),
            "`wattmill twin known accelerators` lists them",
            f'"{candidate.accelerator}"',
        )
        return
    if not part.predicted:
        yield (
            (*at, "accelerator"),
            f"{part.name} is listed, not predicted: {part.notes}",
            "Take a part that the law predicts",
            f'"{candidate.accelerator}"',
        )
    if candidate.own is None and candidate.rent is None:
        yield at, "can neither be owned nor rented", f"Declare [{dotted((*at, 'own'))}] or .rent", None
    powers = [candidate.all_in_kw_per_gpu, candidate.it_kw_per_gpu]
    if all(powers) or (not any(powers) and not isinstance(candidate.own, Listed)):
        yield (
            at,
            "states its power twice" if all(powers) else "does not state its power",
            "Declare either `all_in_kw_per_gpu` (overhead inside) or `it_kw_per_gpu` (PUE is added)",
            None,
        )


def _jobs(demand: Demand) -> Iterator[_Finding]:
    owned = [c for c in demand.candidates.values() if c.own is not None or (c.rent and not c.rent.on_demand)]
    for name, job in demand.jobs.items():
        at = ("jobs", name)
        try:
            flops(name, demand.jobs)
        except ValueError as error:
            yield at, str(error), f"Jobs are: {', '.join(demand.jobs)}", None
        if not 0.0 < job.mfu.value <= 1.0:
            yield (*at, "mfu"), "must be above 0 and at most 1", "0.3 to 0.5 is usual", str(job.mfu.value)
        for candidate in owned:
            try:
                accelerator(candidate.accelerator).flop_per_s(BITS[job.precision])
            except (UnknownAccelerator, ValueError) as error:
                yield at, str(error), "Leave the candidate out, or change the job's precision", None
    if demand.jobs and not owned:
        yield ("jobs",), "no candidate may train", "Declare one that is owned, or rented for all hours", None


def _unknown(at: Keys, noun: str, name: str, known: Collection[str]) -> _Finding:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"Did you mean `{near[0]}`?" if near else "Use one of them"
    return at, f"no {noun} {name!r} (known: {', '.join(known) or 'none'})", hint, f'"{name}"'


def _with_site(demand: Demand, file: str, folder: Path) -> Demand | list[Problem] | _Finding:
    """Return the demand with what the year of its site gives, or what is wrong with the site."""
    stands = load_site(folder / file)
    if not isinstance(stands, Standing):
        return stands
    # Living a year takes seconds and the solver: only a file that is right waits for them.
    from wattmill.site.yearly.account import year
    from wattmill.twin.planning.sited import with_site

    try:
        lived = year(*stands)
    except ValueError as error:
        return ("site", "file"), str(error), "Try `wattmill site year` on it", f'"{file}"'
    filled = with_site(demand, lived, import_mw=stands.site.grid.import_mw)
    if filled.limits.tonnes_co2_per_year is not None and filled.site.g_per_kwh is None:
        rule = "gives no carbon intensity, and `limits.tonnes_co2_per_year` needs one"
        return ("site", "file"), rule, "Declare `g_per_kwh` in either of the files", f'"{file}"'
    return filled


def _trace(load: Trace, folder: Path) -> Recorded | tuple[str, str]:
    """Return what the trace says, or (rule, way out)."""
    path = folder / load.file
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text)))
        columns = [[float(row[name]) for row in rows] for name in ("t_s", "in_tokens", "out_tokens")]
        return recorded(*columns, window_s=load.window_s)
    except OSError as error:
        return (
            f"cannot be read: {error.strerror or error}",
            "Paths are meant from the folder of the demand file",
        )
    except KeyError as error:
        return f"has no column {error}", "The columns are t_s, in_tokens, out_tokens"
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        return f"cannot be used: {error}", "The columns are numbers: t_s, in_tokens, out_tokens"
