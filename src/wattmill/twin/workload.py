"""Traces as pieces of work: read, scaled to a load, given privacy classes by a seeded draw."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from wattmill.twin.spec import Work
from wattmill.units import MS_PER_S, US_PER_S

_US_PER_MS = US_PER_S // MS_PER_S


def from_csv(path: Path, *, max_output_tok: int | None) -> list[Work]:
    """Read a table of `t_s,in_tokens,out_tokens` (Azure's LLM traces), gzipped or not. Prompts share nothing.

    `max_output_tok` is what every client asks for at most; None: exactly what it will get.
    """
    works: list[Work] = []
    with _text(path) as lines:
        for row in csv.DictReader(lines):
            works.append(
                _work(
                    at_us=round(float(row["t_s"]) * US_PER_S),
                    input_tok=int(row["in_tokens"]),
                    output_tok=int(row["out_tokens"]),
                    max_output_tok=max_output_tok,
                )
            )
    return _ordered(works, path)


def from_jsonl(path: Path, *, max_output_tok: int | None) -> list[Work]:
    """Read JSON lines of Mooncake's form, gzipped or not; `hash_ids` name blocks of 512 tokens, equal id
    equal prefix."""
    works: list[Work] = []
    with _text(path) as lines:
        for line in lines:
            row = json.loads(line)
            works.append(
                _work(
                    at_us=int(row["timestamp"]) * _US_PER_MS,
                    input_tok=int(row["input_length"]),
                    output_tok=int(row["output_length"]),
                    max_output_tok=max_output_tok,
                    blocks=tuple(row["hash_ids"]),
                )
            )
    return _ordered(works, path)


def _text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="")
    return open(path, newline="")


def _work(
    *,
    at_us: int,
    input_tok: int,
    output_tok: int,
    max_output_tok: int | None,
    blocks: tuple[int, ...] = (),
) -> Work:
    if max_output_tok is None:
        max_output_tok = output_tok
    if input_tok < 1 or output_tok < 1:
        raise ValueError(f"a request of {input_tok} input and {output_tok} output tokens: both must be >= 1")
    if output_tok > max_output_tok:
        raise ValueError(f"an answer of {output_tok} tokens is longer than max_output_tok, {max_output_tok}")
    return Work(
        at_us=at_us,
        input_tok=input_tok,
        output_tok=output_tok,
        max_output_tok=max_output_tok,
        blocks=blocks,
    )


def _ordered(works: list[Work], path: Path) -> list[Work]:
    if not works:
        raise ValueError(f"{path} holds no request")
    return sorted(works, key=lambda work: work.at_us)


def rate_per_s(works: Sequence[Work]) -> float:
    """Return the mean rate of arrivals between the first and the last."""
    return (len(works) - 1) * US_PER_S / (works[-1].at_us - works[0].at_us)


def at_rate(works: Sequence[Work], per_s: float) -> list[Work]:
    """Return the same work with time stretched or pressed, so that it arrives at `per_s` on average."""
    factor = rate_per_s(works) / per_s
    start_us = works[0].at_us
    return [msgspec.structs.replace(work, at_us=round((work.at_us - start_us) * factor)) for work in works]


def with_privacy(works: Sequence[Work], shares: Mapping[str, float], *, seed: int) -> list[Work]:
    """Return the same work with a privacy class each, drawn by `shares`."""
    rng = random.Random(seed)
    drawn: Iterator[str] = iter(rng.choices(list(shares), list(shares.values()), k=len(works)))
    return [
        msgspec.structs.replace(work, privacy=privacy) for work, privacy in zip(works, drawn, strict=True)
    ]
