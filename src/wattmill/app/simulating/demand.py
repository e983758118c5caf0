"""Demand as it is declared: in a file of streams, or one stream from the command line."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from wattmill.app.declared.settings import Settings
from wattmill.twin.fleet.demand import Fixed, OpenLoop, Sessions, Stream, Trace, lengths
from wattmill.twin.spec import Work
from wattmill.twin.workload import at_rate, from_csv, from_jsonl
from wattmill.units import US_PER_S

Text = Annotated[
    str, Meta(description="Tokens `512`, a range `100-200`, or `p50 500 p95 2000` (log-normal).")
]


class BadDemand(ValueError):
    """The demand cannot be what was said; the message names the field, the value and the way out."""


class Who(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A share of a stream's requests."""

    team: Annotated[
        str,
        Meta(
            pattern=r"^[a-z][a-z0-9_-]{0,31}/[a-z][a-z0-9_-]{0,31}$",
            description="`ORG/TEAM` that pays.",
        ),
    ]
    share: Annotated[float, Meta(gt=0, description="Against the other clients of the stream.")] = 1.0
    tier: Annotated[str | None, Meta(description="Tier of its key. Absent: that of its team.")] = None
    privacy: Annotated[
        Literal["public", "internal", "private"] | None, Meta(description="Class of its data.")
    ] = None
    model: Annotated[str | None, Meta(description="Absent: that of the stream.")] = None
    stream: Annotated[bool, Meta(description="Whether it wants its answers streamed.")] = True
    tries: Annotated[
        int,
        Meta(ge=1, le=100, description="How often it asks in all, when it is told when to come back."),
    ] = 1


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trace, an open loop (`per_s`), or sessions (`per_s` and `turns`)."""

    trace: Annotated[
        str | None,
        Meta(description="`.csv` with t_s,in_tokens,out_tokens, or `.jsonl` of Mooncake's form; `.gz` too."),
    ] = None
    lengths_of: Annotated[
        str | None,
        Meta(description="A trace of which only the lengths are drawn, input and output together."),
    ] = None
    per_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Mean arrivals per second; a trace is pressed or stretched to it."),
    ] = None
    duration_s: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="So long requests (or sessions) begin.")
    ] = None
    input_tok: Annotated[
        Text | None, Meta(description="Tokens of a prompt; of a session, what each turn adds.")
    ] = None
    output_tok: Annotated[Text | None, Meta(description="Tokens of an answer.")] = None
    max_output_tok: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="What clients ask for at most. Absent: exactly what they will get."),
    ] = None
    turns: Annotated[Text | None, Meta(description="Turns of a session. Absent: each request by itself.")] = (
        None
    )
    think_s: Annotated[float, Meta(ge=0, description="Mean time between an answer and the next turn.")] = 10.0
    model: Annotated[str | None, Meta(description="Absent: the first model that is declared.")] = None
    clients: Annotated[tuple[Who, ...], Meta(description="Who asks. Absent: the team of `[load]`.")] = ()


class DemandFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    stream: Annotated[tuple[StreamSettings, ...], Meta(min_length=1)]


def streams_schema() -> dict[str, Any]:
    """Return the JSON schema of a file of streams: types, ranges and names of keys."""
    return msgspec.json.schema(DemandFile)


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """Streams with their clients numbered through, ready to be played."""

    streams: tuple[Stream, ...]
    clients: tuple[tuple[Who, str], ...]  # with the model that it asks for
    sessions: bool  # whether turns follow answers
    prefixes: bool  # whether beginnings of prompts are known
    about: int | None  # how many requests will come; None: nobody knows beforehand
    words: str


def read_demand(path: Path) -> DemandFile:
    """Read a demand file (TOML). Raises `BadDemand`."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), DemandFile)
    except OSError as error:
        raise BadDemand(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadDemand(
            f"{path}: {error}; docs/reference/streams.md has all that a stream may say"
        ) from error


def of_load(settings: Settings) -> DemandFile:
    """Return the declared scripted workload as one stream: short prompts, answers of 24 to 64 tokens."""
    load = settings.load
    return DemandFile(
        stream=(
            StreamSettings(
                per_s=load.requests_per_s,
                duration_s=load.duration_s,
                input_tok="30-60",
                output_tok="24-64",
                max_output_tok=64,
                model=load.model,
            ),
        )
    )


def demand(declared: DemandFile, settings: Settings, *, folder: Path, seed: int) -> Demand:
    """Return the streams of a demand. File names in it are meant from `folder`. Raises `BadDemand`."""
    streams: list[Stream] = []
    clients: list[tuple[Who, str]] = []
    about: int | None = 0
    words = []
    for number, one in enumerate(declared.stream):
        who = one.clients or (_payer(settings),)
        shares = []
        for client in who:
            shares.append((len(clients), client.share))
            clients.append((client, client.model or one.model or _first_model(settings)))
            _check(client, settings, clients[-1][1])
        try:
            stream, count, said = _stream(one, settings, shares, folder, seed * 1_000 + number, len(streams))
        except ValueError as error:
            raise BadDemand(f"stream {number + 1}: {error}") from error
        streams.append(stream)
        about = None if about is None or count is None else about + count
        words.append(said)
    sessions = any(one.turns is not None for one in declared.stream)
    return Demand(
        streams=tuple(streams),
        clients=tuple(clients),
        sessions=sessions,
        prefixes=sessions or any(".jsonl" in (one.trace or "") for one in declared.stream),
        about=about,
        words="; ".join(words),
    )


def _stream(
    one: StreamSettings,
    settings: Settings,
    shares: Sequence[tuple[int, float]],
    folder: Path,
    seed: int,
    number: int,
) -> tuple[Stream, int | None, str]:
    if one.trace is not None:
        works = _works(folder, one.trace, one.max_output_tok)
        if one.per_s is not None:
            works = at_rate(works, one.per_s)
        if one.duration_s is not None:
            works = [work for work in works if work.at_us < one.duration_s * US_PER_S]
        return Trace(works, shares, seed=seed), len(works), f"trace {os.path.basename(one.trace)}"
    if one.per_s is None or one.duration_s is None:
        raise ValueError(
            "neither `trace` nor `per_s` and `duration_s` are given: say what comes, or for how long"
        )
    pairs: Sequence[tuple[int, int]] = ()
    if one.lengths_of is not None:
        drawn = _works(folder, one.lengths_of, one.max_output_tok)
        pairs = [(work.input_tok, work.output_tok) for work in drawn]
    elif one.input_tok is None or one.output_tok is None:
        raise ValueError(
            "nothing says how long requests are: give `input_tok` and `output_tok` (--input 200 --output "
            "100), or a trace whose lengths are drawn, `lengths_of` (--lengths-of)"
        )
    input_tok = lengths(one.input_tok) if one.input_tok is not None else Fixed(1)
    output_tok = lengths(one.output_tok) if one.output_tok is not None else Fixed(1)
    if one.turns is not None:
        sessions = Sessions(
            per_s=one.per_s,
            duration_s=one.duration_s,
            turns=lengths(one.turns),
            think_s=one.think_s,
            input_tok=input_tok,
            output_tok=output_tok,
            max_output_tok=one.max_output_tok,
            longest_tok=max(pool.context_tok for pool in settings.pools.values()),
            shares=shares,
            seed=seed,
            first_id=number * 1_000_000_000,
        )
        return sessions, None, f"{one.per_s:g} sessions/s of {one.turns} turns for {one.duration_s:g} s"
    loop = OpenLoop(
        per_s=one.per_s,
        duration_s=one.duration_s,
        input_tok=input_tok,
        output_tok=output_tok,
        max_output_tok=one.max_output_tok,
        shares=shares,
        seed=seed,
        pairs=pairs,
    )
    return loop, round(one.per_s * one.duration_s), f"{one.per_s:g} requests/s for {one.duration_s:g} s"


def _works(folder: Path, name: str, most: int | None) -> list[Work]:
    path = folder / os.path.expanduser(name)
    kind = name.removesuffix(".gz").rpartition(".")[2]
    if kind not in ("csv", "jsonl"):
        raise ValueError(f"a trace is {name!r}, must end in .csv or .jsonl (or these and .gz)")
    if not path.exists():
        raise ValueError(f"there is no trace {path}")
    return (from_csv if kind == "csv" else from_jsonl)(path, max_output_tok=most)


def _payer(settings: Settings) -> Who:
    team = settings.load.team or settings.factory.console_team
    if team is None:
        teams = [f"{org}/{team}" for org, one in settings.tenants.items() for team in one.teams]
        if not teams:
            raise BadDemand("nobody pays: the declaration has no team; declare [tenants.ORG.teams.TEAM]")
        team = teams[0]
    return Who(team=team)


def _first_model(settings: Settings) -> str:
    if settings.load.model is not None:
        return settings.load.model
    return next(iter(settings.models))


def _check(client: Who, settings: Settings, model: str) -> None:
    org, _, team = client.team.partition("/")
    if org not in settings.tenants or team not in settings.tenants[org].teams:
        known = [f"{o}/{t}" for o, one in settings.tenants.items() for t in one.teams]
        raise BadDemand(f"no team {client.team!r} in the declaration (known: {', '.join(known) or 'none'})")
    if client.tier is not None and client.tier not in settings.tiers:
        known = list(settings.tiers)
        raise BadDemand(f"no tier {client.tier!r} in the declaration (known: {', '.join(known) or 'none'})")
    if model not in settings.models:
        known = list(settings.models)
        raise BadDemand(f"no model {model!r} in the declaration (known: {', '.join(known) or 'none'})")
