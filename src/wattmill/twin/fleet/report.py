"""What a simulated run cost, kept and emitted: read from its books, as the live figures are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from wattmill.ledger.stores.sqlite_read import Books
from wattmill.ledger.stores.sqlite_schema import STATUSES
from wattmill.ledger.stores.sqlite_tiers import tier_sums
from wattmill.twin.engine.spec import CERTAIN
from wattmill.twin.fleet.pool import RunningPool
from wattmill.twin.fleet.spec import Counts
from wattmill.twin.fleet.timeline import Timeline
from wattmill.units import B_PER_GB, J_PER_KWH, NUSD_PER_USD, PS_PER_S, UJ_PER_J, US_PER_S

_FEWEST_TOK = 2  # a pace needs a token after the first


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of finished answers; `n` of them could be judged."""

    n: int
    p50: float
    p95: float
    p99: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One pool, tier or tenant. Money in dollars, of attempts that failed too."""

    name: str
    requests: int  # first attempts
    attempts: int
    failed: int  # attempts that failed, were cut or aborted
    refused: int | None  # None: a refusal has no place
    input_tok: int
    cached_tok: int  # of these
    output_tok: int
    output_tok_per_s: float
    ttft_s: Spread | None
    tpot_s: Spread | None  # per token after the first
    charge_usd: float
    cost_usd: float
    margin_usd: float


class Drafts(msgspec.Struct, frozen=True, kw_only=True):
    """Speculation at a pool: what a step gives one request by the closed law, and what was drawn."""

    drafted: int
    acceptance: float
    law_tok_per_step: float
    drawn_tok_per_step: float | None  # None: nothing was drawn
    draws: int  # steps of one request each


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """What went from a pool's prefill replicas to its decode replicas."""

    prefill_replicas: int
    hand_overs: int
    sent_gb: float
    mean_wait_s: float | None  # for the link's turn; None: nothing was handed over
    link_busy: float | None  # mean share of the simulated time in which a link carried something


class PoolRow(Row, frozen=True, kw_only=True):
    """A pool, with what its machines did."""

    provenance: str  # of its law
    source: str
    twin_error: float | None  # median relative error of the law where it was checked; None: not known
    replicas: tuple[int, int]  # fewest and most that served
    occupancy: float | None  # mean share of its machines' paid time in which steps ran
    hours_usd: float | None  # what its machines and their energy cost; None: bought, or not declared
    idle_usd: float | None  # of that, what its tokens were not charged with
    energy_j: float | None  # None: nobody declared power
    idle_j: float | None  # of that, drawn while nothing ran
    j_per_output_tok: float | None
    carbon_g: float | None  # None: the grid was not declared
    cold_starts: int
    failures: int
    void_tok: int | None = None  # given to readers of answers that broke off; None: not counted
    void_j: float | None = None  # joules of what broke off; None: its engine's law says none
    handed: Handed | None = None  # None: each replica does both
    speculation: Drafts | None = None  # None: none was declared


class TierRow(Row, frozen=True, kw_only=True):
    """A tier, with how its promise was kept."""

    promise: str
    offered: int  # requests that could be judged, refused ones too
    kept: int
    kept_share: float | None
    queued: int
    mean_queue_s: float | None


class Refusals(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    requests: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Everything in it follows from the declaration, the demand and the seed."""

    factory: str
    demand: str
    seed: int
    policy: str
    simulated_s: float
    asked: int  # requests, those that came back included
    came_back: int
    total: Row
    pools: tuple[PoolRow, ...]
    tiers: tuple[TierRow, ...]
    tenants: tuple[Row, ...]
    refusals: tuple[Refusals, ...]
    energy_j: float | None
    energy_provenance: str
    law: str  # does every law of the books hold?
    holds: bool
    provenance: dict[str, str]  # of each group of figures


PROVENANCE = {
    "times": "modelled: step laws of the pools, each with its own provenance and error",
    "tokens": "simulated engines' counts; lengths are the demand's",
    "money": "rated by the declared price books on these tokens",
    "hours": "declared dollars of an hour on modelled hours",
    "joules": "modelled from declared power",
    "grams": "modelled joules at the declared carbon of the place",
}


def report(
    books: Books,
    pools: Sequence[RunningPool],
    *,
    factory: str,
    demand: str,
    seed: int,
    policy: str,
    simulated_s: float,
    asked: int,
    came_back: int,
    teams: Mapping[int, str],
    promises: Mapping[str, str],
    timeline: Timeline | None,
    checks: Iterable[tuple[str, bool]],
) -> Report:
    """Return the report of a run whose books are closed.

    Args:
        teams: key node -> `ORG/TEAM`.
        promises: tier -> its promise in words.
        checks: laws of the audit with whether each holds.
    """
    times = _Times(books.db)
    overview = books.overview()
    tiers = {one.tier: one for one in tier_sums(books.db, 0)}
    refused = _refused_by_key(books.db)
    sums = _sums(books.db)
    broken = [name for name, holds in checks if not holds]

    def row(name: str, where: str, refused: int | None) -> dict[str, object]:
        return _row(name, sums, times, where, refused, simulated_s)

    def pool_row(pool: RunningPool) -> PoolRow:
        hours, drawn, power, counts = pool.hours_nusd, pool.drawn, pool.spec.power, pool.counts
        joules = None if power is None else (drawn.idle_uj + drawn.dynamic_uj) / UJ_PER_J
        base = row(pool.name, f"pool {pool.name}", None)
        output = base["output_tok"]
        assert isinstance(output, int)
        idle = books.balances().get(("nusd", f"idle:{pool.name}"), 0)
        busy_ps, paid_ps = pool.busy_ps, pool.paid_ps
        grams = None
        if joules is not None and power is not None and power.g_per_kwh is not None:
            grams = joules / J_PER_KWH * power.g_per_kwh
        return msgspec.convert(
            base
            | {
                "provenance": pool.spec.origin.provenance,
                "source": pool.spec.origin.source,
                "twin_error": pool.spec.origin.error,
                "replicas": _replicas(timeline, pool),
                "occupancy": busy_ps / paid_ps if pool.spec.owned and paid_ps else None,
                "hours_usd": None if hours is None else hours / NUSD_PER_USD,
                "idle_usd": None if hours is None else idle / NUSD_PER_USD,
                "energy_j": joules,
                "idle_j": None if joules is None else drawn.idle_uj / UJ_PER_J,
                "j_per_output_tok": None if joules is None or not output else joules / output,
                "carbon_g": grams,
                "cold_starts": pool.cold_starts,
                "failures": pool.failures,
                "void_tok": None if counts is None else counts.void_tok,
                "void_j": None
                if counts is None or power is None or not power.by_batch
                else counts.void_uj / UJ_PER_J,
                "handed": _handed(pool, simulated_s),
                "speculation": _drafts(pool),
            },
            PoolRow,
        )

    def tier_row(name: str) -> TierRow:
        one = tiers[name]
        return msgspec.convert(
            row(name, f"tier {name}", one.refused)
            | {
                "promise": promises.get(name, ""),
                "offered": one.offered,
                "kept": one.kept,
                "kept_share": one.kept_share,
                "queued": one.queued_n,
                "mean_queue_s": one.queued_us / US_PER_S / one.queued_n if one.queued_n else None,
            },
            TierRow,
        )

    by_team: dict[str, list[int]] = {}
    for key, team in teams.items():
        by_team.setdefault(team, []).append(key)
    tenants = []
    for team, keys in sorted(by_team.items()):
        where = "team " + ",".join(map(str, sorted(keys)))
        count = sum(refused.get(key, 0) for key in keys)
        tenants.append(msgspec.convert(row(team, where, count), Row))
    energy = overview.energy
    return Report(
        factory=factory,
        demand=demand,
        seed=seed,
        policy=policy,
        simulated_s=simulated_s,
        asked=asked,
        came_back=came_back,
        total=msgspec.convert(row("all", "all", sum(overview.refused.values())), Row),
        pools=tuple(pool_row(pool) for pool in pools),
        tiers=tuple(tier_row(name) for name in promises if name in tiers),
        tenants=tuple(tenants),
        refusals=tuple(
            Refusals(code=code, requests=count) for code, count in sorted(overview.refused.items())
        ),
        energy_j=energy.total_uj / UJ_PER_J if energy.windows else None,
        energy_provenance=energy.provenance,
        law="every law of the books holds" if not broken else "broken: " + "; ".join(broken),
        holds=not broken,
        provenance=PROVENANCE,
    )


def _drafts(pool: RunningPool) -> dict[str, object] | None:
    speculation = pool.spec.speculation
    if speculation is None:
        return None
    counts = pool.counts or Counts()
    draws, tok = counts.draws, counts.drawn_tok
    return {
        "drafted": speculation.drafted,
        "acceptance": speculation.accept / CERTAIN,
        "law_tok_per_step": speculation.tokens_per_step,
        "drawn_tok_per_step": tok / draws if draws else None,
        "draws": draws,
    }


def _handed(pool: RunningPool, simulated_s: float) -> dict[str, object] | None:
    split, counts = pool.spec.disaggregation, pool.counts
    if split is None or counts is None:
        return None
    link_s = simulated_s if split.shared_link else pool.prefill_ps / PS_PER_S
    return {
        "prefill_replicas": split.prefill,
        "hand_overs": counts.handed,
        "sent_gb": counts.handed_tok * split.kv_bytes_per_tok / B_PER_GB,
        "mean_wait_s": counts.link_wait_ps / PS_PER_S / counts.handed if counts.handed else None,
        "link_busy": counts.link_busy_ps / PS_PER_S / link_s if link_s else None,
    }


class _Times:
    """Times of finished answers by what they belong to, from the rows of the books."""

    def __init__(self, db: sqlite3.Connection) -> None:
        rows = db.execute(
            "SELECT p.text, ifnull(t.text, ''), a.key, a.ttft_us, a.duration_us, a.output_tok "
            "FROM attempt a JOIN shape s ON s.id = a.shape JOIN name p ON p.id = s.pool "
            "LEFT JOIN attempt_tier x ON x.attempt = a.id LEFT JOIN name t ON t.id = x.tier "
            "WHERE a.status = ? AND a.ttft_us IS NOT NULL",
            (STATUSES.index("finished"),),
        ).fetchall()
        self._pools = np.array([row[0] for row in rows])
        self._tiers = np.array([row[1] for row in rows])
        figures = np.array([row[2:] for row in rows], dtype=np.float64).reshape(-1, 4)
        self._keys = figures[:, 0]
        self._ttft_s = figures[:, 1] / US_PER_S
        output = figures[:, 3]
        self._paced = output >= _FEWEST_TOK
        self._tpot_s = (figures[:, 2] - figures[:, 1]) / US_PER_S / np.maximum(output - 1, 1)

    def of(self, where: str) -> tuple[Spread | None, Spread | None]:
        """Return spreads of the time to the first token and per token."""
        kind, _, name = where.partition(" ")
        if kind == "pool":
            chosen = self._pools == name
        elif kind == "tier":
            chosen = self._tiers == name
        elif kind == "team":
            chosen = np.isin(self._keys, [float(key) for key in name.split(",")])
        else:
            chosen = np.ones(len(self._keys), dtype=bool)
        return _spread(self._ttft_s[chosen]), _spread(self._tpot_s[chosen & self._paced])


def _spread(values: np.ndarray) -> Spread | None:
    if not len(values):
        return None
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return Spread(n=len(values), p50=float(p50), p95=float(p95), p99=float(p99))


_COLUMNS = (
    "sum(a.number = 0), count(*), sum(a.status <> 0), sum(a.prefill_tok + a.cached_tok), sum(a.cached_tok), "
    "sum(a.output_tok), sum(a.charge_nusd), sum(a.cost_nusd)"
)
_JOINS = (
    "FROM attempt a JOIN shape s ON s.id = a.shape JOIN name p ON p.id = s.pool "
    "LEFT JOIN attempt_tier x ON x.attempt = a.id LEFT JOIN name t ON t.id = x.tier "
)


def _sums(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    """Return (pool, tier, key, sums ...) of all attempts."""
    return db.execute(
        f"SELECT p.text, ifnull(t.text, ''), a.key, {_COLUMNS} {_JOINS} GROUP BY 1, 2, 3"
    ).fetchall()


def _row(
    name: str,
    sums: Sequence[tuple[object, ...]],
    times: _Times,
    where: str,
    refused: int | None,
    simulated_s: float,
) -> dict[str, object]:
    kind, _, what = where.partition(" ")
    at = {"pool": 0, "tier": 1, "team": 2}.get(kind)
    names = set(what.split(",")) if kind == "team" else {what}
    chosen = [one for one in sums if at is None or str(one[at]) in names]
    total = [sum(int(one[n]) for one in chosen) for n in range(3, 11)]  # type: ignore[call-overload]
    ttft, tpot = times.of(where)
    charge, cost = total[6] / NUSD_PER_USD, total[7] / NUSD_PER_USD
    return {
        "name": name,
        "requests": total[0],
        "attempts": total[1],
        "failed": total[2],
        "refused": refused,
        "input_tok": total[3],
        "cached_tok": total[4],
        "output_tok": total[5],
        "output_tok_per_s": total[5] / simulated_s if simulated_s else 0.0,
        "ttft_s": ttft,
        "tpot_s": tpot,
        "charge_usd": charge,
        "cost_usd": cost,
        "margin_usd": (total[6] - total[7]) / NUSD_PER_USD,
    }


def _refused_by_key(db: sqlite3.Connection) -> dict[int, int]:
    return dict(db.execute("SELECT key, sum(count) FROM rollup_refused GROUP BY key"))


def _replicas(timeline: Timeline | None, pool: RunningPool) -> tuple[int, int]:
    seen = [] if timeline is None else [m.ready for m in timeline.moments if m.pool == pool.name]
    seen = seen or [pool.ready]
    return min(seen), max(seen)
