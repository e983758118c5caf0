"""Ten random kills under load, and the benchmark in small: the two programs that `make` runs at length."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(name: str, *args: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *args],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.mark.timeout(180)
def test_ten_kills_at_random_moments_lose_nothing_and_double_nothing():
    ran = run("chaos.py", "--rounds", "10", timeout_s=170)
    report = ran.stdout[-6000:] + ran.stderr[-3000:]
    assert ran.returncode == 0, report
    last = ran.stdout.strip().splitlines()[-1]
    assert re.fullmatch(r"kills=10 requests=\d+ lost=0 doubled=0 in_doubt=\d+", last), report


@pytest.mark.timeout(180)
def test_the_benchmark_writes_the_figures_that_readers_expect(tmp_path: Path):
    out = tmp_path / "gateway.json"
    ran = run("gateway.py", "--smoke", "--out", str(out), timeout_s=170)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    result = json.loads(out.read_text())
    assert {"wattmill", "nginx", "direct", "machine"} <= result.keys()
    proxied = {
        "cpu_us_per_request_c1",
        "cpu_us_per_request_c8",
        "cpu_us_per_request_c64",
        "cpu_us_per_chunk",
        "req_per_s_c64",
        "added_p50_ms_c1",
        "added_p99_ms_c8",
        "added_ttft_ms",
        "rss_mb",
        "start_s",
    }
    ours = proxied | {"ledger_rows_per_s", "ledger_lag_s", "bytes_per_request"}
    assert ours <= result["wattmill"].keys()
    assert proxied <= result["nginx"].keys()
    if os.access("/dev/cpu_dma_latency", os.W_OK):
        awake = {"added_p50_ms_c1_awake", "added_ttft_ms_awake"}
        assert awake <= result["wattmill"].keys() & result["nginx"].keys()
    for name in ours:
        assert isinstance(result["wattmill"][name], int | float), name
    # Sanity, not speed: a Python gateway costs more than nothing and less than a millisecond and a half.
    assert 5 < result["wattmill"]["cpu_us_per_request_c64"] < 1500
    assert 5 < result["wattmill"]["rss_mb"] < 500
    assert 20 < result["wattmill"]["bytes_per_request"] < 5000
