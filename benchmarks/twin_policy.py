"""How many requests a second the twin plays when the gateway's own default policy decides each of them.

`python benchmarks/twin_policy.py` prints it; `policy_speed` is what `make bench-twin` writes. Sixteen places
of one replica each, Azure conversation lengths, open loop. Each request is decided by the gateway's view over
all sixteen, reserved at key, team and organisation, written down as an intent and an end with its decision
(as framed and checksummed bytes), rated on both legs, settled, and learned from. `booked` adds the
double-entry books in SQLite and the joules of each window. Seconds are of CPU, of one core.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "src"))

from wattmill.app.declared.declaration import Loaded, decode  # noqa: E402
from wattmill.app.home import Home  # noqa: E402
from wattmill.app.simulating.demand import DemandFile, StreamSettings, demand  # noqa: E402
from wattmill.app.simulating.factory import Core, SimulatedFactory  # noqa: E402
from wattmill.twin.fleet.books import SimulatedBooks  # noqa: E402

REPLICAS = 16
AZURE = HERE / "data" / "azure_llm_2023_conv.csv.gz"

_HEAD = """
[models.m]
context_tok = 16384

[tenants.bench.teams.twin]
"""

_PLACE = """
[pools.p{n:02d}]
engine = "openai_http"
adapter = "vllm"
base_url = "http://127.0.0.1:9/v1"
place = "p{n:02d}"
models = ["m"]
slots = 128
queue = 2048
context_tok = 16384
speed = {{ prefill_tok_per_s = 16000.0, decode_tok_per_s = 95.0 }}

[pools.p{n:02d}.cost]
rule = "owned"
hourly_usd = "2.50"
power_w = 700.0
idle_w = 100.0
prefill_tok_per_s = 16000.0
decode_tok_per_s = 3000.0

[pools.p{n:02d}.twin.step]
step_ms = 10.0
decode_us = 120.0
kv_ns_per_tok = 1.0
prefill_us_per_tok = 60.0
source = "benchmarks/twin_policy.py, declared"
"""


class Speed(NamedTuple):
    requests: int
    cpu_s: float
    requests_per_s: float


class _Unbooked(SimulatedBooks):
    """Facts are written and not booked."""

    append_intent = append_end = SimulatedBooks.write  # type: ignore[assignment]


def declared() -> Loaded:
    """Return the factory of sixteen places."""
    text = _HEAD + "".join(_PLACE.format(n=n) for n in range(REPLICAS))
    loaded = decode(text, file="twin_policy", folder=HERE, env={})
    assert isinstance(loaded, Loaded), loaded
    return loaded


def policy_speed(
    *, requests: int = 20_000, per_s: float = 200.0, booked: bool = False, core: Core = "auto"
) -> Speed:
    """Play about `requests` requests and return how fast that went."""
    loaded = declared()
    stream = StreamSettings(per_s=per_s, duration_s=requests / per_s, lengths_of=str(AZURE))
    wanted = demand(DemandFile(stream=(stream,)), loaded.settings, folder=HERE, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        home.create()
        factory = SimulatedFactory(loaded.settings, {}, wanted, home, seed=1, core=core)
        if not booked:
            factory.books.__class__ = _Unbooked
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            began_s = time.process_time()
            factory.world.run()
            cpu_s = time.process_time() - began_s
        finally:
            gc.enable()
            gc.unfreeze()
        asked = factory.world.asked
        refused = asked - factory.world.served
        assert refused < 0.01 * asked, f"{refused} of {asked} were refused: that is not the path to measure"
        factory.books.db.close()
        factory.control.close()
    return Speed(asked, cpu_s, asked / cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    policy_speed(requests=500)  # what is compiled, is compiled now
    best: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, booked in (("policy_requests_per_s", False), ("booked_requests_per_s", True)):
            speed = policy_speed(requests=args.requests, booked=booked)
            best[name] = max(best.get(name, 0.0), round(speed.requests_per_s))
    print(json.dumps(best))


if __name__ == "__main__":
    main()
