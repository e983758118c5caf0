"""Good prices for `certificate`, from a linear programme over groups of alike work, solved with HiGHS.

The programme is the relaxation that `certificate` explains, with one simplification: pieces of work that
arrive in the same window and are alike (privacy class, prompt, answer) move together, by their mean. That
only makes the prices less good, since the bound itself is taken from every single piece of work.

Prompts and answers flow: what is assigned in window j may be worked on in j or later, and who ends in window
f has been worked on by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wattmill.twin.bound.certificate import Bound, Ints, Prices, certified, mended, windows_of
from wattmill.twin.bound.terms import (
    ALONE_S,
    HELD,
    PRESENCES,
    PROMPT_S,
    ROOT,
    Floats,
    PlaceTerms,
    Terms,
)

LATER = (0, 1, 2, 4, 8, 16, None)
"""Windows after arrival in which a group may end, in the programme; None: in the last. The certificate looks
at all of them."""

SCALES = (1.0, 0.9, 0.75, 0.5, 0.3, 0.15, 0.05, 0.0)
"""Prices of capacity are also tried at these parts: where work must be refused, those of groups can be too
high for single pieces of work, and any prices are valid."""

INNER = (0.25, 0.5, 0.75, 0.9, 0.97)
"""Where prompts and answers are cut into cells."""

_TANGENTS = 10


class Groups(NamedTuple):
    of: Ints  # group of each piece of work
    window: Ints  # of each group
    size: Floats


class Solved(NamedTuple):
    terms: Terms
    prices: list[Prices]  # by place, mended
    bound: Bound
    programme_usd: float  # the programme's own optimum, of the groups: for comparison, it proves nothing
    edges_s: Floats


def lower_bound(terms: Terms, *, window_s: float, time_limit_s: float = 300.0) -> Solved:
    """Return the bound, and the prices that prove it."""
    edges_s = np.arange(0.0, float(terms.at_s[-1]) + 2.0 * window_s, window_s)
    programme = _Programme(terms, edges_s)
    usd, duals = programme.solve(time_limit_s)
    raw = programme.prices(duals)
    prices, bound = max(
        (_at_scale(terms, edges_s, raw, scale) for scale in SCALES), key=lambda tried: tried[1].usd
    )
    return Solved(terms, prices, bound, usd, edges_s)


def _at_scale(terms: Terms, edges_s: Floats, raw: list[Prices], scale: float) -> tuple[list[Prices], Bound]:
    prices = [
        mended(
            place,
            p._replace(time=scale * p.time, slots=scale * p.slots, held=scale * p.held, room=scale * p.room),
            usd_per_s=terms.usd_per_s,
        )
        for place, p in zip(terms.places, raw, strict=True)
    ]
    return prices, certified(terms, edges_s, prices)


def grouped(terms: Terms, edges_s: Floats) -> Groups:
    """Put work of one window together that may go to the same places, with prompts and answers about as long.

    Places differ in what a prompt costs against an answer, and few pieces of work make most of the load:
    hence two measures, and cells that become finer towards the largest.
    """
    prompt = np.max([place.uses[PROMPT_S] for place in terms.places], axis=0)
    rest = np.min(
        [
            place.uses[ALONE_S] - place.uses[PROMPT_S] + place.step_s * place.uses[PRESENCES]
            for place in terms.places
        ],
        axis=0,
    )
    return _groups(terms, windows_of(terms.at_s, edges_s), prompt, rest, INNER)


def _groups(terms: Terms, window: Ints, one: Floats, other: Floats, inner: Sequence[float]) -> Groups:
    allowed = np.zeros(len(terms.at_s), dtype=np.int64)
    for place in terms.places:
        allowed = 2 * allowed + np.isfinite(place.money_usd)
    cells = [np.searchsorted(np.quantile(values, inner), values) for values in (one, other)]
    kinds, of = np.unique(np.stack([window, allowed, *cells]), axis=1, return_inverse=True)
    of = np.asarray(of).reshape(-1)
    return Groups(of, kinds[0], np.bincount(of).astype(float))


def capacity_per_s(terms: Terms) -> float:
    """Return the highest mean rate of this mix that the places could ever serve, all slots taken.

    A linear programme on groups of alike work: it spreads them so that the busiest place is the least busy.
    """
    alone = np.min(
        [place.uses[ALONE_S] + place.step_s * place.uses[PRESENCES] for place in terms.places], axis=0
    )
    money = np.min([place.money_usd for place in terms.places], axis=0)
    window = np.zeros(len(terms.at_s), dtype=np.int64)
    groups = _groups(terms, window, alone, money, [part / 6 for part in range(1, 6)])
    count, places = len(groups.size), terms.places
    rows, columns, values = [np.arange(count)] * len(places), [], [np.ones(count)] * len(places)
    for at, place in enumerate(places):
        column = at * count + np.arange(count)
        columns.append(column)
        seconds = (
            place.uses[ALONE_S]
            + np.maximum(place.uses[PRESENCES] / place.slots, place.uses[HELD] / place.held_tok)
            * place.step_s
        )
        rows.append(np.full(count, count + at))
        values.append(np.bincount(groups.of, weights=seconds) / groups.size / place.width)
    shut = [~np.isfinite(np.bincount(groups.of, weights=p.money_usd) / groups.size) for p in places]
    busiest = count * len(places)
    x, _, busy_s = solved(
        cost=np.append(np.concatenate([np.where(no, 1e6, 0.0) for no in shut]), 1.0),
        low=np.append(groups.size, np.full(len(places), -np.inf)),
        high=np.append(groups.size, np.zeros(len(places))),
        rows=np.concatenate([*rows, count + np.arange(len(places))]),
        columns=np.concatenate([*columns, *columns, np.full(len(places), busiest)]),
        values=np.concatenate([*values, np.full(len(places), -1.0)]),
        time_limit_s=60.0,
    )
    assert len(x) == busiest + 1
    return len(terms.at_s) / busy_s


def solved(
    *, cost: Floats, low: Floats, high: Floats, rows: Ints, columns: Ints, values: Floats, time_limit_s: float
) -> tuple[Floats, Floats, float]:
    """Minimise cost x over x >= 0 with low <= A x <= high; return x, the duals of the rows and the
    optimum."""
    import highspy  # an extra of the twin; the gateway never gets here

    order = np.lexsort((rows, columns))
    programme = highspy.HighsLp()
    programme.num_col_, programme.num_row_ = len(cost), len(low)
    programme.col_cost_ = cost
    programme.col_lower_ = np.zeros(len(cost))
    programme.col_upper_ = np.full(len(cost), highspy.kHighsInf)
    programme.row_lower_, programme.row_upper_ = low, high
    programme.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    programme.a_matrix_.start_ = np.searchsorted(columns[order], np.arange(len(cost) + 1))
    programme.a_matrix_.index_ = rows[order]
    programme.a_matrix_.value_ = values[order]
    highs = highspy.Highs()
    for option, value in {
        "output_flag": False,
        "threads": 1,
        "random_seed": 1,
        "time_limit": time_limit_s,
    }.items():
        highs.setOptionValue(option, value)
    highs.passModel(programme)
    highs.run()
    status = highs.getModelStatus()
    if status != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(
            f"HiGHS ended with {highs.modelStatusToString(status)} after {highs.getRunTime():.0f} s on "
            f"{len(low)} rows and {len(cost)} columns; take a longer window or time limit"
        )
    solution = highs.getSolution()
    return (
        np.array(solution.col_value),
        np.array(solution.row_dual),
        float(highs.getInfo().objective_function_value),
    )


class _Programme:
    """Rows and columns as they are added; HiGHS gets them in one piece."""

    def __init__(self, terms: Terms, edges_s: Floats) -> None:
        self._terms = terms
        self._edges_s = edges_s
        self._windows = len(edges_s)
        self.groups = grouped(terms, edges_s)
        self._cost: list[Floats] = []
        self._columns = 0
        self._low: list[Floats] = []
        self._high: list[Floats] = []
        self._rows = 0
        self._entries: list[tuple[Ints, Ints, Floats]] = []
        self._where: list[dict[str, Any]] = []
        self._build()

    def _add_columns(self, cost: Floats) -> Ints:
        self._cost.append(cost)
        self._columns += len(cost)
        return np.arange(self._columns - len(cost), self._columns)

    def _add_rows(self, count: int, low: float | Floats, high: float | Floats) -> Ints:
        self._low.append(np.broadcast_to(low, count).astype(float))
        self._high.append(np.broadcast_to(high, count).astype(float))
        self._rows += count
        return np.arange(self._rows - count, self._rows)

    def _add(self, rows: Ints, columns: Ints, values: float | Floats) -> None:
        self._entries.append((rows, columns, np.broadcast_to(values, len(rows)).astype(float)))

    def _build(self) -> None:
        groups, terms = self.groups, self._terms
        assign = self._add_rows(len(groups.size), groups.size, groups.size)
        refuse = self._add_columns(np.full(len(groups.size), terms.refused_usd))
        self._add(assign, refuse, 1.0)
        for place in terms.places:
            self._where.append(self._build_place(place, assign))

    def _mean(self, values: Floats) -> Floats:
        return np.bincount(self.groups.of, weights=values) / self.groups.size

    def _build_place(self, place: PlaceTerms, assign: Ints) -> dict[str, Any]:
        windows, inf = self._windows, np.inf
        length = np.append(np.diff(self._edges_s), 0.0)
        kept = slice(0, windows - 1)  # windows with an end
        used = [PRESENCES, ALONE_S, PROMPT_S, HELD, ROOT] if place.step_s else [ALONE_S]
        done = {use: self._add_columns(np.zeros(windows)) for use in used}
        spent = self._add_columns(np.full(windows, self._terms.usd_per_s))  # T
        where: dict[str, Any] = {}

        time = self._add_rows(windows - 1, -inf, place.width * length[kept])
        self._add(time, done[ALONE_S][kept], 1.0)
        room = self._add_rows(windows - 1, -inf, place.room * length[kept])
        self._add(room, spent[kept], 1.0)
        alone = self._add_rows(windows, 0.0, inf)
        self._add(alone, spent, 1.0)
        self._add(alone, done[ALONE_S], -1.0)
        waiting = self._add_rows(windows, 0.0, inf)
        self._add(waiting, spent, 1.0)
        where |= {"time": time, "room": room, "alone": alone}
        if place.step_s:
            steps = self._add_columns(np.zeros(windows))
            self._add(alone, done[PRESENCES], -place.step_s)
            self._add(time, steps[kept], place.step_s)
            slots = self._add_rows(windows - 1, -inf, 0.0)
            self._add(slots, done[PRESENCES][kept], 1.0)
            self._add(slots, steps[kept], -float(place.slots))
            held = self._add_rows(windows - 1, -inf, 0.0)  # in capacities, so that numbers stay near 1
            self._add(held, done[HELD][kept], 1.0)
            self._add(held, steps[kept], -1.0)
            tangents = self._tangents(place)
            crowd = self._add_columns(np.zeros(windows))  # X
            bends = []
            for u in tangents:
                row = self._add_rows(windows, 0.0, inf)
                self._add(row, crowd, 1.0)
                self._add(row, done[ROOT], -2.0 * u)
                self._add(row, steps, place.bend * u * u)
                bends.append(row)
            load = self._add_rows(1, 0.0, inf)
            for columns, value in (
                (spent, 1.0),
                (done[PRESENCES], -place.step_s),
                (done[PROMPT_S], -0.5),
                (crowd, -1.0),
            ):
                self._add(np.repeat(load, windows), columns, value)
            where |= {"slots": slots, "held": held, "bends": bends, "tangents": tangents, "load": load}

        open_to = np.flatnonzero(np.isfinite(self._mean(place.money_usd)))
        starts = self.groups.window[open_to]
        flow = {use: self._add_rows(windows, 0.0, 0.0) for use in used}
        due = {use: self._add_rows(windows, 0.0, 0.0) for use in used}
        for use in used:
            self._add(flow[use], done[use], -1.0)
            self._chain(flow[use])
            self._add(due[use], done[use], 1.0)
            self._chain(due[use])
        present = self._add_columns(np.zeros(windows))  # Z
        count = self._add_rows(windows, 0.0, 0.0)
        self._add(count, present, -1.0)
        self._add(count[1:], present[:-1], 1.0)
        self._add(waiting, present, -length)
        for later in LATER:
            ends = np.full(len(starts), windows - 1) if later is None else starts + later
            go = ends < windows if later is not None else ends > starts + max(filter(None, LATER))
            who, begin, end = open_to[go], starts[go], ends[go]
            cost = self._mean(np.where(np.isfinite(place.money_usd), place.money_usd, 0.0))[who]
            column = self._add_columns(cost + self._terms.usd_per_s * place.overhead_s)
            self._add(assign[who], column, 1.0)
            for use in used:
                scale = 1.0 / place.held_tok if use == HELD else 1.0
                amount = self._mean(place.uses[use])[who] * scale
                self._add(flow[use][begin], column, amount)
                self._add(due[use][end], column, -amount)
            if later is None or later > 1:
                self._add(count[begin + 1], column, 1.0)
                self._add(count[end], column, -1.0)
        return where

    def _chain(self, rows: Ints) -> None:
        """What is left over in a window goes to the next; nothing is left over at the end."""
        stock = self._add_columns(np.zeros(len(rows) - 1))
        self._add(rows[:-1], stock, -1.0)
        self._add(rows[1:], stock, 1.0)

    def _tangents(self, place: PlaceTerms) -> Floats:
        """Return values of u = Q/S: from one request present to all slots taken, evenly in logarithms."""
        who = np.isfinite(place.money_usd)
        root = float(np.sum(place.uses[ROOT][who]) / max(1.0, float(np.sum(place.uses[PRESENCES][who]))))
        return root / place.bend * np.geomspace(0.5, 1.25 * place.slots, _TANGENTS)

    def solve(self, time_limit_s: float) -> tuple[float, Floats]:
        """Return the optimum and the dual of every row."""
        rows = np.concatenate([entry[0] for entry in self._entries])
        columns = np.concatenate([entry[1] for entry in self._entries])
        values = np.concatenate([entry[2] for entry in self._entries])
        _, duals, usd = solved(
            cost=np.concatenate(self._cost),
            low=np.concatenate(self._low),
            high=np.concatenate(self._high),
            rows=rows,
            columns=columns,
            values=values,
            time_limit_s=time_limit_s,
        )
        return usd, duals

    def prices(self, duals: Floats) -> list[Prices]:
        return [
            self._prices(place, at, duals) for place, at in zip(self._terms.places, self._where, strict=True)
        ]

    def _prices(self, place: PlaceTerms, at: dict[str, Any], duals: Floats) -> Prices:
        zero = np.zeros(self._windows)
        time, room = np.append(-duals[at["time"]], 0.0), np.append(-duals[at["room"]], 0.0)
        alone = duals[at["alone"]]
        if not place.step_s:
            return Prices(time, zero, zero, room, alone, zero, 0.0)
        slots = np.append(-duals[at["slots"]], 0.0)
        held = np.append(-duals[at["held"]], 0.0) / place.held_tok
        by_tangent = np.maximum([duals[row] for row in at["bends"]], 0.0)
        mean = (by_tangent * at["tangents"][:, None]).sum(axis=0) / np.maximum(by_tangent.sum(axis=0), 1e-300)
        return Prices(time, slots, held, room, alone, mean, float(duals[at["load"]][0]))
