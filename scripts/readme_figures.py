"""Writes README's figures from `benchmarks/results/gateway.json`, and nothing where that file is absent.

`python scripts/readme_figures.py` rewrites the part between the two `figures` comments;
`--check` only says whether it would change (exit code 1).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "gateway.json"
BEGIN = "<!-- figures: written by scripts/readme_figures.py from benchmarks/results/gateway.json -->\n"
END = "<!-- end of figures -->\n"

ROWS = (  # key in the results, words, digits after the point
    ("cpu_us_per_request_c1", "CPU per request, 1 connection (µs)", 1),
    ("cpu_us_per_request_c8", "CPU per request, 8 connections (µs)", 1),
    ("cpu_us_per_request_c64", "CPU per request, 64 connections (µs)", 1),
    ("cpu_us_per_chunk", "CPU per streamed chunk (µs)", 1),
    ("req_per_s_c64", "requests per second on one core, 64 connections", 0),
    ("added_p50_ms_c1", "added latency, 1 connection, median (ms)", 3),
    ("added_p99_ms_c8", "added latency, 8 connections, 99th percentile (ms)", 3),
    ("added_ttft_ms", "added time to first token (ms)", 3),
    ("added_p50_ms_c1_awake", "added latency, 1 connection, median, cores held awake (ms)", 3),
    ("added_ttft_ms_awake", "added time to first token, cores held awake (ms)", 3),
    ("rss_mb", "memory after the run (MB)", 0),
    ("start_s", "start (s)", 2),
    ("ledger_rows_per_s", "rows booked per second by the ledger process", 0),
    ("ledger_lag_s", "lag of the books under load (s)", 2),
    ("bytes_per_request", "bytes per booked request", 0),
)

GOALS = {
    "cpu_us_per_request_c64": "≤ 60",
    "cpu_us_per_chunk": "≤ 20",
    "req_per_s_c64": "≥ 15,000",
    "added_p50_ms_c1": "≤ 0.1",
    "added_p99_ms_c8": "≤ 1.5",
    "added_ttft_ms": "≤ 0.3",
    "added_p50_ms_c1_awake": "≤ 0.1",
    "added_ttft_ms_awake": "≤ 0.3",
    "rss_mb": "≤ 80",
    "start_s": "≤ 0.5",
    "bytes_per_request": "≤ 300",
}
"""What we mean to reach, shown beside what is reached, met or not."""

AWAKE = """Cores held awake: kept from sleeping (`/dev/cpu_dma_latency`). On a virtual machine waking one is a
trip to the host, which whoever stands between client and engine pays, nginx too."""


def section(results: dict[str, Any]) -> str:
    """Return the section; a figure that was not measured is a dash, a row that nobody has is left out."""
    ours, nginx = results["wattmill"], results.get("nginx", {})
    lines = [
        "## How fast",
        "",
        "Everything on (keys, reservation at three levels, routing, durable journal, metrics), next to nginx",
        "as a plain reverse proxy in the same run, one core for the gateway:",
        "",
        "| | wattmill | goal | nginx |",
        "|---|--:|--:|--:|",
    ]
    for key, words, digits in ROWS:
        if ours.get(key) is not None or nginx.get(key) is not None:
            lines.append(
                f"| {words} | {_figure(ours.get(key), digits)} | {GOALS.get(key, '–')} "
                f"| {_figure(nginx.get(key), digits)} |"
            )
    if ours.get("added_ttft_ms_awake") is not None:
        lines += ["", AWAKE]
    lines += ["", f"Machine: {_machine(results.get('machine', {}))}. `make bench` repeats it; the "
              "[lab book](docs/lab.md) says how it was measured.", ""]  # fmt: skip
    return "\n".join(lines)


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _machine(machine: dict[str, Any]) -> str:
    told = ("cpu", "cores", "kernel", "python", "date", "rounds")
    return ", ".join(f"{name} {machine[name]}" for name in told if _plain(machine.get(name)))


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float) and value != ""


def rewritten(readme: str, results: dict[str, Any] | None) -> str:
    """Return `readme` with its figures made from `results`; None empties the part."""
    before, _, rest = readme.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(
            f"readme_figures: README.md has lost its marks {BEGIN.strip()!r} and {END.strip()!r}"
        )
    return before + BEGIN + ("\n" + section(results) + "\n" if results else "") + END + after


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None
    old = README.read_text(encoding="utf-8")
    new = rewritten(old, results)
    if "--check" in sys.argv[1:]:
        raise SystemExit(
            0 if new == old else "readme_figures: README.md does not show benchmarks/results; make docs"
        )
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
