"""The tower: seven layers from power to value, as shares of what passes through each of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, get_args

from wattmill.app.seeing.board import Floor, Flow, Part
from wattmill.app.seeing.figure import Figure, figure
from wattmill.app.seeing.readings import Cell, Power, Readings, power_now
from wattmill.ledger.tenancy import path_of
from wattmill.units import S_PER_H
from wattmill.vocab.usage import Provenance

What = TypeVar("What")

TONES = ("blue", "orange", "green", "sky", "vermilion", "yellow", "purple")
"""Colours of places, in the order of their declaration; named after Okabe and Ito's palette."""
TEAM_TONES = ("purple", "sky", "yellow", "green", "vermilion", "blue", "orange")

_ENDS = (
    ("finished", "finished", "good"),
    ("aborted", "client left", "aborted"),
    ("cut", "cut at clamp", "cut"),
    ("failed", "failed", "failed"),
)


def pool_tones(r: Readings) -> dict[str, str]:
    """Return the colour of every place: by declaration, unknown ones after them by name."""
    names = [p.pool for p in r.state.places] if r.state else []
    seen = {c.pool for c in (r.books.today if r.books else [])} | {c.pool for c in _cells(r)}
    names += sorted(seen - set(names))
    return {name: TONES[i % len(TONES)] for i, name in enumerate(names)}


def team_of(r: Readings, key: int) -> int:
    """Return the team of a key: the node under the organisation, or the key itself where there is none."""
    path = path_of(r.nodes, key) if key in r.nodes else (key,)
    return path[1] if len(path) > 2 else path[-1]


def team_tones(r: Readings) -> dict[int, str]:
    teams = sorted({n.id for n in r.nodes.values() if n.kind == "team"})
    return {id: TEAM_TONES[i % len(TEAM_TONES)] for i, id in enumerate(teams)}


def floors(r: Readings) -> tuple[Floor, ...]:
    """Return the seven layers, the lowest first, and the roof: what tenants are charged.

    What has no data has no parts and says what is missing.
    """
    layers = (_power(r), _site(), _compute(r), _models(r), _distribution(r), _scheduling(r), _agents())
    return (*layers, _charge(r))


REST = {
    "service": ("the factory itself", "sky"),
    "foreign": ("other programs", "purple"),
    "overhead": ("conversion and cooling", "orange"),
    "unattributed": ("unattributed", "other"),
}
"""What drew power and was no place, by account of the books: label and tone."""


def _power(r: Readings) -> Floor:
    power = _watts_of(r)
    total = power.host_w if power else None
    parts: list[Part] = []
    if power and total:
        tones = pool_tones(r)
        drawn = [("idle", "idle", "idle", power.idle_w)]
        drawn += [
            (pool, pool, tones[pool], watts) for pool, watts in power.by_pool_w.items() if pool in tones
        ]
        drawn += [(id, label, tone, power.rest_w.get(id, 0.0)) for id, (label, tone) in REST.items()]
        parts = [_watts("power", id, label, tone, w, total, r) for id, label, tone, w in drawn if w > 0]
    missing = (
        None if parts else "No reading yet" if r.running else "No meter is read while the factory is down"
    )
    return Floor(
        id="power",
        number=1,
        name="Power",
        says="watts",
        total=figure(
            total, "w", provenance=power_provenance(r), rows="/api/rows/energy", note=_watts_note(r)
        ),
        parts=tuple(parts),
        missing=missing,
        room="power",
    )


def _watts_of(r: Readings) -> Power | None:
    return (r.power_mean or power_now(r.state)) if r.running else None


def _watts_note(r: Readings) -> str | None:
    if r.state is None:
        return None
    return f"mean of the last minute; {r.state.power_source}" if r.power_mean else r.state.power_source


def _site() -> Floor:
    return Floor(
        id="site",
        number=2,
        name="Site",
        says="facility watts",
        total=figure(None, "w"),
        missing="No facility meter: losses of cooling and conversion are unknown",
    )


def _compute(r: Readings) -> Floor:
    tones = pool_tones(r)
    power = _watts_of(r)
    watts = {pool: w for pool, w in power.by_pool_w.items() if pool in tones} if power else {}
    total = sum(watts.values()) if watts else None
    parts = tuple(
        _watts("compute", pool, pool, tones[pool], w, total, r)
        for pool, w in watts.items()
        if total and w > 0
    )
    missing = None if parts else "Engines are at rest" if watts else "No engine's power is known"
    note = "watts above idle of the engines that this machine runs"
    return Floor(
        id="compute",
        number=3,
        name="Compute",
        says="watts in engines",
        total=figure(total, "w", provenance=power_provenance(r), rows="/api/rows/energy", note=note),
        parts=parts,
        missing=missing,
        room="places",
    )


def _models(r: Readings) -> Floor:
    tones = pool_tones(r)
    return _token_floor(
        r,
        "models",
        4,
        "Models",
        "tokens by place",
        "places",
        _sum((c.pool, c.prompt_tok + c.output_tok) for c in _cells(r)),
        label=lambda pool: pool,
        tone=lambda pool: tones[pool],
    )


def _distribution(r: Readings) -> Floor:
    tones = team_tones(r)
    return _token_floor(
        r,
        "distribution",
        5,
        "Distribution",
        "tokens by team",
        "tenants",
        _sum((team_of(r, c.key), c.prompt_tok + c.output_tok) for c in _cells(r)),
        label=lambda team: r.nodes[team].name if team in r.nodes else f"node {team}",
        tone=lambda team: tones.get(team, "other"),
    )


def _scheduling(r: Readings) -> Floor:
    labels = {end: (label, tone) for end, label, tone in _ENDS}
    return _token_floor(
        r,
        "scheduling",
        6,
        "Scheduling",
        "tokens by how their attempt ended",
        "decisions",
        _sum((c.status, c.prompt_tok + c.output_tok) for c in _cells(r)),
        label=lambda end: labels.get(end, (end, ""))[0],
        tone=lambda end: labels.get(end, ("", "other"))[1],
    )


def _agents() -> Floor:
    return Floor(
        id="agents",
        number=7,
        name="Agents",
        says="accepted tasks",
        total=figure(None, "count"),
        missing="No outcome is tied to spend yet: what it bought is unknown",
    )


def _charge(r: Readings) -> Floor:
    tones = team_tones(r)
    amounts = _sum((team_of(r, c.key), c.charge_nusd) for c in _cells(r))
    total = sum(amounts.values())
    parts = tuple(
        Part(
            id=f"charge/{team}",
            label=r.nodes[team].name if team in r.nodes else f"node {team}",
            tone=tones.get(team, "other"),
            share=nusd / total,
            figure=figure(nusd * S_PER_H / _seconds(r), "nusd_per_h", rows=f"/api/requests?node={team}"),
        )
        for team, nusd in _largest_first(amounts)
    )
    return Floor(
        id="charge",
        number=None,
        name="Charge",
        says="dollars by team",
        total=charge_rate(r),
        parts=parts,
        missing=None if parts else "Nothing was charged in the last minute",
        room="tenants",
    )


def _largest_first(amounts: Mapping[What, int]) -> list[tuple[What, int]]:
    return sorted(((w, n) for w, n in amounts.items() if n), key=lambda kv: (-kv[1], str(kv[0])))


def _token_floor(
    r: Readings,
    id: str,
    number: int,
    name: str,
    says: str,
    room: str,
    amounts: Mapping[What, int],
    *,
    label: Callable[[What], str],
    tone: Callable[[What], str],
) -> Floor:
    total = sum(amounts.values())
    rate = figure(
        total / _seconds(r) if r.books else None,
        "tok_per_s",
        rows="/api/requests",
        note=f"input and output tokens of attempts that ended in the last {_seconds(r):.0f} s",
    )
    parts = tuple(
        Part(
            id=f"{id}/{what}",
            label=label(what),
            tone=tone(what),
            share=tok / total,
            figure=figure(tok / _seconds(r), "tok_per_s", rows=_rows(r, id, what)),
        )
        for what, tok in _largest_first(amounts)
    )
    hint = ": send one to the gateway" if r.running else ""
    missing = None if parts else f"No request ended in the last {_seconds(r):.0f} s{hint}"
    return Floor(
        id=id, number=number, name=name, says=says, total=rate, parts=parts, missing=missing, room=room
    )


def flows(built: tuple[Floor, ...], r: Readings) -> tuple[Flow, ...]:
    """Return the ribbons: watts into engines, into tokens by place, by team, by end, into charge.

    A ribbon into a place's tokens exists only where both are known: no amount is invented between floors.
    """
    parts = {p.id: p for f in built for p in f.parts}
    out: list[Flow] = []
    for pool, tone in pool_tones(r).items():
        for low, high in (("power", "compute"), ("compute", "models")):
            a, b = parts.get(f"{low}/{pool}"), parts.get(f"{high}/{pool}")
            if a and b and a.share and b.share:
                out.append(_flow(a, b, a.share, b.share, tone, modelled=a.figure.provenance == "modelled"))
    cells = _cells(r)
    total = sum(c.prompt_tok + c.output_tok for c in cells)
    by_team = _sum(((c.pool, team_of(r, c.key)), c.prompt_tok + c.output_tok) for c in cells)
    by_end = _sum(((team_of(r, c.key), c.status), c.prompt_tok + c.output_tok) for c in cells)
    for (pool, team), tok in sorted(by_team.items(), key=str):
        a, b = parts.get(f"models/{pool}"), parts.get(f"distribution/{team}")
        if a and b and tok:
            out.append(_flow(a, b, tok / total, tok / total, a.tone))
    for (team, end), tok in sorted(by_end.items(), key=str):
        a, b = parts.get(f"distribution/{team}"), parts.get(f"scheduling/{end}")
        if a and b and tok:
            out.append(_flow(a, b, tok / total, tok / total, a.tone))
    charged = sum(c.charge_nusd for c in cells)
    for cell in _by_end_and_team(cells, r):
        a, b = parts.get(f"scheduling/{cell[0]}"), parts.get(f"charge/{cell[1]}")
        if a and b and charged and total and cell[3]:
            out.append(_flow(a, b, cell[2] / total, cell[3] / charged, b.tone))
    return tuple(out)


def _by_end_and_team(cells: list[Cell], r: Readings) -> list[tuple[str, int, int, int]]:
    """Return (end, team, tokens, charge), in a stable order."""
    tokens = _sum(((c.status, team_of(r, c.key)), c.prompt_tok + c.output_tok) for c in cells)
    charges = _sum(((c.status, team_of(r, c.key)), c.charge_nusd) for c in cells)
    return [(end, team, tokens[end, team], charges[end, team]) for end, team in sorted(tokens)]


def _flow(a: Part, b: Part, a_share: float, b_share: float, tone: str, *, modelled: bool = False) -> Flow:
    return Flow(
        source=a.id, target=b.id, source_share=a_share, target_share=b_share, tone=tone, modelled=modelled
    )


def _watts(
    floor: str, id: str, label: str, tone: str, watts: float, total: float | None, r: Readings
) -> Part:
    return Part(
        id=f"{floor}/{id}",
        label=label,
        tone=tone,
        share=watts / total if total else 0.0,
        figure=figure(watts, "w", provenance=power_provenance(r), rows="/api/rows/energy"),
    )


def power_provenance(r: Readings) -> Provenance:
    return as_provenance(r.state.power_provenance if r.state else None)


def as_provenance(text: str | None) -> Provenance:
    """Return a provenance of the closed list; anything else is unknown."""
    return text if text in get_args(Provenance) else "unknown"  # type: ignore[return-value]


def _cells(r: Readings) -> list[Cell]:
    return r.books.last_60s.cells if r.books else []


def _seconds(r: Readings) -> float:
    return r.books.last_60s.seconds if r.books else 60.0


def _rows(r: Readings, floor: str, what: object) -> str:
    field = {"models": "pool", "distribution": "node", "scheduling": "status"}[floor]
    return f"/api/requests?{field}={what}"


def _sum(pairs: Iterable[tuple[What, int]]) -> Mapping[What, int]:
    out: dict[What, int] = defaultdict(int)
    for what, amount in pairs:
        out[what] += amount
    return out


def charge_rate(r: Readings) -> Figure:
    """Return what tenants are charged per hour at the pace of the last minute."""
    charge = sum(c.charge_nusd for c in _cells(r)) * S_PER_H / _seconds(r) if r.books else None
    return figure(charge, "nusd_per_h", rows="/api/requests", note=f"pace of the last {_seconds(r):.0f} s")
