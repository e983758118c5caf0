"""One source for every figure: the board, `wattmill status` and the live line print these."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from wattmill import __version__
from wattmill.app.home import Home
from wattmill.app.running.state import PlaceState
from wattmill.app.running.worker_control import Answer
from wattmill.app.runs.minding import RunLine
from wattmill.app.seeing import tower
from wattmill.app.seeing.board import (
    Count,
    Figures,
    LimitView,
    LineItem,
    Place,
    Process,
    Row,
    RunView,
    Spender,
)
from wattmill.app.seeing.book_reading import read_books
from wattmill.app.seeing.figure import Figure, figure
from wattmill.app.seeing.health import health
from wattmill.app.seeing.readings import (
    Cell,
    MeterSum,
    Readings,
    RecentRow,
    Times,
    read_control,
    read_free_bytes,
    read_processes,
    read_runs,
    read_supervisor,
    read_tiers,
    read_workers,
)
from wattmill.app.seeing.tier_figures import tier_views
from wattmill.ledger.refusing import amount_text
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import LimitState
from wattmill.ledger.tenancy import name_of, path_of
from wattmill.twin.calibration.error import current_error
from wattmill.units import BYTES_PER_MB, TOK_PER_MTOK, UJ_PER_J, US_PER_S

SPENDERS_MAX = 300
"""Of a larger tree the board shows the largest; `/api/budgets` has all."""


def figures(home: Home, now_us: int, *, control: Control | None = None) -> Figures:
    """Return all figures of the factory in `home`, running or not. Blocks for some milliseconds.

    Cost: roll-ups and bounded queries of the books, and one question per worker.
    """
    return assemble(read(home, now_us, control=control))


def read(home: Home, now_us: int, *, control: Control | None = None) -> Readings:
    """Read everything that the figures need, each part on its own: what fails is missing, not fatal."""
    running, state = read_supervisor(home)
    nodes, budgets = read_control(home, control)
    books, fault = read_books(home, now_us)
    return Readings(
        now_us=now_us,
        running=running,
        state=state,
        workers=read_workers(home, state) if running else [],
        nodes=nodes,
        budgets=budgets,
        books=books,
        processes=read_processes(state) if running else {},
        fault=fault,
        tiers=read_tiers(home, control),
        runs=read_runs(home, control),
        twin_error=current_error(home.root),
        free_bytes=read_free_bytes(home),
    )


def assemble(r: Readings) -> Figures:
    """Return the figures of one set of readings: arithmetic only."""
    floors = tower.floors(r)
    state, spenders = r.state, _spenders(r)
    return Figures(
        at_us=r.now_us,
        name=state.name if state else "wattmill",
        version=__version__,
        running=r.running,
        started_us=state.started_us if state and r.running else None,
        gateway_url=state.gateway_url if state else None,
        admin_url=state.admin_url if state else None,
        health=health(r),
        line=_line(r),
        floors=floors,
        flows=tower.flows(floors, r),
        power=_power(r),
        power_source=state.power_source if state else "",
        money=_money(r),
        books=_books(r),
        places=_places(r),
        spenders=spenders,
        statuses=_statuses(r),
        refusals=_refusals(r),
        recent=tuple(row(recent, r) for recent in (r.books.recent if r.books else [])),
        processes=_processes(r),
        stand_ins=tuple(p.pool for p in state.places if p.stand_in) if state else (),
        limits=tuple(_limit(s.name, state) for s in spenders for state in s.limits),
        runs=tuple(_run(line) for line in r.runs),
        tiers=tier_views(r.tiers, r.books.tiers if r.books else [], _waiting(r)),
        twin=_twin(r.twin_error),
    )


def _twin(error: tuple[float, str] | None) -> Figure:
    """Return how far off the twin is, as its worst calibration says."""
    if error is None:
        note = "the twin was fitted to no place of this factory: wattmill twin calibrate"
        return figure(None, "ratio", rows="/api/twin", note=note)
    value, where = error
    words = {"check": "in its last check", "fit": "where it was fitted; never checked: wattmill twin check"}
    note = f"median error of the twin's figures {words.get(where, where)}; the worst of its calibrations"
    return figure(value, "ratio", rows="/api/twin", note=note)


# --- the number line ---------------------------------------------------------------------------------


def _line(r: Readings) -> tuple[LineItem, ...]:
    power, money, books = _power(r), _money(r), _books(r)
    return (
        LineItem(id="host_w", label="power", figure=power["host"]),
        LineItem(id="useful", label="useful share", figure=power["useful"]),
        LineItem(id="tok_per_s", label="tokens", figure=_tokens_per_s(r)),
        LineItem(id="usd_per_mtok", label="charged", figure=money["charge_per_mtok"]),
        LineItem(id="cost_per_mtok", label="cost", figure=money["cost_per_mtok"]),
        LineItem(id="j_per_tok", label="energy", figure=power["per_token"]),
        LineItem(id="spend", label="spend today", figure=money["charge_today"]),
        LineItem(id="margin", label="margin today", figure=money["margin_today"]),
        LineItem(id="difference", label="ledger difference", figure=books["difference"]),
    )


def _tokens_per_s(r: Readings) -> Figure:
    value = _tokens(r.books.last_10s.cells) / r.books.last_10s.seconds if r.books else None
    note = "input and output tokens of attempts that ended in the last 10 s"
    return figure(value, "tok_per_s", rows="/api/requests", note=note)


def _power(r: Readings) -> dict[str, Figure]:
    state = r.state if r.running else None
    provenance = tower.power_provenance(r)
    note = state.power_source if state else None

    def watts(value: float | None) -> Figure:
        return figure(value, "w", provenance=provenance, rows="/api/rows/energy", note=note)

    meter = r.books.meter_60s if r.books else None
    return {
        "host": watts(state.host_w if state else None),
        "idle": watts(state.idle_w if state else None),
        **{name: watts((state.rest_w or {}).get(name) if state else None) for name in tower.REST},
        "useful": _useful(meter),
        "per_token": _energy_per_token(r),
        "hour": _energy_hour(r),
    }


def _useful(meter: MeterSum | None) -> Figure:
    """The share of the host's joules of the last booked windows that was put onto requests."""
    value = meter.requests_uj / meter.total_uj if meter and meter.total_uj else None
    note = "joules put onto requests, of all joules of the host, in the booked windows of the last 90 s"
    return _metered(value, "ratio", meter, note)


def _energy_per_token(r: Readings) -> Figure:
    meter = r.books.meter_hour if r.books else None
    silent = {p.pool for p in r.state.places if p.stand_in} if r.state else set()
    tokens = _tokens(c for c in r.books.hour if c.pool not in silent) if r.books else 0
    value = meter.total_uj / UJ_PER_J / tokens if meter and tokens else None
    note = (
        "all joules of the host in the last hour, idle included, per input and output token of its own places"
    )
    return _metered(value, "j_per_tok", meter, note)


def _energy_hour(r: Readings) -> Figure:
    meter = r.books.meter_hour if r.books else None
    return _metered(meter.total_uj if meter else None, "uj", meter, "all joules of the host in the last hour")


def _metered(value: float | None, unit: str, meter: MeterSum | None, note: str) -> Figure:
    provenance = tower.as_provenance(meter.provenance if meter else None)
    source = f"; {meter.source}" if meter else ""
    return figure(value, unit, provenance=provenance, rows="/api/rows/energy", note=note + source)


# --- money and books -----------------------------------------------------------------------------------


def _money(r: Readings) -> dict[str, Figure]:
    cells = r.books.today if r.books else None
    charge = sum(c.charge_nusd for c in cells) if cells is not None else None
    cost = sum(c.cost_nusd for c in cells) if cells is not None else None
    tokens = _tokens(cells) if cells is not None else 0
    margin = charge - cost if charge is not None and cost is not None else None

    def per_mtok(nusd: int | None) -> float | None:
        return nusd * TOK_PER_MTOK / tokens if nusd is not None and tokens else None

    rows = "/api/requests"
    return {
        "charge_today": figure(charge, "nusd", rows=rows, note="charged to tenants since midnight UTC"),
        "cost_today": figure(cost, "nusd", rows=rows, note="cost to the factory since midnight UTC"),
        "margin_today": figure(margin, "nusd", rows=rows, note="charge less cost, since midnight UTC"),
        "charge_per_mtok": figure(
            per_mtok(charge), "nusd_per_mtok", rows=rows, note="today's charge per million tokens, in and out"
        ),
        "cost_per_mtok": figure(
            per_mtok(cost), "nusd_per_mtok", rows=rows, note="today's cost per million tokens, in and out"
        ),
        "charge_rate": tower.charge_rate(r),
    }


def _books(r: Readings) -> dict[str, Figure]:
    b = r.books
    worst = max((abs(v) for v in b.difference.values()), default=0) if b else None
    unclear = "what an engine produced but nobody could count"
    return {
        "difference": figure(
            worst, "units", rows="/api/rows/balances",
            note="largest sum over all accounts of any commodity; balanced books show 0",
        ),
        "in_doubt": figure(
            b.in_doubt if b else None, "count", rows="/api/requests?status=in_doubt",
            note="left without an end by a dead worker; charged at their reservation until settled",
        ),
        "unmetered": figure(
            b.unmetered if b else None, "count", rows="/api/requests?status=unmetered", note=unclear
        ),
        "overrun": figure(
            b.overrun_nusd if b else None, "nusd", rows="/api/rows/balances",
            note="produced beyond a reservation: the operator's, never the caller's",
        ),
        "lag": figure(b.lag_s if b else None, "s", note="age of the oldest record that is not booked yet"),
        "requests": figure(
            _sum(b.today, "requests") if b else None, "count", rows="/api/requests", note="since midnight UTC"
        ),
    }  # fmt: skip


# --- places, people, processes --------------------------------------------------------------------------


def _places(r: Readings) -> tuple[Place, ...]:
    fleet = _fleet(r)
    state = {p.pool: p for p in r.state.places} if r.state else {}
    return tuple(
        _place(pool, tone, r, state.get(pool), fleet.get(pool, []))
        for pool, tone in tower.pool_tones(r).items()
    )


def _place(pool: str, tone: str, r: Readings, known: PlaceState | None, lives: list[Answer]) -> Place:
    today = [c for c in (r.books.today if r.books else []) if c.pool == pool]
    recent = [c for c in (r.books.last_10s.cells if r.books else []) if c.pool == pool]
    seconds = r.books.last_10s.seconds if r.books else 10.0
    times = r.books.ttft.get(pool) if r.books else None
    # Roll-ups say 0 while no window is settled, and for places that tell no joules: unknown, not nothing.
    energy = (r.books.energy_today_uj.get(pool) or None) if r.books else None
    tokens = _tokens(today)
    rows = f"/api/requests?pool={pool}"
    watts = known.power_w if known and r.running else None
    joules = energy / UJ_PER_J / tokens if energy is not None and tokens else None
    provenance = tower.power_provenance(r)
    slots = [life["slots"] for life in lives if life.get("slots") is not None]
    return Place(
        pool=pool,
        tone=tone,
        place=known.place if known else pool,
        engine=known.engine if known else "",
        stand_in=bool(known and known.stand_in),
        healthy=all(life.get("healthy") for life in lives) if lives else None,
        busy=figure(sum(life.get("busy") or 0 for life in lives) if lives else None, "count"),
        slots=figure(max(slots) if slots else None, "count", provenance="declared"),
        power=figure(watts, "w", provenance=provenance, rows="/api/rows/energy"),
        tokens_out=figure(_sum(recent, "output_tok") / seconds if r.books else None, "tok_per_s", rows=rows),
        tokens_in=figure(_sum(recent, "prompt_tok") / seconds if r.books else None, "tok_per_s", rows=rows),
        ttft_p50=figure(times.p50_us if times else None, "us", rows=rows, note=_times_note(times)),
        ttft_p95=figure(times.p95_us if times else None, "us", rows=rows, note=_times_note(times)),
        requests=figure(_sum(today, "attempts") if r.books else None, "count", rows=rows, note="today"),
        charge=figure(_sum(today, "charge_nusd") if r.books else None, "nusd", rows=rows, note="today"),
        cost=figure(_sum(today, "cost_nusd") if r.books else None, "nusd", rows=rows, note="today"),
        energy_per_token=figure(
            joules, "j_per_tok", provenance=provenance, rows=rows, note=_joules_note(known)
        ),
        breaker=_breaker(lives),
    )  # fmt: skip


def _breaker(lives: list[Answer]) -> str | None:
    """Return the worst that a worker says of a place's breaker."""
    said = {str(life.get("breaker")) for life in lives}
    return next((state for state in ("open", "resting", "half_open") if state in said), None)


def _times_note(times: Times | None) -> str:
    return f"of the last {times.count} first contents" if times else "no first content yet"


def _joules_note(known: PlaceState | None) -> str:
    if known and known.stand_in:
        return "a provider would not tell its joules: they are in unattributed"
    return "joules above idle that were put onto this place's requests, per input and output token, today"


def _fleet(r: Readings) -> dict[str, list[Answer]]:
    """Return what each worker says of each place."""
    out: dict[str, list[Answer]] = {}
    for worker in r.workers:
        for life in (worker.status or {}).get("fleet", ()):
            out.setdefault(str(life.get("pool")), []).append(life)
    return out


def _limit(name: str, state: LimitState) -> LimitView:
    per = "" if state.period == "life" else f" per {state.period}"
    share = state.used / state.amount if state.amount else None
    return LimitView(
        node=state.node,
        name=name,
        at_most=amount_text(state.unit, state.amount) + per,
        used=amount_text(state.unit, state.used),
        reserved=amount_text(state.unit, state.reserved),
        left=amount_text(state.unit, max(0, state.left)),
        share=figure(share, "ratio", rows=f"/api/requests?node={state.node}"),
        resets_us=state.resets_us,
    )


def _spenders(r: Readings) -> tuple[Spender, ...]:
    budgets = {b.node: b for b in r.budgets}
    tones = tower.team_tones(r)
    today: dict[int, list[Cell]] = {}
    for cell in r.books.today if r.books else []:
        for above in path_of(r.nodes, cell.key) if cell.key in r.nodes else (cell.key,):
            today.setdefault(above, []).append(cell)
    out = []
    for id in _shown(r, {id: _sum(cells, "charge_nusd") for id, cells in today.items()}):
        node, budget, cells = r.nodes[id], budgets.get(id), today.get(id, [])
        used = budget.used_nusd if budget else None
        share = used / node.cap_nusd if used is not None and node.cap_nusd else None
        rows = f"/api/requests?node={id}"
        no_cap = "no cap of its own" if node.cap_nusd is None else None
        out.append(
            Spender(
                id=id,
                parent=node.parent,
                depth=len(path_of(r.nodes, id)) - 1,
                kind=node.kind,
                name=node.name,
                tone=tones.get(id, ""),
                today=figure(_sum(cells, "charge_nusd") if r.books else None, "nusd", rows=rows),
                tokens_today=figure(_tokens(cells) if r.books else None, "tok", rows=rows),
                used=figure(used, "nusd", rows=rows, note="settled against the cap, ever"),
                cap=figure(node.cap_nusd, "nusd", provenance="declared", note=no_cap),
                cap_used=figure(share, "ratio", rows=rows),
                limits=budget.limits if budget else (),
            )
        )
    return tuple(out)


def _run(line: RunLine) -> RunView:
    budget = line.budget
    spent = budget.cap_nusd is not None and budget.used_nusd >= budget.cap_nusd
    share = budget.used_nusd / budget.cap_nusd if budget.cap_nusd else None
    return RunView(
        node=line.node,
        name=line.name,
        label=line.label,
        state="spent" if spent and line.state == "open" else line.state,
        reason=line.reason,
        opened_us=line.opened_us,
        spent=figure(budget.used_nusd, "nusd", note="settled against the run's cap"),
        cap=figure(
            budget.cap_nusd,
            "nusd",
            provenance="declared",
            note="no cap of its own" if budget.cap_nusd is None else None,
        ),
        cap_used=figure(share, "ratio", note="of the run's own cap"),
    )


def _shown(r: Readings, today: dict[int, int]) -> list[int]:
    """Return at most `SPENDERS_MAX` nodes, parents first: those that spent most today."""
    ranks = {"org": 0, "team": 1, "key": 2}
    by_rank = sorted(r.nodes.values(), key=lambda n: (ranks.get(n.kind, 3), -today.get(n.id, 0), n.id))
    return sorted((n.id for n in by_rank[:SPENDERS_MAX]), key=lambda id: path_of(r.nodes, id))


def _statuses(r: Readings) -> tuple[Count, ...]:
    cells = r.books.today if r.books else None

    def count(id: str, label: str, of: Callable[[Cell], int]) -> Count:
        value = sum(map(of, cells)) if cells is not None else None
        return Count(id=id, label=label, figure=figure(value, "count", rows=f"/api/requests?status={id}"))

    refused = sum(r.books.refusals_today.values()) if r.books else None
    rows = "/api/requests?status=refused"
    return (
        count("finished", "finished", lambda c: c.attempts - c.aborted - c.errors),
        count("aborted", "client left", lambda c: c.aborted),
        count("failed", "failed, cut, in doubt", lambda c: c.errors),
        count("failover", "sent on", lambda c: c.attempts - c.requests),
        Count(id="refused", label="refused", figure=figure(refused, "count", rows=rows)),
    )


def _refusals(r: Readings) -> tuple[Count, ...]:
    found = r.books.refusals_today if r.books else {}
    rows = "/api/requests?status=refused"
    return tuple(
        Count(id=code, label=code, figure=figure(n, "count", rows=rows))
        for code, n in sorted(found.items(), key=lambda kv: (-kv[1], kv[0]))
    )


def row(recent: RecentRow, r: Readings) -> Row:
    """Return one attempt as people read it."""
    tones = tower.pool_tones(r)
    here = f"/api/requests/{recent.id}"
    counted = "estimated" if recent.usage_source == "estimated" else "measured"
    return Row(
        id=recent.id,
        attempt=recent.attempt,
        at_us=recent.at_us,
        status=recent.status,
        pool=recent.pool,
        tone=tones.get(recent.pool, "other"),
        model=recent.model,
        key=name_of(r.nodes, recent.key) if recent.key in r.nodes else f"node {recent.key}",
        tokens_in=figure(recent.prompt_tok, "tok", provenance=tower.as_provenance(counted), rows=here),
        tokens_out=figure(recent.output_tok, "tok", provenance=tower.as_provenance(counted), rows=here),
        charge=figure(recent.charge_nusd, "nusd", rows=here),
        energy=figure(recent.energy_uj, "uj", provenance=tower.power_provenance(r), rows=here),
        ttft=figure(recent.ttft_us, "us", rows=here),
        duration=figure(recent.duration_us, "us", rows=here),
        reason=recent.reason,
        error=recent.error,
    )


def _waiting(r: Readings) -> dict[str, int] | None:
    """Return how many wait at the gates now, by tier."""
    said = [w.status["waiting"] for w in r.workers if w.status is not None and "waiting" in w.status]
    return {tier: sum(one.get(tier, 0) for one in said) for one in said for tier in one} if said else None


def _processes(r: Readings) -> tuple[Process, ...]:
    said = {f"gateway-{w.number}": w.status or {} for w in r.workers}
    out = []
    for p in r.state.processes if r.state and r.running else []:
        use = r.processes.get(p.pid) if p.pid else None
        age_s = (r.now_us - p.since_us) / US_PER_S
        cpu = use.cpu_s / age_s if use and age_s > 0 else None
        rss = use.rss_bytes / BYTES_PER_MB if use and use.rss_bytes is not None else None
        out.append(
            Process(
                role=p.role,
                state=p.state,
                pid=p.pid,
                since_us=p.since_us,
                restarts=p.restarts,
                last_exit=p.last_exit,
                in_flight=figure(said.get(p.role, {}).get("in_flight"), "count"),
                cpu=figure(cpu, "ratio", note="of one core, since it started"),
                rss=figure(rss, "mb"),
            )
        )
    return tuple(out)


def _tokens(cells: Iterable[Cell]) -> int:
    return sum(c.prompt_tok + c.output_tok for c in cells)


def _sum(cells: Iterable[Cell], field: str) -> int:
    return sum(getattr(c, field) for c in cells)
