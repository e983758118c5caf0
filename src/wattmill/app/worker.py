"""One gateway worker: `python -m wattmill.app.worker --home DIR --worker N`.

Composes the data plane with the real ports: journal, purse, keys, prices, fleet. What changes at run time
(keys, caps, prices, the declaration) is read in a thread about four times a second and swapped in whole.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from wattmill import __version__
from wattmill.app.declared.declaration import restored
from wattmill.app.declared.electricity_settings import Now, all_now
from wattmill.app.declared.plan import Prices, backends, cards, fleet_pools, route_weights
from wattmill.app.declared.policy_named import policy_named
from wattmill.app.declared.prices_in_force import prices_in_force
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tier_settings import default_tier
from wattmill.app.dice import dice
from wattmill.app.home import Home
from wattmill.app.identify import Entry, Keyring, read_entries
from wattmill.app.joules import JoulesPerToken
from wattmill.app.running import lifeline
from wattmill.app.running.clock import LiveClock
from wattmill.app.running.engine_endpoints import EngineEndpoint, read_endpoints
from wattmill.app.running.lag import Backlog
from wattmill.app.running.worker_batches import WorkerBatches
from wattmill.app.running.worker_control import serve_control
from wattmill.app.running.worker_doors import WorkerDoors
from wattmill.app.running.worker_kept import WorkerKept
from wattmill.app.running.worker_runs import WorkerRuns
from wattmill.app.running.worker_tiers import WorkerTiers, saving_tiers
from wattmill.distribution.gate import Gate
from wattmill.distribution.gateway import Gateway, Services
from wattmill.distribution.server import Server
from wattmill.ledger.budgets import Allotments
from wattmill.ledger.journal import Journal
from wattmill.ledger.rating import output_affordable, rate, worst_case_nusd
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import declared_part
from wattmill.ledger.stores.control_records import EpochClosed
from wattmill.models.engines.adapter import ADAPTERS
from wattmill.power.live.proc import process_cpu_s, process_rss_bytes
from wattmill.scheduling.fleet import FleetView
from wattmill.scheduling.memory import Memory

POLL_S = 0.25
_PRICES_S = 15.0  # a price may begin to hold without anything being written
_EPOCH_CLOSED = 75  # exit code: declared dead while alive, so another may hold what we held
_log = logging.getLogger("wattmill.worker")


class Declared(msgspec.Struct, frozen=True):
    """What was read from the control database in one go."""

    generation: int
    settings: Settings
    prices: dict[tuple[str, str], Prices]
    endpoints: dict[str, EngineEndpoint]
    entries: dict[bytes, Entry]
    power: dict[str, Now]  # of this hour, by the name of declared electricity
    at_us: int


def read_declared(home: Home, control: Control, env: Mapping[str, str], *, now_us: int) -> Declared:
    """Read everything that a worker serves by. Blocks for some milliseconds."""
    generation = control.generation()
    config = control.config()
    if config is None:
        raise LookupError(f"no declaration in {home.control_db}: `wattmill up` writes it")
    settings = restored(config[1])
    return Declared(
        generation,
        settings,
        prices_in_force(control, settings, env, now_us=now_us),
        read_endpoints(home),
        read_entries(control, settings.tenants, tier=default_tier(settings.tiers, settings.admission)),
        all_now(settings.electricity, now_us),
        now_us,
    )


class Worker:
    """The composition of one worker; everything on one event loop, blocking calls in threads."""

    def __init__(self, home: Home, number: int, *, env: Mapping[str, str]) -> None:
        self._home = home
        self._number = number
        self._env = env
        self._clock = LiveClock()
        self._control = Control(home.control_db)
        self._declared = read_declared(home, self._control, env, now_us=self._clock.wall_us())
        settings = self._declared.settings
        self._journal = Journal(
            home.journal,
            kind="gateway",
            worker=number,
            segment_bytes=settings.journal.segment_mib * 1024 * 1024,
            sync_s=settings.journal.sync_ms / 1_000,
        )
        self._keyring = Keyring(self._declared.entries)
        self._purse = Allotments(
            self._control,
            self._journal.epoch,
            term_s=settings.budgets.term_s,
            place=f"{socket.gethostname()} worker {number} pid {os.getpid()}",
        )
        self._runs = WorkerRuns(self._control, self._purse, self._journal, self._clock, ends_runs=number == 0)
        self._backlog = Backlog(home, settings.ledger, lambda: self._journal.records)
        self._gateway = Gateway(self._clock)
        self._kept = WorkerKept(home, self._journal.epoch, self._clock)
        self._tiers = WorkerTiers(home, number, self._gateway, self._clock)
        self._batches = WorkerBatches(
            home, self._gateway, self._keyring, self._clock, settings,
            may_begin=lambda: self._tiers.valve.batches,
        )  # fmt: skip
        self._server = Server(
            self._gateway, limits=lambda: self._declared.settings.gateway.limits, clock=self._clock
        )
        self._fleet: FleetView | None = None
        draws = dice(settings.routing.seed, worker=number)
        self._memory = Memory(
            expected_output_tok=settings.routing.expected_output_tok, seed=draws.seed, draw=draws.draw
        )
        self._started_us = self._clock.wall_us()
        self._prices_at_s = self._clock.now()
        self._exit_code = 0
        self._ended = asyncio.Event()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False
        self._use(self._declared)

    # --- life --------------------------------------------------------------------------------------------

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ended.set)
        loop.add_signal_handler(signal.SIGHUP, self._wake.set)
        settings = self._declared.settings
        control = await serve_control(self._home.worker_socket(self._number), self._operations())
        await self._server.listen(
            _listening_socket(settings.gateway.host, settings.gateway.port), tls=_tls(settings)
        )
        self._listening = True
        self._start(self._poll())
        self._start(self._batches.run())
        # What was made at the start lives as long as the worker: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        await self._ended.wait()
        self._listening = False
        self._gateway.draining = True
        cut, _ = await asyncio.gather(
            self._server.drain(settings.gateway.drain_s), self._batches.drain(settings.gateway.drain_s)
        )
        if cut:
            _log.warning("%d answers were cut at the end of the drain time", cut)
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(Exception):  # the books make good what could not be told
            await self._purse.tick()
        control.close()
        self._gateway.close()
        self._tiers.close()
        await self._kept.close()
        self._batches.close()
        self._journal.close()
        self._home.worker_socket(self._number).unlink(missing_ok=True)
        return self._exit_code

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the worker failed; restarting", exc_info=error)
            self._exit_code = _EPOCH_CLOSED if isinstance(error, EpochClosed) else 1
            self._ended.set()

    # --- what changes at run time ------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S)
            asked = self._wake.is_set()
            self._wake.clear()
            await self._purse.tick()
            await self._runs.tick()
            await self._kept.tick()
            self._backlog.look()
            self._tiers.tick()
            if self._fleet is not None:
                self._fleet.refresh()
            await self._reread(asked)

    async def _reread(self, asked: bool) -> None:
        due = self._clock.now() - self._prices_at_s >= _PRICES_S
        try:
            if not asked and not due:
                known, now = self._declared.generation, await asyncio.to_thread(self._control.generation)
                if now == known:
                    return
                if declared_part(now) == declared_part(known):  # keys, prices and the rest are as they were
                    await self._runs.changed()
                    self._declared = msgspec.structs.replace(self._declared, generation=now)
                    return
            declared = await asyncio.to_thread(
                read_declared, self._home, self._control, self._env, now_us=self._clock.wall_us()
            )
            self._prices_at_s = self._clock.now()
            self._use(declared)
            await self._purse.refresh()
            await self._runs.changed()
        except Exception:  # noqa: BLE001  what held before goes on to hold; the log says why
            _log.exception("could not read the control database; serving on with what is known")

    def _use(self, declared: Declared) -> None:
        """Serve by `declared` from now on. Raises, and changes nothing, if it does not hold together."""
        self._keyring.replace(declared.entries)
        before, self._declared = self._declared, declared
        if self._fleet is not None and _same_service(before, declared):
            return
        settings = declared.settings
        reached = backends(settings, declared.prices, declared.endpoints, self._env)
        able = {name: adapter.capabilities for name, adapter in ADAPTERS.items()}
        pools = fleet_pools(settings, reached, self._env, able.__getitem__, now_us=declared.at_us)
        fleet = FleetView(
            pools=self._tiers.filled(settings, pools),
            life={pool: self._tiers.life(settings, pool) for pool in reached},
            weights=route_weights(settings),
            journal=self._journal,
            clock=self._clock,
            policy=settings.routing.policy,
            named=policy_named,
            memory=self._memory,
            affinity=settings.routing.prefix_affinity,
            signals=settings.routing.cascade,
            first_id=self._fleet.fleet.id + 1 if self._fleet is not None else 1,
            version=__version__,
        )
        doors = WorkerDoors(settings, self._kept.shelf, self._gateway, self._clock.wall_us)
        self._gateway.use(
            Services(
                epoch=self._journal.epoch,
                identify=self._keyring.identify,
                route=fleet.route,
                learn=fleet.learn,
                cascade=fleet.escalate if _cascades(settings) else None,
                models=fleet.models,
                purse=self._purse,
                journal=self._journal,
                rate=rate,
                worst_case=worst_case_nusd,
                affordable=output_affordable,
                backends=reached,
                bound={name: card.bound for name, card in cards(settings).items()},
                energy=JoulesPerToken(settings, self._env),
                admit=self._backlog.admit,
                clock=self._clock,
                limits=settings.gateway.limits,
                resilience=settings.resilience,
                unseen=settings.budgets.unseen,
                default_output_tok=settings.routing.default_output_tok,
                bound_tok_per_tok=settings.routing.bound_tok_per_tok,
                gates=self._tiers.gates(settings, fleet, self._gates(settings)),
                stored=doors.gate,
                side_doors={
                    **self._runs.side_doors(settings),
                    **self._batches.use(settings),
                    **doors.side_doors,
                },
                discreet=bool(settings.privacy.rules),
            )
        )
        self._fleet = fleet

    def _gates(self, settings: Settings) -> tuple[Gate, ...]:
        """What a request passes, in this order. What is not declared is not there, and costs nothing."""
        gates: list[Gate] = self._runs.run_gates(
            saving_tiers(settings), bound_tok_per_tok=settings.routing.bound_tok_per_tok
        )
        if settings.privacy.asks_for_a_guard:
            from wattmill.app.gates.privacy import PrivacyGate

            bound = {name: card.bound for name, card in cards(settings).items()}
            gates.append(PrivacyGate(settings.privacy, bound))
        if (runaway := self._runs.runaway_gate(settings)) is not None:
            gates.append(runaway)
        gates += self._kept.gates(settings)
        return tuple(gates)

    # --- the control socket ------------------------------------------------------------------------------

    def _operations(self) -> dict[str, Callable[[], dict[str, Any]]]:
        return {
            "status": self._status,
            "metrics": self._metrics,
            "reload": self._ask_reload,
            "forget": self._forget,
            "drain": self._drain,
        }

    def _status(self) -> dict[str, Any]:
        pid = os.getpid()
        rss = process_rss_bytes(pid)
        fleet = self._fleet.fleet if self._fleet is not None else None
        return {
            "epoch": self._journal.epoch,
            "worker": self._number,
            "pid": pid,
            "listening": self._listening,
            "draining": self._gateway.draining,
            "started_us": self._started_us,
            "in_flight": self._gateway.in_flight,
            "connections": len(self._server.connections),
            "rss_mb": None if rss is None else rss / 1e6,
            "cpu_s": process_cpu_s(pid),
            "nodes": self._purse.nodes(),
            "generation": self._declared.generation,
            "backlog_records": self._backlog.records,
            **self._tiers.status(),
            "fleet": [
                {
                    "pool": pool.name,
                    "healthy": state.healthy,
                    "breaker": state.state,
                    "busy": state.busy,
                    "slots": pool.slots,
                    "prefill_tok_per_s": state.prefill_tok_per_s,
                    "decode_tok_per_s": state.decode_tok_per_s,
                    "last_error": state.last_error,
                }
                for pool in (fleet.pools if fleet is not None else ())
                for state in (self._gateway.state(pool.name),)
            ],
        }

    def _metrics(self) -> dict[str, Any]:
        return {
            "epoch": self._journal.epoch,
            "metrics": self._gateway.snapshot(connections=len(self._server.connections)),
        }

    def _ask_reload(self) -> dict[str, Any]:
        self._wake.set()
        return {"ok": True}

    def _forget(self) -> dict[str, Any]:
        self._kept.forget()
        return {"ok": True}

    def _drain(self) -> dict[str, Any]:
        self._ended.set()
        return {"ok": True}


def _cascades(settings: Settings) -> bool:
    """Return whether any request is routed by `cascade`."""
    orgs = settings.tenants.values()
    named = {settings.routing.policy, *(org.policy for org in orgs)}
    return "cascade" in named | {team.policy for org in orgs for team in org.teams.values()}


def _same_service(old: Declared, new: Declared) -> bool:
    return (
        old.settings == new.settings
        and old.prices == new.prices
        and old.endpoints == new.endpoints
        and old.power == new.power
    )


def _listening_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # several workers, one port
    sock.bind((host, port))
    sock.setblocking(False)
    return sock


def _tls(settings: Settings) -> ssl.SSLContext | None:
    tls = settings.gateway.tls
    if tls.cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert_file, tls.key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _main(home: Home, number: int) -> int:
    return await Worker(home, number, env=os.environ).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="wattmill.app.worker")
    parser.add_argument("--home", required=True)
    parser.add_argument("--worker", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    lifeline.arm()
    from pathlib import Path

    home = Home(Path(args.home))
    try:
        import uvloop
    except ImportError:  # pure asyncio serves as well, at about twice the CPU
        raise SystemExit(asyncio.run(_main(home, args.worker))) from None
    raise SystemExit(uvloop.run(_main(home, args.worker)))


if __name__ == "__main__":
    main()
