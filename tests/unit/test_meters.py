"""Meters against what they read: files, sockets, a compiled library in the place of the driver's."""

from __future__ import annotations

import ctypes
import http.server
import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certificates import self_signed
from wattmill.power.counters import span
from wattmill.power.live.bank import MeterBank, Trace, open_bank
from wattmill.power.live.cpu import CpuUse
from wattmill.power.live.meters.ipmi import watts_of
from wattmill.power.live.meters.prometheus import samples
from wattmill.power.live.meters.registry import open_meter
from wattmill.power.spec import MeterConfig
from wattmill.power.tree import faults, own_part
from wattmill.vocab.meter import MeterError, Reading

S = 1_000_000


def joules(t_s: float, uj: int, wraps: int | None = None) -> Reading:
    return Reading(meter="m", t_s=t_s, energy_uj=uj, wraps_at_uj=wraps)


# --- counters ---------------------------------------------------------------------------------------------


def test_a_counter_that_runs_over_is_put_right_and_one_that_began_again_is_not_made_up():
    assert span(joules(0, 900, 1000), joules(1, 50, 1000), period_s=1, max_w=1) == (150, "wrap")
    assert span(joules(0, 900), joules(1, 50), period_s=1, max_w=None) == (50, "reset")
    # It would have drawn 100 W at most: 0.9 J of its range is not what ran through in a second.
    assert span(joules(0, 10_000_000, 900 * S), joules(1, 50, 900 * S), period_s=1, max_w=100) == (
        50,
        "reset",
    )


def test_a_gap_of_a_counter_loses_no_joule_and_one_of_a_gauge_invents_none():
    assert span(joules(0, 0), joules(60, 120 * S), period_s=1, max_w=None) == (120 * S, "gap")
    watts = [Reading(meter="m", t_s=t, power_w=w) for t, w in ((0.0, 10.0), (1.0, 20.0), (61.0, 20.0))]
    assert span(watts[0], watts[1], period_s=1, max_w=None) == (15 * S, "")
    assert span(watts[1], watts[2], period_s=1, max_w=None) == (None, "gap")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded host
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(0, 99))
def test_a_wrapping_counter_gives_what_flowed_whatever_its_range(steps: list[int], start: int) -> None:
    at, seen = start, 0
    before = joules(0, at, 100)
    for second, step in enumerate(steps, 1):
        at = (at + step) % 100
        after = joules(second, at, 100)
        uj, _ = span(before, after, period_s=1, max_w=40e-6)
        assert uj is not None
        seen, before = seen + uj, after
    assert seen == sum(steps)


# --- files ------------------------------------------------------------------------------------------------


def rapl_tree(folder: Path, *, package: int, most: int = 1_000 * S - 1) -> Path:
    for zone, name, uj in (
        ("intel-rapl:0", "package-0", package),
        ("intel-rapl:0:0", "core", 5),
        ("intel-rapl:0:1", "dram", 7 * S),
        ("intel-rapl:1", "psys", 9 * S),
    ):
        (folder / zone).mkdir(parents=True, exist_ok=True)
        (folder / zone / "name").write_text(f"{name}\n")
        (folder / zone / "energy_uj").write_text(f"{uj}\n")
        (folder / zone / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_rapl_adds_packages_and_memory_and_neither_their_parts_nor_the_board(tmp_path: Path) -> None:
    rapl_tree(tmp_path, package=995 * S)
    config = MeterConfig(name="cpu", source="rapl", at=str(tmp_path), max_w=200.0)
    trace = Trace(config, open_meter(config))
    trace.read(t_s=10.0, wall_us=0)
    rapl_tree(tmp_path, package=15 * S)  # 20 J on, over the end of its range
    trace.read(t_s=11.0, wall_us=S)
    assert [(p.uj, p.event) for p in trace.points] == [(0, ""), (20 * S, "wrap")]
    assert trace.meter.spec.resolution_uj == 61 and "dram" in trace.meter.spec.source


def test_a_counter_that_may_not_be_read_says_how_to_be_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rapl_tree(tmp_path, package=1)
    real = open

    def guarded(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", guarded)
    with pytest.raises(MeterError, match=r"chmod o\+r"):
        open_meter(MeterConfig(name="cpu", source="rapl", at=str(tmp_path)))


def test_a_replayed_file_plays_and_is_silent_where_it_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("t_s,energy_j\n0,100\n1,103.5\n2,\n3,110\n")
    meter = open_meter(MeterConfig(name="m", source="replay", at=str(file)))
    assert [r.energy_uj for r in meter.read(t_s=50.0)] == [100 * S]
    assert [(r.t_s, r.energy_uj) for r in meter.read(t_s=51.4)] == [(51.0, 103_500_000)]
    with pytest.raises(MeterError, match="silent"):
        meter.read(t_s=52.0)
    assert meter.read(t_s=53.0)[0].energy_uj == 110 * S
    with pytest.raises(MeterError, match="silent"):
        meter.read(t_s=54.0)
    file.write_text("t_s,power_w\n0,1\n0,2\n")
    with pytest.raises(MeterError, match="must rise"):
        open_meter(MeterConfig(name="m", source="replay", at=str(file)))


# --- sockets ----------------------------------------------------------------------------------------------


@pytest.fixture
def pages() -> Iterator[tuple[str, dict[str, Any]]]:
    """A server of pages: path -> (status, body). It keeps the headers of the last question under "asked"."""
    served: dict[str, Any] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served["asked"] = dict(self.headers)
            status, body = served.get(self.path, (404, ""))
            text = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", served
        server.shutdown()
        thread.join()


def test_a_controller_tells_watts_by_redfish_new_and_old(pages: tuple[str, dict[str, Any]]) -> None:
    url, served = pages
    served["/redfish/v1/Chassis"] = (200, {"Members": [{"@odata.id": "/redfish/v1/Chassis/1U"}]})
    served["/redfish/v1/Chassis/1U"] = (
        200,
        {
            "Model": "R1",
            "Manufacturer": "Acme",
            "EnvironmentMetrics": {"@odata.id": "/redfish/v1/Chassis/1U/EnvironmentMetrics"},
            "Power": {"@odata.id": "/redfish/v1/Chassis/1U/Power"},
        },
    )
    served["/redfish/v1/Chassis/1U/EnvironmentMetrics"] = (200, {"PowerWatts": {"Reading": 374.5}})
    config = MeterConfig(name="bmc", source="redfish", at=url, headers={"authorization": "Basic eDp5"})
    meter = open_meter(config)
    assert [r.power_w for r in meter.read(t_s=1.0)] == [374.5] and "Acme R1" in meter.spec.source
    assert served["asked"]["authorization"] == "Basic eDp5"
    served["/redfish/v1/Chassis/1U/EnvironmentMetrics"] = (200, {"EnergykWh": 12.5, "PowerWatts": None})
    assert meter.read(t_s=2.0)[0].energy_uj == 45_000_000 * S
    served["/redfish/v1/Chassis/1U"] = (200, {"Power": {"@odata.id": "/redfish/v1/Chassis/1U/Power"}})
    served["/redfish/v1/Chassis/1U/Power"] = (200, {"PowerControl": [{"PowerConsumedWatts": 288}]})
    old = open_meter(MeterConfig(name="bmc", source="redfish", at=f"{url}/redfish/v1/Chassis/1U"))
    assert old.read(t_s=1.0)[0].power_w == 288.0
    served["/redfish/v1/Chassis/1U/Power"] = (200, {"PowerControl": [{"PowerConsumedWatts": None}]})
    with pytest.raises(MeterError, match="tells no power now"):
        old.read(t_s=2.0)
    served["/redfish/v1/Chassis/1U"] = (401, "")
    with pytest.raises(MeterError, match="authorization_env"):
        open_meter(MeterConfig(name="bmc", source="redfish", at=f"{url}/redfish/v1/Chassis/1U"))


DCGM = """# HELP DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION Total energy consumption since boot (in mJ).
# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a",modelName="NVIDIA H100 80GB HBM3"} 1523500
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="GPU-b",modelName="say \\"hi\\" {x}"} 2.5e+06 1700000000000
DCGM_FI_DEV_POWER_USAGE{gpu="0"} 101.5
kepler_node_cpu_joules_total{zone="package",path="/sys"} 77.25
kepler_node_cpu_joules_total{zone="dram",path="/sys"} 11
broken line {
not_a_number NaN
"""


def test_exporters_of_dcgm_and_kepler_are_read_by_their_series(pages: tuple[str, dict[str, Any]]) -> None:
    url, served = pages
    served["/metrics"] = (200, DCGM)
    at = f"{url}/metrics"
    dcgm = open_meter(MeterConfig(name="g", source="exporter", at=at, query="dcgm"))
    assert [r.energy_uj for r in dcgm.read(t_s=0.0)] == [1_523_500_000, 2_500_000_000]
    one = MeterConfig(
        name="g",
        source="exporter",
        at=at,
        unit="mJ",
        query='DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{UUID=~"GPU-[b-z]",gpu!="0"}',
    )
    assert [r.energy_uj for r in open_meter(one).read(t_s=0.0)] == [2_500_000_000]
    kepler = open_meter(MeterConfig(name="k", source="exporter", at=at, query="kepler"))
    assert [r.energy_uj for r in kepler.read(t_s=0.0)] == [77_250_000]
    assert {s.labels.get("modelName") for s in samples(DCGM)} >= {'say "hi" {x}'}
    with pytest.raises(MeterError, match="says nan"):
        open_meter(MeterConfig(name="k", source="exporter", at=at, query="not_a_number", unit="W"))
    with pytest.raises(MeterError, match="no series"):
        open_meter(MeterConfig(name="k", source="exporter", at=at, query="absent", unit="W"))
    with pytest.raises(MeterError, match="unit is"):
        open_meter(MeterConfig(name="k", source="exporter", at=at, query="DCGM_FI_DEV_POWER_USAGE"))


def test_a_prometheus_server_answers_a_query(pages: tuple[str, dict[str, Any]]) -> None:
    url, served = pages
    path = "/api/v1/query?query=sum%28node_watts%29"
    vector = {"resultType": "vector", "result": [{"metric": {"rack": "a"}, "value": [1700000000.1, "412.5"]}]}
    served[path] = (200, {"status": "success", "data": vector})
    meter = open_meter(MeterConfig(name="r", source="promql", at=url, query="sum(node_watts)", unit="W"))
    assert [(r.counter, r.power_w) for r in meter.read(t_s=0.0)] == [("rack=a", 412.5)]
    served[path] = (200, {"status": "success", "data": {"resultType": "vector", "result": []}})
    with pytest.raises(MeterError, match="no value now"):
        meter.read(t_s=1.0)
    served[path] = (200, {"status": "error", "error": "parse error"})
    with pytest.raises(MeterError, match="parse error"):
        meter.read(t_s=1.0)


# --- programs and libraries -------------------------------------------------------------------------------

DCMI = """
    Instantaneous power reading:                   374 Watts
    Minimum during sampling period:                  8 Watts
    Average power reading over sample period:      369 Watts
    IPMI timestamp:                           Sat Nov 28 08:00:00 2026
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   activated
"""


def test_ipmitools_words_are_read_and_its_refusals_told(tmp_path: Path) -> None:
    tool = tmp_path / "ipmitool"
    tool.write_text(f"#!/bin/sh\ncat <<'E'\n{DCMI}E\n")
    tool.chmod(0o700)
    meter = open_meter(MeterConfig(name="bmc", source="dcmi", at=str(tool)))
    assert meter.read(t_s=1.0)[0].power_w == 374.0
    with pytest.raises(MeterError, match="deactivated"):
        watts_of(DCMI.replace("activated", "deactivated"), "bmc")
    tool.write_text("#!/bin/sh\necho 'Could not open device at /dev/ipmi0' >&2\nexit 1\n")
    with pytest.raises(MeterError, match="ipmi_devintf"):
        meter.read(t_s=2.0)
    with pytest.raises(MeterError, match="apt install ipmitool"):
        open_meter(MeterConfig(name="bmc", source="dcmi", at=str(tmp_path / "none")))


NVML = r"""
#include <string.h>
static unsigned long long mj = 5000;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)(long)(i + 1); return 0; }
int nvmlDeviceGetName(void *h, char *s, unsigned n) {
  strncpy(s, h == (void *)1 ? "H100" : "P4", n); return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *e) {
  if (h != (void *)1) return 3;
  *e = mj; mj += 250; return 0; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) { *mw = h == (void *)2 ? 61500 : 0; return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the driver's stand-in")
def test_the_drivers_library_is_called_as_its_header_says(tmp_path: Path) -> None:
    """No device is here: a compiled library of the same functions stands in for the driver's."""
    source, library = tmp_path / "nvml.c", tmp_path / "libnvml.so"
    source.write_text(NVML)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    meter = open_meter(MeterConfig(name="g", source="nvml", at=str(library)))
    first, second = meter.read(t_s=0.0), meter.read(t_s=1.0)
    assert [(r.counter, r.energy_uj, r.power_w) for r in first] == [
        ("0 H100", 5_250_000, None),
        ("1 P4", None, 61.5),
    ]
    assert second[0].energy_uj == 5_500_000
    with pytest.raises(MeterError, match="chip 7 of 2"):
        open_meter(MeterConfig(name="g", source="nvml", at=str(library), query="7"))
    with pytest.raises(MeterError, match="no NVIDIA driver"):
        open_meter(MeterConfig(name="g", source="nvml", at=str(tmp_path / "none.so")))


def test_zeus_finding_nothing_is_an_error_and_its_chips_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpus:
        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

        def supports_get_total_energy_consumption(self, i: int) -> bool:
            return i == 0

        def get_total_energy_consumption(self, i: int) -> int:
            return 1234

        def get_instant_power_usage(self, i: int) -> int:
            return 87_500

        def get_name(self, i: int) -> str:
            return "MI300X"

    device = types.ModuleType("zeus.device")
    package = types.ModuleType("zeus")
    monkeypatch.setitem(sys.modules, "zeus", package)
    monkeypatch.setitem(sys.modules, "zeus.device", device)
    device.get_gpus = lambda: Gpus(2)  # type: ignore[attr-defined]
    meter = open_meter(MeterConfig(name="g", source="zeus"))
    assert [(r.energy_uj, r.power_w) for r in meter.read(t_s=0.0)] == [(1_234_000, None), (None, 87.5)]
    device.get_gpus = lambda: Gpus(0)  # type: ignore[attr-defined]
    with pytest.raises(MeterError, match="counts no chip"):
        open_meter(MeterConfig(name="g", source="zeus"))
    monkeypatch.setitem(sys.modules, "zeus.device", None)
    with pytest.raises(MeterError, match=r"wattmill\[meters\]"):
        open_meter(MeterConfig(name="g", source="zeus"))


def test_another_package_brings_a_source_by_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_meter.py").write_text(
        "from wattmill.vocab.meter import Reading\n"
        "class Acme:\n"
        "    def __init__(self, config):\n"
        "        self.spec = config.spec('acme')\n"
        "    def read(self, *, t_s):\n"
        "        return [Reading(meter=self.spec.name, t_s=t_s, power_w=7.0)]\n"
    )
    info = tmp_path / "acme_meter-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-meter\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[wattmill.meters]\nacme = acme_meter:Acme\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert open_meter(MeterConfig(name="a", source="acme")).read(t_s=1.0)[0].power_w == 7.0
    with pytest.raises(MeterError, match=r"must be one of acme, dcmi, exporter"):
        open_meter(MeterConfig(name="a", source="acmee"))


def test_a_controller_that_signed_its_own_certificate_is_trusted_once_it_is_named(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"node_watts 41.5\n"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://localhost:{server.server_address[1]}/metrics"
        config = MeterConfig(name="bmc", source="exporter", at=url, query="node_watts", unit="W")
        with pytest.raises(MeterError, match=r"not trusted .*self-signed.* ca_file = "):
            open_meter(config)
        named = msgspec.structs.replace(config, ca_file=str(cert))
        assert open_meter(named).read(t_s=1.0)[0].power_w == 41.5
        with pytest.raises(MeterError, match="holds no certificate"):
            open_meter(msgspec.structs.replace(config, ca_file=str(key)))
        server.shutdown()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MeterConfig(name="a", source="nvml", at="LIBRARY", query="first"), "ValueError: invalid literal"),
        (MeterConfig(name="a", source="exporter", at="URL/m", query='x{a=~"("}', unit="W"), "missing \\)"),
        (MeterConfig(name="a", source="promql", at="URL", query="x[5m]", unit="W"), "gives a matrix"),
    ],
)
def test_what_a_declaration_gets_wrong_of_a_meter_is_a_word_and_no_end(
    pages: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, config: MeterConfig, words: str
) -> None:
    url, served = pages
    served["/m"] = (200, 'x{a="b"} 5\n')
    served["/api/v1/query?query=x%5B5m%5D"] = (
        200,
        {
            "status": "success",
            "data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[0, "1"]]}]},
        },
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    with pytest.raises(MeterError, match=words):
        open_meter(msgspec.structs.replace(config, at=config.at.replace("URL", url)))


class Driver:
    """NVIDIA's library, as far as opening goes."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: 0


# --- the tree ---------------------------------------------------------------------------------------------


class Played:
    """A meter whose counter says what a test wants next; None: silent."""

    def __init__(self, config: MeterConfig, values: list[int | None]) -> None:
        self.spec, self.values = config.spec("played"), iter(values)

    def read(self, *, t_s: float) -> list[Reading]:
        value = next(self.values)
        if value is None:
            raise MeterError("silent")
        return [Reading(meter=self.spec.name, t_s=t_s, energy_uj=value)]


CHIP = MeterConfig(name="chip", source="x", level="chip", parent="node", pools=("local",), idle_w=10.0)
NODE = MeterConfig(name="node", source="x", level="node", parent="site", idle_w=30.0)
SITE = MeterConfig(name="site", source="x", level="site", idle_w=36.0)


def bank(chip: list[int | None], node: list[int | None], site: list[int | None]) -> MeterBank:
    values = {"chip": chip, "node": node, "site": site}
    found, troubles = open_bank(
        [SITE, NODE, CHIP], lambda c: Played(c, [v and v * S for v in values[c.name]])
    )
    assert not troubles
    return found


def test_what_a_meter_sees_beyond_those_below_it_is_the_hosts_share_and_overhead():
    meters = bank([0, 100], [0, 150], [0, 171])
    assert meters.sample(None, t_s=0.0, wall_us=0) == []
    chip, node, site = sorted(meters.sample(None, t_s=1.0, wall_us=S), key=lambda w: w.meter)
    assert (chip.total_uj, chip.idle_uj, chip.shares_uj) == (100 * S, 10 * S, {"local": 90 * S})
    assert (node.total_uj, node.idle_uj, node.service_uj) == (50 * S, 20 * S, 30 * S)
    assert (site.total_uj, site.idle_uj, site.overhead_uj) == (21 * S, 6 * S, 15 * S)
    assert sum(w.total_uj for w in (chip, node, site)) == 171 * S, "overlapping meters are never added"
    assert node.shares_uj == {"local": 0} and node.parent == "site" and meters.covers_cpu


def test_a_child_that_falls_silent_leaves_its_joules_to_its_parent_and_that_is_told():
    meters = bank([0, 100, *[None] * 30], [150 * n for n in range(32)], [160 * n for n in range(32)])
    told = [w for t in range(32) for w in meters.sample(None, t_s=float(t), wall_us=t * S)]
    node = [w for w in told if w.meter == "node"]
    assert (node[0].total_uj, node[0].event) == (50 * S, "")
    assert node[1].total_uj == 150 * S and node[1].event == "part"


def test_a_child_that_comes_back_brings_no_joule_twice():
    """Its counter went on while nobody heard it; its parent had taken its joules for its own by then."""
    chip = [100 * n if n < 2 or n > 21 else None for n in range(80)]
    meters = bank(chip, [150 * n for n in range(80)], [160 * n for n in range(80)])
    told = [w for t in range(80) for w in meters.sample(None, t_s=float(t), wall_us=t * S)]
    assert any(w.event == "part" for w in told)
    assert sum(w.total_uj for w in told) == 160 * 79 * S


def test_a_defect_in_a_meter_of_others_is_a_gap_and_not_an_end(monkeypatch: pytest.MonkeyPatch):
    meters = bank([0, 100, 200], [0, 150, 300], [0, 160, 320])
    meters.sample(None, t_s=0.0, wall_us=0)
    broken = meters.traces["site"].meter

    def read(*, t_s: float) -> list[Reading]:
        raise KeyError("value")

    monkeypatch.setattr(broken, "read", read)
    assert {w.meter for w in meters.sample(None, t_s=1.0, wall_us=S)} == {"chip", "node"}
    assert "KeyError" in meters.traces["site"].trouble
    _, troubles = open_bank([NODE], lambda c: (_ for _ in ()).throw(re.error("bad")))  # type: ignore[arg-type]
    assert "bad" in troubles["node"]


@pytest.mark.parametrize(
    "config",
    [
        MeterConfig(name="a", source="exporter", at="http://u:secret@127.0.0.1:1/metrics", query="dcgm"),
        MeterConfig(name="a", source="dcmi", query="-I lanplus -U me -P secret"),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(config: MeterConfig):
    with pytest.raises(MeterError, match="password") as refused:
        open_meter(config)
    assert "secret" not in str(refused.value)


def test_meters_read_at_different_instants_owe_each_other_nothing_in_the_end():
    part = own_part(90, [100], idle_w=0, below_idle_w=[], seconds=1)
    assert part == (0, 0, -10)
    assert own_part(130, [100], idle_w=0, below_idle_w=[], seconds=1, carry_uj=part.carry_uj).total_uj == 20


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded host
@given(st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=2, max_size=20))
def test_the_windows_of_a_tree_add_up_to_its_root(steps: list[tuple[int, int, int]]) -> None:
    sums = [[0], [0], [0]]
    for chip, host, overhead in steps:
        for place, value in enumerate((chip, chip + host, chip + host + overhead)):
            sums[place].append(sums[place][-1] + value)
    meters = bank(*sums)  # type: ignore[arg-type]
    told = [w for t in range(len(steps) + 1) for w in meters.sample(None, t_s=float(t), wall_us=t * S)]
    assert sum(w.total_uj for w in told) == sums[2][-1] * S
    for w in told:
        parts = (w.idle_uj, *w.shares_uj.values(), w.service_uj, w.foreign_uj, w.overhead_uj, w.other_uj)
        assert w.total_uj == sum(parts)


def test_a_cpus_joules_go_by_cpu_time_and_a_gap_is_told():
    cpu = MeterConfig(name="cpu", source="x", level="chip", idle_w=5.0)
    meters, _ = open_bank([cpu], lambda c: Played(c, [0, None, None, None, None, 50 * S]))
    use = CpuUse(1.0, {"edge": 0.5}, 0.25, True)
    told = [w for t in range(6) for w in meters.sample(use, t_s=float(t), wall_us=t * S)]
    (window,) = told
    assert (window.total_uj, window.idle_uj, window.event) == (50 * S, 25 * S, "gap")
    assert (window.shares_uj, window.service_uj, window.foreign_uj) == (
        {"edge": 12_500_000},
        6_250_000,
        6_250_000,
    )


def test_what_makes_no_tree_is_named():
    chip = MeterConfig(name="chip", source="x", level="chip", parent="gone")
    upside = MeterConfig(name="up", source="x", level="site", parent="chip")
    second = MeterConfig(name="b", source="x", level="chip", pools=("p",))
    third = MeterConfig(name="c", source="x", level="chip", pools=("p",))
    found = {(name, field) for name, field, _ in faults([chip, upside, second, third])}
    assert found == {("chip", "parent"), ("up", "parent"), ("up", "level"), ("c", "pools")}
