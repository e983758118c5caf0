"""The factory alive: processes started in order, watched, restarted, and ended in order.

Everything here runs on the main thread of `wattmill up` (a child's parent-death signal follows the thread
that started it), except the sampler, which has a thread and a journal of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from wattmill.app.declared.declaration import Loaded, restored, stored
from wattmill.app.declared.electricity_settings import Now, all_now, now_of
from wattmill.app.declared.plan import EMBEDDED_ADAPTER, Place, places
from wattmill.app.declared.pool_settings import HttpPool
from wattmill.app.declared.price_plan import price_specs, publish
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tenants import apply_tenants
from wattmill.app.home import Home
from wattmill.app.running import lifeline
from wattmill.app.running.children import Child, ChildSpec
from wattmill.app.running.clock import LiveClock
from wattmill.app.running.engine_endpoints import EngineEndpoint, new_key, write_endpoints
from wattmill.app.running.engines import embedded_specs
from wattmill.app.running.flexer import Flexer
from wattmill.app.running.meters import open_meters
from wattmill.app.running.sampler import EngineTarget, Sampler
from wattmill.app.running.state import FactoryState, PlaceState, write_state
from wattmill.app.running.who_listens import free_port
from wattmill.app.running.worker_control import ask
from wattmill.ledger.journal import Journal
from wattmill.ledger.stores.control import Control
from wattmill.models.engines.embedded import EXIT_CODES, READY_PATH, EmbeddedSpec, command
from wattmill.models.weights import Missing, weights_path
from wattmill.power.spec import HostPower
from wattmill.units import UG_PER_G

TICK_S = 0.1
_STATE_S = 1.0
_COUNT_SETTLES_S = 1.2  # the books take an engine's last reading over about a second after its instant


class Factory:
    """All processes of one running factory. `start`, then `tick` each 0.1 s, then `stop`."""

    def __init__(self, home: Home, loaded: Loaded, *, env: Mapping[str, str]) -> None:
        self.home = home
        self.settings = _with_ports(loaded.settings)
        self.problem: str | None = None
        self._env = env
        self._clock = LiveClock()
        self._control = Control(home.control_db)
        store = self.settings.budgets.store
        self._control.share(None if store == "sqlite" else store)
        self._power: dict[str, Now] = {}
        self._config_version = self._accept(self.settings)
        self._child_end, self._keep_end = lifeline.make()
        self._started_us = self._clock.wall_us()
        self._endpoints: dict[str, EngineEndpoint] = {}
        self._specs: dict[str, EmbeddedSpec] = {}
        self._engines: dict[str, Child] = {}
        self._services: list[Child] = []
        self._sampler: Sampler | None = None
        self._flexer: Flexer | None = None
        self._meter_journal: Journal | None = None
        self._targets: list[EngineTarget] = []
        self._stated_s = 0.0

    # --- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; readiness comes with `tick`."""
        self._place_engines()
        settings = self.settings
        python = [sys.executable, "-m"]
        home = ["--home", str(self.home.root)]
        self._services = [
            self._child("ledger", [*python, "wattmill.app.ledger_process", *home]),
            *(
                self._child(
                    f"gateway-{n}",
                    [*python, "wattmill.app.worker", *home, "--worker", str(n)],
                    ready=_answers_control(self.home.worker_socket(n)),
                )
                for n in range(settings.gateway.workers)
            ),
            self._child(
                "admin",
                [*python, "wattmill.app.admin_process", *home],
                ready=_answers_http(settings.admin.host, settings.admin.port, "/healthz"),
            ),
        ]
        for child in self._services:
            child.start(now_s=self._clock.now(), wall_us=self._clock.wall_us())
        self._meter_journal = Journal(self.home.journal, kind="meter", worker=0)
        self._sampler = Sampler(
            host=HostPower(
                idle_w=settings.host.idle_w,
                max_w=settings.host.max_w,
                alpha=settings.host.alpha,
                cores=os.cpu_count() or 1,
            ),
            journal=self._meter_journal,
            clock=self._clock,
            targets=lambda: self._targets,
            meters=open_meters(settings, self._env, self._clock),
            carbon=self._carbon,
            services=self._service_pids,
            ended=lambda: {pid: s for child in self.children() for pid, s in dict(child.ended).items()},
        )
        self._sampler.start()
        self._flexer = Flexer(
            self.home,
            clock=self._clock,
            power=lambda: None if self._sampler is None else self._sampler.power,
            engines=lambda: [target.pid for target in self._targets if target.pid is not None],
            settings=settings,
        )
        self._write_state()

    def tick(self) -> bool:
        """Tend all children once; returns True if one of them changed its state."""
        now_s, wall_us = self._clock.now(), self._clock.wall_us()
        changed = [child.tend(now_s=now_s, wall_us=wall_us) for child in self.children()]
        if any(changed):
            self._targets = self._engine_targets()
        if any(changed) or now_s - self._stated_s >= _STATE_S:
            if self.settings.electricity and all_now(self.settings.electricity, wall_us) != self._power:
                self._publish(self.settings)  # workers read prices again by themselves
            self._write_state()
        if self._flexer is not None:
            self._flexer.tick()
        return any(changed)

    def children(self) -> list[Child]:
        return [*self._engines.values(), *self._services]

    @property
    def is_ready(self) -> bool:
        return all(child.is_ready for child in self.children())

    def given_up(self) -> dict[str, str]:
        """Return why, by role, of processes that starting again would not help."""
        return {c.spec.role: c.given_up for c in self.children() if c.given_up is not None}

    def not_ready(self) -> list[str]:
        return [child.spec.role for child in self.children() if not child.is_ready]

    def stop(self) -> None:
        """End in order: no new work, running answers finish, last readings, everything booked."""
        settled_s = self._clock.now()
        if self._flexer is not None:
            self._flexer.close()  # engines run freely again, and nobody is held back at the end
        gateways = [c for c in self._services if c.spec.role.startswith("gateway")]
        for child in gateways:
            child.signal(signal.SIGTERM)
        for child in gateways:
            child.stop(self.settings.gateway.drain_s + 5.0)
        if self._sampler is not None and self._meter_journal is not None:
            self._sampler.finish()
            self._meter_journal.close()
            settled_s = self._clock.now() + _COUNT_SETTLES_S
        for child in self._engines.values():
            child.stop(2.0)
        time.sleep(max(0.0, settled_s - self._clock.now()))
        for child in self._services:
            child.stop(30.0)
        self._write_state()
        self._control.close()
        os.close(self._keep_end)
        os.close(self._child_end)

    # --- reload ------------------------------------------------------------------------------------------

    def reload(self, loaded: Loaded) -> list[str]:
        """Take a new declaration over without dropping a stream; returns what only a restart can change."""
        new = loaded.settings
        kept = msgspec.structs.replace(
            new,
            gateway=msgspec.structs.replace(
                new.gateway,
                host=self.settings.gateway.host,
                port=self.settings.gateway.port,
                workers=self.settings.gateway.workers,
                tls=self.settings.gateway.tls,
            ),
            admin=self.settings.admin,
            host=self.settings.host,
            meters=self.settings.meters,
            flex=self.settings.flex,
            journal=self.settings.journal,
            budgets=msgspec.structs.replace(new.budgets, store=self.settings.budgets.store),
        )
        later = [
            name
            for name, asked, has in (
                ("[gateway] host", new.gateway.host, self.settings.gateway.host),
                ("[gateway] port", new.gateway.port or kept.gateway.port, kept.gateway.port),
                ("[gateway] workers", new.gateway.workers, kept.gateway.workers),
                ("[gateway.tls]", new.gateway.tls, kept.gateway.tls),
                ("[admin] port", new.admin.port or kept.admin.port, kept.admin.port),
                ("[host]", new.host, kept.host),
                ("[meters]", new.meters, kept.meters),
                ("[flex]", new.flex, kept.flex),
                ("[journal]", new.journal, kept.journal),
                ("[budgets] store", new.budgets.store, kept.budgets.store),
            )
            if asked != has
        ]
        self._config_version = self._accept(kept)
        self.settings = kept
        if self._flexer is not None:
            self._flexer.use(kept)
        self.problem = None
        self._place_engines()
        for n in range(kept.gateway.workers):
            ask(self.home.worker_socket(n), "reload")
        self._write_state()
        return later

    def _accept(self, settings: Settings) -> int:
        """Write a declaration into the control database, where all processes read it."""
        text = stored(settings)
        before = self._control.config()
        apply_tenants(self._control, settings, _known(before))
        self._publish(settings)
        return self._control.put_config(text, self._clock.wall_us())

    def _publish(self, settings: Settings) -> None:
        """Publish what tokens cost in this hour; what is published already stays as it is."""
        now_us = self._clock.wall_us()
        publish(self._control, price_specs(settings, self._env, now_us=now_us), now_us=now_us)
        self._power = all_now(settings.electricity, now_us)

    # --- engines -----------------------------------------------------------------------------------------

    def _place_engines(self) -> None:
        """Start, restart or end embedded engines until they are those that the declaration names."""
        wanted = embedded_specs(self.settings, self._env)
        for pool in [p for p in self._engines if wanted.get(p) != self._specs.get(p)]:
            self._engines.pop(pool).stop(2.0)
            self._specs.pop(pool)
            self._endpoints.pop(pool)
        for pool, spec in wanted.items():
            if pool in self._engines:
                continue
            endpoint = EngineEndpoint(port=free_port(), key=new_key())
            model = weights_path(spec.weights)
            if isinstance(model, Missing):
                raise FileNotFoundError(f"pool {pool!r}: {model.message}")
            argv, env = command(spec, endpoint.port, model=model, key=endpoint.key)
            child = self._child(
                f"engine-{pool}",
                argv,
                env=env,
                ready=_answers_http(endpoint.host, endpoint.port, READY_PATH),
                final_exits={code: text for code, (again, text) in EXIT_CODES.items() if not again},
            )
            child.start(now_s=self._clock.now(), wall_us=self._clock.wall_us())
            self._engines[pool], self._specs[pool], self._endpoints[pool] = child, spec, endpoint
        write_endpoints(self.home, self._endpoints)
        self._targets = self._engine_targets()

    def _engine_targets(self) -> list[EngineTarget]:
        stands_in = {name for name, place in self.places().items() if place.stand_in}
        return [
            EngineTarget(
                pool=pool,
                adapter=EMBEDDED_ADAPTER,
                root_url=endpoint.root_url,
                headers=endpoint.headers,
                pid=self._engines[pool].pid,
                instance=f"{self._engines[pool].pid}-{self._engines[pool].state().since_us}",
                since_us=self._engines[pool].state().since_us,
                joules_known=pool not in stands_in,
            )
            for pool, endpoint in self._endpoints.items()
            if self._engines[pool].pid is not None
        ]

    def _carbon(self, at_us: int) -> tuple[int, str] | None:
        """Return micrograms of CO2e per kilowatt-hour that this machine draws, and who says so."""
        named = self.settings.host.electricity
        if named is None:
            return None
        electricity = self.settings.electricity[named]
        grams = now_of(electricity, at_us).g_per_kwh
        return None if grams is None else (round(grams * UG_PER_G), f"declared: {electricity.source}")

    def _service_pids(self) -> list[int]:
        """This process and its children that are no engines; called from the sampler's thread."""
        pids = [child.pid for child in self._services]
        return [os.getpid(), *(pid for pid in pids if pid is not None)]

    def places(self) -> dict[str, Place]:
        return places(self.settings, self._env)

    def endpoint(self, pool: str) -> EngineEndpoint | None:
        return self._endpoints.get(pool)

    # --- state -------------------------------------------------------------------------------------------

    @property
    def gateway_url(self) -> str:
        gateway = self.settings.gateway
        scheme = "https" if gateway.tls.cert_file else "http"
        return f"{scheme}://{_reachable(gateway.host)}:{gateway.port}"

    @property
    def admin_url(self) -> str:
        return f"http://{_reachable(self.settings.admin.host)}:{self.settings.admin.port}"

    def _write_state(self) -> None:
        self._stated_s = self._clock.now()
        power = self._sampler.power if self._sampler is not None else None
        watts = power.by_pool_w if power is not None else {}
        with contextlib.suppress(OSError):  # a full disk must not end the supervisor
            write_state(
                self.home,
                FactoryState(
                    name=self.settings.factory.name,
                    supervisor_pid=os.getpid(),
                    started_us=self._started_us,
                    at_us=self._clock.wall_us(),
                    gateway_url=self.gateway_url,
                    admin_url=self.admin_url,
                    workers=self.settings.gateway.workers,
                    processes=[child.state() for child in self.children()],
                    places=[
                        PlaceState(
                            pool=name,
                            place=place.declared.place,
                            engine=_engine_words(place),
                            stand_in=place.stand_in,
                            power_w=watts.get(name),
                            power_provenance=power.provenance
                            if power is not None and name in watts
                            else "unknown",
                        )
                        for name, place in self.places().items()
                    ],
                    host_w=power.host_w if power is not None else None,
                    idle_w=power.idle_w if power is not None else None,
                    rest_w=power.rest_w if power is not None else None,
                    most_w=self.settings.host.max_w,
                    power_provenance=power.provenance if power is not None else "unknown",
                    power_source=power.source if power is not None else "",
                    problem=self.problem,
                    config_version=self._config_version,
                ),
            )

    def _child(
        self,
        role: str,
        argv: list[str],
        *,
        env: Mapping[str, str] | None = None,
        ready: Callable[[], bool] | None = None,
        final_exits: Mapping[int, str] | None = None,
    ) -> Child:
        spec = ChildSpec(
            role=role,
            argv=argv,
            env=env or {},
            ready=ready,
            final_exits=final_exits or {},
            without=frozenset() if role.startswith("gateway") else _key_variables(self.settings),
        )
        return Child(spec, logs=self.home.logs, lifeline_fd=self._child_end)

    def spawn_helper(self, role: str, argv: list[str], env: Mapping[str, str]) -> Child:
        """Start a process beside the factory's own (the scripted workload); the caller tends and stops it."""
        child = self._child(role, argv, env=env)
        child.start(now_s=self._clock.now(), wall_us=self._clock.wall_us())
        return child

    @property
    def control(self) -> Control:
        return self._control


def _key_variables(settings: Settings) -> frozenset[str]:
    """Return the variables that hold providers' keys: the gateway alone speaks to providers."""
    pools = settings.pools.values()
    return frozenset(p.api_key_env for p in pools if isinstance(p, HttpPool) and p.api_key_env is not None)


def _known(config: tuple[int, str] | None) -> Settings | None:
    """Return the declaration of the last life; None if there was none, or none that this release reads."""
    if config is None:
        return None
    try:
        return restored(config[1])
    except msgspec.ValidationError:
        return None


def _with_ports(settings: Settings) -> Settings:
    """Let the kernel choose where the declaration says 0."""
    replace = msgspec.structs.replace
    gateway, admin = settings.gateway, settings.admin
    if gateway.port == 0:
        gateway = replace(gateway, port=free_port(gateway.host))
    if admin.port == 0:
        admin = replace(admin, port=free_port(admin.host))
    return replace(settings, gateway=gateway, admin=admin)


def _reachable(host: str) -> str:
    if host in {"0.0.0.0", "::"}:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _engine_words(place: Place) -> str:
    if place.weights is not None:
        return f"llama.cpp, {Path(place.weights).stem if '/' in place.weights else place.weights}"
    return f"{getattr(place.declared, 'adapter', 'openai')} at {getattr(place.declared, 'base_url', '')}"


def _answers_http(host: str, port: int, path: str) -> Callable[[], bool]:
    def probe() -> bool:
        connection = http.client.HTTPConnection(_reachable(host).strip("[]"), port, timeout=0.3)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return probe


def _answers_control(socket_path: Path) -> Callable[[], bool]:
    def probe() -> bool:
        answer = ask(socket_path, "status", timeout_s=0.3)
        return answer is not None and bool(answer.get("listening"))

    return probe


def wait_until_ready(
    factory: Factory,
    *,
    timeout_s: float,
    on_change: Callable[[], None],
    is_over: Callable[[], bool] = lambda: False,
) -> bool:
    """Tend the factory until all of it is ready; False at the time-out, when a process cannot be had, or
    when `is_over` says that nobody waits any more."""
    ends_s = time.monotonic() + timeout_s
    while not factory.is_ready:
        if is_over() or time.monotonic() > ends_s or factory.given_up():
            return False
        if factory.tick():
            on_change()
        time.sleep(TICK_S / 2)
    return True
