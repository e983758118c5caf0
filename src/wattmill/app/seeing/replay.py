"""Deciding again what was decided: the same policy must say the same, another one what it would have done.

What another policy would have done is told with the load as it was. A policy that sends more to one place
would have made that place slower: how much, only the twin can say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from wattmill.app.declared.policy_named import UnknownPolicy, policy_named
from wattmill.app.home import Home
from wattmill.app.seeing.decisions import Decision, View, decisions
from wattmill.scheduling.fleet import decided_again
from wattmill.scheduling.ranking import expected_carbon_g
from wattmill.scheduling.spec import Policy
from wattmill.units import US_PER_S, usd_text
from wattmill.vocab.caller import Caller
from wattmill.vocab.fact import End
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.route import Candidate, Route

MOST_ROWS = 50


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that was not the same when it was taken again, or could not be."""

    request_id: str
    at_us: int
    policy: str
    recorded: str
    again: str


class Sum(msgspec.Struct, kw_only=True):
    """What one policy chose over a period, as expected when it was decided."""

    chosen: dict[str, int] = {}  # requests by place
    refused: int = 0
    expected_nusd: int = 0
    expected_carbon_g: float = 0.0
    carbon_unknown: int = 0  # requests whose carbon nobody could expect
    ttft_s: list[float] = []
    total_s: list[float] = []


class Happened(msgspec.Struct, kw_only=True):
    """What really came of the requests of the period that ended well."""

    finished: int = 0
    attempts: int = 0
    charge_nusd: int = 0
    cost_nusd: int = 0
    ttft_s: list[float] = []
    total_s: list[float] = []


class Report(msgspec.Struct, kw_only=True):
    decisions: int = 0
    identical: int = 0
    different: int = 0
    not_replayable: int = 0  # their inputs are no longer kept, or were never recorded
    refusals: int = 0  # of the decisions: a policy said no
    epochs: int = 0
    views: int = 0  # snapshots that decisions were taken in
    rows: list[Difference] = []
    policies: dict[str, int] = {}  # decisions by the policy that took them
    versions: dict[str, int] = {}  # decisions by the wattmill that took them
    explored: int = 0
    other: str | None = None  # the policy that was asked beside
    same_place: int = 0  # of the decisions that both took
    recorded: Sum = msgspec.field(default_factory=Sum)
    instead: Sum = msgspec.field(default_factory=Sum)
    happened: Happened = msgspec.field(default_factory=Happened)

    @property
    def holds(self) -> bool:
        return self.different == 0


def replay(home: Home, *, since_us: int = 0, until_us: int | None = None, other: str | None = None) -> Report:
    """Take every decision of the period again. Raises `UnknownPolicy` for a name of `other` that is none."""
    instead = policy_named(other) if other is not None else None
    report = Report(other=other)
    epochs: set[str] = set()
    views: set[tuple[str, int]] = set()
    for item in decisions(home.journal, since_us=since_us, until_us=until_us):
        if isinstance(item, tuple):
            _happened(report.happened, item[1])
            continue
        report.decisions += 1
        epochs.add(item.epoch)
        policy = item.route.policy or "none"
        report.policies[policy] = report.policies.get(policy, 0) + 1
        report.refusals += not item.route.candidates
        if item.view is None or item.caller is None:
            report.not_replayable += 1
            continue
        views.add((item.epoch, item.route.snapshot))
        version = item.view.version
        report.versions[version] = report.versions.get(version, 0) + 1
        _again(report, item, item.caller, item.view, instead)
    report.epochs, report.views = len(epochs), len(views)
    return report


def _again(report: Report, item: Decision, caller: Caller, view: View, instead: Policy | None) -> None:
    route = item.route
    try:
        again = _decide(policy_named(route.policy), item, caller, view)
    except UnknownPolicy as error:
        report.not_replayable += 1
        _row(report, item, f"cannot be asked: {error}")
        return
    same, words = _same(item, again)
    if same:
        report.identical += 1
    else:
        report.different += 1
        _row(report, item, words)
    report.explored += route.draw < view.weights.explore
    if instead is None:
        return
    what_if = _decide(instead, item, caller, view)
    _add(report.recorded, item, view, route.candidates[0] if route.candidates else None)
    best = None if isinstance(what_if, Refusal) else what_if.candidates[0]
    _add(report.instead, item, view, best)
    if route.candidates and best is not None and route.candidates[0].pool == best.pool:
        report.same_place += 1


def _decide(policy: Policy, item: Decision, caller: Caller, view: View) -> Route | Refusal:
    return decided_again(policy, item.request, caller, item.route, fleet=view.fleet, weights=view.weights)


def _same(item: Decision, again: Route | Refusal) -> tuple[bool, str]:
    """Return whether `again` is what was recorded, to the last digit and word; and `again` in words."""
    if isinstance(again, Route):
        return again == item.route, _words(again)
    asked_the_policy = not item.route.candidates
    same = (
        asked_the_policy
        and again.code == item.code
        and again.message[:512] == item.message
        and again.route == item.route
    )
    return same, f"refused: {again.code}: {again.message}"


def _row(report: Report, item: Decision, again: str) -> None:
    if len(report.rows) >= MOST_ROWS:
        return
    recorded = _words(item.route) if item.route.candidates else f"refused: {item.code}: {item.message}"
    report.rows.append(
        Difference(
            request_id=item.id, at_us=item.at_us, policy=item.route.policy, recorded=recorded, again=again
        )
    )


def _words(route: Route) -> str:
    order = " > ".join(f"{c.pool} {c.score:.9g}" for c in route.candidates)
    return f"{order} ({route.reason})"


def _add(total: Sum, item: Decision, view: View, best: Candidate | None) -> None:
    if best is None:
        total.refused += 1
        return
    total.chosen[best.pool] = total.chosen.get(best.pool, 0) + 1
    total.expected_nusd += best.expected_nusd
    total.ttft_s.append(best.expected_ttft_s)
    total.total_s.append(best.expected_s)
    grams = expected_carbon_g(item.request, view.fleet, view.weights, item.route.hints, best.pool)
    if grams is None:
        total.carbon_unknown += 1
    else:
        total.expected_carbon_g += grams


def _happened(happened: Happened, end: End) -> None:
    happened.attempts += 1
    happened.charge_nusd += end.charge_nusd
    happened.cost_nusd += end.cost_nusd
    if end.status == "finished":
        happened.finished += 1
        if end.ttft_us is not None:
            happened.ttft_s.append(end.ttft_us / US_PER_S)
        happened.total_s.append(end.duration_us / US_PER_S)


def quantile(values: list[float], share: float) -> float | None:
    """Return the value below which `share` of them lie (nearest rank), None if there are none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def paired(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Yield rows (figure, as recorded, by the other policy, as it happened), in words for people."""
    a, b, real = report.recorded, report.instead, report.happened
    for pool in sorted({*a.chosen, *b.chosen}):
        yield f"to {pool}", str(a.chosen.get(pool, 0)), str(b.chosen.get(pool, 0)), ""
    yield "refused", str(a.refused), str(b.refused), ""
    money = [usd_text(nusd, 9) for nusd in (a.expected_nusd, b.expected_nusd, real.charge_nusd)]
    yield "charge, USD", money[0], money[1], money[2]
    for noun, three in (
        ("first token", (a.ttft_s, b.ttft_s, real.ttft_s)),
        ("all", (a.total_s, b.total_s, real.total_s)),
    ):
        for share, word in ((0.5, "p50"), (0.95, "p95")):
            told = [_s(quantile(values, share)) for values in three]
            yield f"{noun} {word}, s", told[0], told[1], told[2]
    yield "carbon, g", _grams(a), _grams(b), ""


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _grams(total: Sum) -> str:
    known = sum(total.chosen.values()) - total.carbon_unknown
    if not known:
        return "unknown"
    rest = f" + {total.carbon_unknown} unknown" if total.carbon_unknown else ""
    return f"{total.expected_carbon_g:.4f}{rest}"
