"""A smoke of tiers on the embedded engine: more chats than it can serve, and premium goes first.

The engine's pace depends on the machine, so it is measured first: what one request takes alone. Then a
premium client asks now and then while many free ones ask all the time.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from factory import Factory, free_port
from overload import _key, _until_known, quantile
from overload_client import Crowd, Seen, Tenant

TOKENS = 24


def declaration(port: int, admin_port: int) -> str:
    return f"""
[factory]
name = "overload live"

[gateway]
host = "127.0.0.1"
port = {port}

[admin]
host = "127.0.0.1"
port = {admin_port}

[models.smollm2-135m]
context_tok = 8192

[pools.edge]
engine = "embedded"
place = "edge box"
weights = "smollm2-135m-instruct.q4_0-from-q4_1"
models = ["smollm2-135m"]
slots = 2
queue = 64
speed = {{ prefill_tok_per_s = 350.0, decode_tok_per_s = 105.0 }}
cost = {{ rule = "rates", input_usd_per_mtok = "0.01", output_usd_per_mtok = "0.03" }}

[tiers.free]
queue_s = 6.0

[tiers.premium]
ttft_s = 5.0
tok_per_s = 5.0

[tenants.crowd.teams.premium]
tier = "premium"

[tenants.crowd.teams.free-1]
[tenants.crowd.teams.free-2]

[tenants.bench.teams.load]
"""


async def live(seconds: float) -> int:
    """Return 0 if every premium request was served before its free neighbours' median."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        factory = Factory(Path(folder) / "home", declaration(port, free_port()), port=port)
        await asyncio.to_thread(factory.start, timeout_s=120.0)
        try:
            keys = {team: _key(factory, f"crowd/{team}") for team in ("premium", "free-1", "free-2")}
            alone = await _crowd(factory, [Tenant("premium", "premium", keys["premium"], 1.0)], 5.0)
            service_s = quantile([s.total_s for s in alone if s.status == 200], 0.5)
            capacity_per_s = 2 / service_s
            tenants = [
                Tenant("premium", "premium", keys["premium"], 0.3 * capacity_per_s),
                Tenant("free-1", "free", keys["free-1"], 0.7 * capacity_per_s),
                Tenant("free-2", "free", keys["free-2"], 2.0 * capacity_per_s),
            ]
            _until_known(factory, tenants)
            seen = await _crowd(factory, tenants, seconds)
        finally:
            await asyncio.to_thread(factory.stop)
    print(f"embedded engine: a request alone takes {service_s:.2f} s, two slots; 3 x for {seconds:g} s")
    p95: dict[str, float] = {}
    for tier in ("premium", "free"):
        mine = [s for s in seen if s.tenant.tier == tier]
        served = [s for s in mine if s.status == 200]
        p95[tier] = quantile([s.ttft_s for s in served if s.ttft_s is not None], 0.95)
        print(
            f"{tier:8} asked {len(mine):4d}  served {len(served):4d}  TTFT p95 {p95[tier]:.2f} s  "
            f"refused {sum(s.status == 503 for s in mine)}"
        )
    premium = [s for s in seen if s.tenant.tier == "premium"]
    good = bool(premium) and all(s.status == 200 for s in premium) and p95["premium"] < p95["free"]
    print("premium went first and lost nothing" if good else "premium did not go first")
    return 0 if good else 1


async def _crowd(factory: Factory, tenants: list[Tenant], seconds: float) -> list[Seen]:
    crowd = Crowd(factory.port, tokens=TOKENS, model="smollm2-135m", seed=3)
    await crowd.run(tenants, seconds=seconds, patience_s=30.0)
    return crowd.seen
