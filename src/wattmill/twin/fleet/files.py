"""A run as files: facts as JSON lines, the timeline as a table and as a picture, speed against throughput."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from wattmill.ledger.tail import Tail
from wattmill.twin.fleet.report import Report
from wattmill.twin.fleet.timeline import Moment, Timeline
from wattmill.twin.plots.svg import Axis, Series, lines, scatter, stacked

_MOST_POINTS = 2_000


def write_files(folder: Path, report: Report, timeline: Timeline, journal: Path) -> list[Path]:
    """Write all files into `folder` and return them. The same run writes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        folder / name for name in ("report.json", "facts.jsonl", "timeline.csv", "timeline.svg", "speed.svg")
    ]
    paths[0].write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    with open(paths[1], "wb") as file:
        for line in fact_lines(journal):
            file.write(line + b"\n")
    with open(paths[2], "w", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(Moment._fields)
        writer.writerows([_cells(moment) for moment in timeline.moments])
    paths[3].write_text(timeline_svg(timeline), encoding="utf-8")
    paths[4].write_text(speed_svg(report), encoding="utf-8")
    return paths


def fact_lines(epoch_folder: Path) -> Iterator[bytes]:
    """Yield each record of an epoch's journal as one line of JSON: its kind, then its fields by name."""
    tail = Tail(epoch_folder)
    try:
        while True:
            batch = tail.read(10_000, final=True)
            for fact, _, _ in batch.records:
                yield msgspec.json.encode({"fact": type(fact).__name__} | msgspec.structs.asdict(fact))
            if batch.at_end:
                return
    finally:
        tail.close()


def timeline_svg(timeline: Timeline) -> str:
    """Return occupancy, queue, replicas and watts over time, below each other."""
    pools = list(dict.fromkeys(moment.pool for moment in timeline.moments))
    x = Axis("seconds since the start")
    by_pool = {pool: [m for m in timeline.moments if m.pool == pool] for pool in pools}

    def each(of: str) -> list[Series]:
        return [
            Series(
                pool, _thin([(m.at_s, float(value)) for m in rows if (value := getattr(m, of)) is not None])
            )
            for pool, rows in by_pool.items()
        ]

    waiting = [(m.at_s, float(m.waiting)) for m in by_pool[pools[0]]] if pools else []
    charts = [
        lines("Batch: requests at each place", x, Axis("requests"), each("in_flight"), steps=True),
        lines(
            "Queue: requests that wait at the gateway",
            x,
            Axis("requests"),
            [Series("waiting", _thin(waiting))],
            steps=True,
        ),
        lines("Replicas that serve", x, Axis("replicas"), each("ready"), steps=True),
    ]
    watts = [series for series in each("watts") if series.points]
    if watts:
        charts.append(lines("Power, modelled", x, Axis("W"), watts, steps=True))
    return stacked(charts)


def speed_svg(report: Report) -> str:
    """Return each pool's and tier's speed for a reader (1 / median time per token) against its throughput."""
    series = [
        Series(row.name, [(row.output_tok_per_s, 1.0 / row.tpot_s.p50)])
        for row in (*report.pools, *report.tiers)
        if row.tpot_s is not None and row.tpot_s.p50 > 0
    ]
    return scatter(
        "Speed for a reader against throughput",
        Axis("output tokens per second, all readers"),
        Axis("output tokens per second, one reader (p50)"),
        series,
    )


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most so many points that a picture can show, evenly taken."""
    every = -(-len(points) // _MOST_POINTS) or 1
    return list(points[::every])


def _cells(moment: Moment) -> list[object]:
    return [
        "" if value is None else round(value, 6) if isinstance(value, float) else value for value in moment
    ]
