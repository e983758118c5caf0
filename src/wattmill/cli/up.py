"""`wattmill up`: run the factory, say where everything is, and keep one live line."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console

from wattmill.app.declared import declaration
from wattmill.app.declared.declaration import EXAMPLE, Loaded
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.tenants import fresh_key
from wattmill.app.home import Home
from wattmill.app.running import home_lock
from wattmill.app.running.admin_token import admin_token
from wattmill.app.running.children import Child
from wattmill.app.running.load import AGENT_LABEL
from wattmill.app.running.start import end_leftovers, port_in_the_way
from wattmill.app.running.supervisor import TICK_S, Factory, wait_until_ready
from wattmill.app.running.worker_control import ask, tell_workers
from wattmill.app.runs.minding import all_runs
from wattmill.app.seeing.auditing import audit_home
from wattmill.cli.application import application
from wattmill.cli.audit import show_report
from wattmill.cli.control_door import DEFAULT_HOME, HomeOption
from wattmill.cli.live_line import LiveLine
from wattmill.cli.welcome import Welcome, show_welcome, summary
from wattmill.ledger.stores.control_records import NoSuch
from wattmill.units import seconds_from, usd_text

up_app = application()

_READY_S = 90.0
_RUN_STILL_S = 5.0  # a run of the workload that spends no more for so long was stopped
EXIT_DECLARATION, EXIT_TAKEN, EXIT_WEIGHTS, EXIT_START, EXIT_STOPPED = 2, 3, 4, 5, 130


@up_app.command()
def up(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Declaration. Default: ./wattmill.toml, else the example."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="60s", help="End by itself after 30s, 5m or 1h, with an audit."),
    ] = None,
    load: Annotated[
        bool, typer.Option("--load/--no-load", help="Drive the declared scripted workload through it.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Gateway processes; overrides the file.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Data port; 0: any free one.")] = None,
    admin_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Admin port; 0: any free one.")
    ] = None,
) -> None:
    """Run the factory: gateway, engines, ledger and board, supervised, until Ctrl-C."""
    console = Console(highlight=False)
    seconds = None if for_ is None else _seconds(for_)
    os.umask(0o077)  # what this process and its children make is for this user alone
    loaded = _declaration(config)
    place = Home(home.absolute())
    try:
        place.create()
    except OSError as error:
        _end(
            EXIT_DECLARATION,
            f"the data folder {place.root} cannot be made: {error.strerror}; --home names another one",
        )
    lock = home_lock.HomeLock(place)
    held_by = lock.take(
        home_lock.Holder(
            pid=os.getpid(), since=time.strftime("%Y-%m-%d %H:%M:%S"), command=" ".join(sys.argv)[:200]
        )
    )
    if held_by is not None:
        _end(
            EXIT_TAKEN,
            f"a factory already runs in {place.root}: pid {held_by.pid}, since {held_by.since}. "
            "`wattmill status` says how it is; another one needs another folder (--home) and other ports.",
        )

    def over(loaded: Loaded) -> Loaded:
        settings = _overridden(loaded.settings, workers, port, admin_port)
        return msgspec.structs.replace(loaded, settings=settings)

    loaded = over(loaded)
    end_leftovers(place)
    in_the_way = port_in_the_way(loaded.settings)
    if in_the_way is not None:
        _end(EXIT_TAKEN, in_the_way)
    _check_weights(loaded.settings)
    _Run(console, place, loaded, config, over=over, seconds=seconds, load=load).run()


class _Run:
    """One life of the command: start, live line, reloads, end."""

    def __init__(
        self,
        console: Console,
        home: Home,
        loaded: Loaded,
        config: Path | None,
        *,
        over: Callable[[Loaded], Loaded],
        seconds: float | None,
        load: bool,
    ) -> None:
        self._console = console
        self._home = home
        self._loaded = loaded
        self._config = config
        self._over = over  # what was said on the command line holds over every file that is read later
        self._seconds = seconds
        self._with_load = load
        self._stop = False
        self._reload = False
        self._load: Child | None = None
        self._load_node: int | None = None
        self._load_until_s = 0.0
        self._runs_at_s = 0.0
        self._runs_told: set[int] = set()
        self._run_used: dict[int, tuple[int, float]] = {}  # spent, and since when
        self._file_mark = self._mark()

    def run(self) -> None:
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_hup)
        began_s = time.monotonic()
        factory = Factory(self._home, self._loaded, env=os.environ)
        line = LiveLine(self._console, self._home)
        factory.start()
        line.say(f"starting {len(factory.children())} processes …")
        ready = wait_until_ready(
            factory,
            timeout_s=_READY_S,
            on_change=lambda: line.say(f"waiting for {', '.join(factory.not_ready()) or 'the last word'}"),
            is_over=lambda: self._stop,
        )
        if self._stop:
            line.say("stopping …")
            factory.stop()
            line.clear()
            _end(EXIT_STOPPED, "stopped before everything was ready; nothing was lost")
        if not ready:
            late, lost = factory.not_ready(), factory.given_up()
            factory.stop()
            for role, why in lost.items():
                print(f"wattmill up: {role}: {why}", file=sys.stderr)
                print(_last_line(self._home, role), file=sys.stderr)
            _end(EXIT_START, f"not ready: {', '.join(late)}. Their logs: {self._home.logs}")
        key = self._console_key(factory)
        line.clear()
        show_welcome(
            self._console,
            Welcome(
                factory=factory,
                key=key,
                admin_token=admin_token(self._home, factory.control),
                started_s=time.monotonic() - began_s,
                example=self._loaded.file == EXAMPLE,
                warnings=[str(p) for p in self._loaded.warnings],
            ),
        )
        if self._with_load:
            self._start_load(factory)
        self._live(factory, line)
        self._finish(factory, line)

    def _live(self, factory: Factory, line: LiveLine) -> None:
        ends_s = None if self._seconds is None else time.monotonic() + self._seconds
        while not self._stop and (ends_s is None or time.monotonic() < ends_s):
            if factory.tick():
                for child in factory.children():
                    if child.pid is None:
                        line.note(f"{child.spec.role} ended ({child.last_exit}); restarting it")
            if self._reload or self._mark() != self._file_mark:
                self._take_over(factory, line)
            self._tend_load(factory, line)
            self._tell_runs(factory, line)
            line.tick()
            time.sleep(TICK_S)

    def _finish(self, factory: Factory, line: LiveLine) -> None:
        line.say("stopping: running answers finish, then everything is booked …")
        if self._load is not None:
            self._load.stop(1.0)
        factory.stop()
        line.clear()
        self._console.print(summary(self._home))
        if self._seconds is None:
            self._console.print("the books are closed; `wattmill audit` proves them at any time")
            return
        report = audit_home(self._home)
        show_report(report)
        raise typer.Exit(0 if report.holds else 1)

    # --- reload ------------------------------------------------------------------------------------------

    def _take_over(self, factory: Factory, line: LiveLine) -> None:
        self._reload = False
        self._file_mark = self._mark()
        loaded = declaration.load(self._config, os.environ)
        if isinstance(loaded, list):
            factory.problem = str(loaded[0])
            line.note("the changed declaration is refused, the old one goes on:")
            for problem in loaded:
                line.note(f"  {problem}")
            return
        later = factory.reload(self._over(loaded))
        line.note(
            "declaration taken over" + (f"; only a restart changes: {', '.join(later)}" if later else "")
        )

    def _mark(self) -> tuple[int, int] | None:
        """Return what changes when the declaration's file does."""
        try:
            status = os.stat(self._config if self._config is not None else declaration.FILE_NAME)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _on_stop(self, _number: int, _frame: object) -> None:
        if self._stop:
            os._exit(130)  # asked twice: the children follow by their lifelines
        self._stop = True

    def _on_hup(self, _number: int, _frame: object) -> None:
        self._reload = True

    # --- keys and load -----------------------------------------------------------------------------------

    def _console_key(self, factory: Factory) -> str | None:
        team = factory.settings.factory.console_team
        if team is None:
            return None
        try:
            return self._known_key(factory, team, "console")
        except NoSuch:
            return None

    def _known_key(self, factory: Factory, team: str, name: str) -> str:
        """Return a new key that every worker knows: who copies it at once is not told that it is unknown."""
        secret = fresh_key(factory.control, team, name)
        tell_workers(self._home, factory.control.generation())
        return secret

    def _start_load(self, factory: Factory) -> None:
        declared = factory.settings.load
        if declared.team is None:
            self._console.print("no load: `[load] team` in the declaration names who pays for it")
            return
        model = declared.model or next(iter(next(iter(factory.places().values())).models))
        pools = [name for name, place in factory.places().items() if model in place.models]
        key = self._known_key(factory, declared.team, "load")
        self._load_node = factory.control.find(f"{declared.team}/load").id
        argv = [
            sys.executable,
            "-m",
            "wattmill.app.running.load",
            "--url",
            f"{factory.gateway_url}/v1",
            "--model",
            model,
        ]
        argv += [
            "--pools",
            ",".join(pools),
            "--seconds",
            str(declared.duration_s),
            "--seed",
            str(declared.seed),
        ]
        argv += ["--rate", str(declared.requests_per_s)]
        self._load = factory.spawn_helper("load", argv, {"WATTMILL_LOAD_KEY": key})
        self._load_until_s = time.monotonic() + declared.duration_s + 2.0

    def _tend_load(self, factory: Factory, line: LiveLine) -> None:
        """End the scripted workload at its time, or as soon as somebody else sends a request."""
        if self._load is None or not line.is_due:
            return
        over = time.monotonic() > self._load_until_s
        if over or self._somebody_came(factory):
            self._load.stop(0.5)
            self._load = None
            line.note("the scripted workload is over" + ("" if over else ": it leaves the floor to you"))

    def _tell_runs(self, factory: Factory, line: LiveLine) -> None:
        """Say when the workload's agent was stopped by the cap of its run."""
        now_s = time.monotonic()
        if self._load is None or now_s < self._runs_at_s:
            return
        self._runs_at_s = now_s + 1.0
        for run in all_runs(factory.control, ended_too=True, limit=3):
            if run.label != AGENT_LABEL or run.node in self._runs_told:
                continue
            cap, used = run.budget.cap_nusd, run.budget.used_nusd
            before, since_s = self._run_used.get(run.node, (-1, now_s))
            if used != before:
                self._run_used[run.node] = (used, since_s := now_s)
            if cap and used > cap // 2 and (now_s - since_s > _RUN_STILL_S or run.state != "open"):
                self._runs_told.add(run.node)
                line.note(
                    f"run {run.node} ({AGENT_LABEL}) was stopped at its cap: {usd_text(used, 9)} of "
                    f"{usd_text(cap, 9)} USD; `wattmill runs show {run.node}`"
                )

    def _somebody_came(self, factory: Factory) -> bool:
        keys = {record.id for record in factory.control.credentials()[0]} - {self._load_node}
        for n in range(factory.settings.gateway.workers):
            status = ask(self._home.worker_socket(n), "status", timeout_s=0.2)
            if status is not None and keys & set(status.get("nodes", ())):
                return True
        return False


def _declaration(config: Path | None) -> Loaded:
    loaded = declaration.load(config, os.environ)
    if isinstance(loaded, list):
        for problem in loaded:
            print(problem, file=sys.stderr)
        _end(EXIT_DECLARATION, "nothing was started: the declaration has faults, see above")
    return loaded


def _overridden(
    settings: Settings, workers: int | None, port: int | None, admin_port: int | None
) -> Settings:
    replace = msgspec.structs.replace
    gateway, admin = settings.gateway, settings.admin
    if workers is not None:
        gateway = replace(gateway, workers=workers)
    if port is not None:
        gateway = replace(gateway, port=port)
    if admin_port is not None:
        admin = replace(admin, port=admin_port)
    return replace(settings, gateway=gateway, admin=admin)


def _check_weights(settings: Settings) -> None:
    from wattmill.app.running.engines import embedded_specs
    from wattmill.models.weights import Missing, weights_path

    for spec in embedded_specs(settings, os.environ).values():
        found = weights_path(spec.weights)
        if isinstance(found, Missing):
            _end(EXIT_WEIGHTS, f"pool {spec.pool!r}: {found.message}")


def _last_line(home: Home, role: str) -> str:
    with (home.logs / f"{role}.log").open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
        lines = log.read().decode(errors="replace").splitlines()
    return lines[-1] if lines else ""


def _seconds(text: str) -> float:
    seconds = seconds_from(text)
    if seconds is None:
        _end(EXIT_DECLARATION, f"--for is {text!r}, must be a number with s, m or h, e.g. 60s")
    return seconds


def _end(code: int, message: str) -> NoReturn:
    print(f"wattmill up: {message}", file=sys.stderr)
    raise typer.Exit(code)
