"""A busy afternoon of a small factory, made up: readings as the books and the processes would give them."""

from __future__ import annotations

from wattmill.app.running.state import FactoryState, PlaceState, ProcessState
from wattmill.app.seeing.readings import (
    BookReading,
    Cell,
    MeterSum,
    Readings,
    RecentRow,
    Times,
    Window,
    WorkerReading,
)
from wattmill.ledger.stores.control_records import Budget, Node

NOW_US = 1_800_000_000_000_000
S = 1_000_000
DEMO, FIRST_LIGHT, LOAD, CONSOLE, SCRIPT = 1, 2, 3, 4, 5


def cell(pool: str, key: int, tok_in: int, tok_out: int, charge: int, cost: int, **more: object) -> Cell:
    asked = {"attempts": 1, "requests": 1, "aborted": 0, "errors": 0, "status": "finished", **more}
    return Cell(
        pool=pool, key=key, prompt_tok=tok_in, output_tok=tok_out, charge_nusd=charge, cost_nusd=cost, **asked
    )  # type: ignore[arg-type]


def a_busy_factory(now_us: int = NOW_US) -> Readings:
    minute = [
        cell("edge", CONSOLE, 820, 410, 92_000, 61_000, attempts=6, requests=6),
        cell("edge", SCRIPT, 2_310, 1_204, 270_000, 171_000, attempts=14, requests=14),
        cell("local", SCRIPT, 1_122, 690, 181_000, 140_000, attempts=8, requests=7),
        cell("local", CONSOLE, 96, 31, 9_000, 8_000, aborted=1, status="aborted"),
        cell("cloud", CONSOLE, 402, 230, 208_000, 181_000, attempts=2, requests=2),
        cell("cloud", SCRIPT, 60, 12, 0, 14_000, errors=1, requests=0, status="failed"),
    ]
    ten = [
        cell("edge", SCRIPT, 402, 231, 40_000, 30_000, attempts=3, requests=3),
        cell("local", SCRIPT, 120, 88, 20_000, 15_000),
        cell("cloud", CONSOLE, 30, 60, 44_000, 40_000),
    ]
    today = [
        cell("edge", CONSOLE, 48_120, 22_410, 5_092_000, 3_261_000, attempts=206, requests=204, aborted=4),
        cell("edge", SCRIPT, 182_310, 91_204, 21_270_000, 13_171_000, attempts=914, requests=914),
        cell("local", SCRIPT, 61_122, 30_690, 8_181_000, 7_140_000, attempts=308, requests=301, errors=3),
        cell("local", CONSOLE, 8_096, 3_031, 909_000, 1_008_000, attempts=44, requests=44, aborted=2),
        cell("cloud", CONSOLE, 12_402, 6_230, 9_208_000, 8_181_000, attempts=52, requests=47, errors=6),
    ]
    source = "host model idle=20W max=65W alpha=1.0 on 2 cores"
    recent = [
        RecentRow(
            id=f"req_0a1b2c3d4e5f_{900 - i:x}",
            attempt=0,
            at_us=now_us - int((i**1.6) * S) - S,
            key=CONSOLE if i % 3 == 0 else SCRIPT,
            pool=("edge", "edge", "local", "edge", "cloud")[i % 5],
            model="smollm2-135m",
            status=("finished", "finished", "finished", "aborted", "finished", "finished", "failed")[i % 7]
            if i
            else "in flight",
            stream=i % 2 == 0,
            prompt_tok=212 + 13 * i if i else None,
            output_tok=96 - 3 * i if i else None,
            usage_source="measured" if i % 4 else "estimated",
            charge_nusd=31_000 + 417 * i if i else None,
            cost_nusd=22_000,
            energy_uj=41_700_000 - 900_000 * i if i % 5 != 4 and i else None,
            ttft_us=190_000 + 21_000 * i if i else None,
            duration_us=1_310_000 + 90_000 * i if i else None,
            reason="least expected dollars plus waiting: edge $0.000031, local $0.000044, cloud $0.000390",
        )
        for i in range(14)
    ]
    books = BookReading(
        difference={"nusd": 0, "uj": 0, "tok:input": 0, "tok:output": 0},
        in_doubt=0,
        unmetered=0,
        overrun_nusd=0,
        lag_s=0.4,
        last_10s=Window(seconds=10, cells=ten),
        last_60s=Window(seconds=60, cells=minute),
        hour=today,
        today=today,
        meter_60s=MeterSum(
            seconds=60,
            total_uj=2_940 * S,
            idle_uj=1_200 * S,
            unattributed_uj=412 * S,
            provenance="modelled",
            source=source,
        ),
        meter_hour=MeterSum(
            seconds=3_600,
            total_uj=171_000 * S,
            idle_uj=72_000 * S,
            unattributed_uj=22_000 * S,
            provenance="modelled",
            source=source,
        ),
        energy_today_uj={"edge": 101_400 * S, "local": 67_300 * S},
        ttft={
            "edge": Times(count=600, p50_us=142_000, p95_us=611_000),
            "local": Times(count=210, p50_us=288_000, p95_us=1_204_000),
            "cloud": Times(count=47, p50_us=402_000, p95_us=960_000),
        },
        refusals_today={"budget_exceeded": 12, "unknown_model": 3, "invalid_key": 1},
        recent=recent,
    )
    nodes = {
        DEMO: Node(id=DEMO, parent=None, kind="org", name="demo", cap_nusd=5 * 10**9, created_us=0),
        FIRST_LIGHT: Node(
            id=FIRST_LIGHT, parent=DEMO, kind="team", name="first-light", cap_nusd=10**9, created_us=0
        ),
        LOAD: Node(id=LOAD, parent=DEMO, kind="team", name="load", cap_nusd=250_000_000, created_us=0),
        CONSOLE: Node(
            id=CONSOLE, parent=FIRST_LIGHT, kind="key", name="console", cap_nusd=None, created_us=0
        ),
        SCRIPT: Node(id=SCRIPT, parent=LOAD, kind="key", name="script", cap_nusd=None, created_us=0),
    }

    def budget(id: int, name: str, used: int) -> Budget:
        cap = nodes[id].cap_nusd
        left = None if cap is None else cap - used
        return Budget(
            node=id,
            kind=nodes[id].kind,
            name=name,
            cap_nusd=cap,
            used_nusd=used,
            reserved_nusd=0,
            idle_nusd=0,
            left_nusd=left,
        )

    budgets = [
        budget(DEMO, "demo", 412_000_000),
        budget(FIRST_LIGHT, "demo/first-light", 182_000_000),
        budget(LOAD, "demo/load", 230_000_000),
        budget(CONSOLE, "demo/first-light/console", 182_000_000),
        budget(SCRIPT, "demo/load/script", 230_000_000),
    ]
    places = [
        PlaceState(
            pool="edge",
            place="edge",
            engine="llama.cpp, smollm2-135m-q4_0",
            stand_in=False,
            power_w=14.2,
            power_provenance="modelled",
        ),
        PlaceState(
            pool="local",
            place="local",
            engine="llama.cpp, smollm2-135m-q8_0",
            stand_in=False,
            power_w=8.9,
            power_provenance="modelled",
        ),
        PlaceState(pool="cloud", place="cloud", engine="llama.cpp, smollm2-135m-q8_0", stand_in=True),
    ]
    roles = ("ledger", "gateway-0", "admin", "engine-edge", "engine-local", "engine-cloud")
    state = FactoryState(
        name="first light",
        supervisor_pid=4_000,
        started_us=now_us - 9_000 * S,
        at_us=now_us,
        gateway_url="http://127.0.0.1:8686",
        admin_url="http://127.0.0.1:8687",
        workers=1,
        processes=[
            ProcessState(
                role=role,
                pid=4_001 + i,
                since_us=now_us - 9_000 * S,
                restarts=int(role == "engine-edge"),
                state="up",
            )
            for i, role in enumerate(roles)
        ],
        places=places,
        host_w=49.3,
        idle_w=20.0,
        rest_w={"service": 0.9, "foreign": 4.1, "unattributed": 1.2},
        power_provenance="modelled",
        power_source=source,
        config_version=1,
    )
    worker = WorkerReading(
        number=0,
        status={
            "epoch": "0a1b2c3d4e5f",
            "in_flight": 3, "started_us": now_us - 9_000 * S, "rss_mb": 41.2, "cpu_s": 96.0,
            "fleet": [
                {"pool": "edge", "healthy": True, "busy": 2, "slots": 4},
                {"pool": "local", "healthy": True, "busy": 1, "slots": 4},
                {"pool": "cloud", "healthy": True, "busy": 0, "slots": 8},
            ],
        },
    )  # fmt: skip
    return Readings(
        now_us=now_us, running=True, state=state, workers=[worker], nodes=nodes, budgets=budgets, books=books
    )
