"""One simulated run from a declaration to its report: the audit of its books is part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wattmill.app.declared.declaration import EXAMPLE, Loaded
from wattmill.app.declared.tier_settings import TierPlan, tier_plans
from wattmill.app.home import Home
from wattmill.app.seeing.auditing import audit_home
from wattmill.app.simulating.demand import Demand
from wattmill.app.simulating.factory import SimulatedFactory
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.twin.fleet.files import write_files
from wattmill.twin.fleet.report import Report, report
from wattmill.twin.fleet.timeline import Moment


def simulate(
    loaded: Loaded,
    demand: Demand,
    home: Home,
    *,
    env: Mapping[str, str],
    seed: int,
    out: Path | None = None,
    timeline_s: float = 1.0,
    tell: Callable[[int], None] = lambda done: None,
    ended: Callable[[Report, Sequence[Moment]], None] = lambda told, moments: None,
) -> Report:
    """Run the declared factory on `demand` in an empty `home`, audit its books and return the report.

    Args:
        env: which provider keys exist decides which stand-ins play, as with `wattmill up`.
        out: files of the run are written there.
        tell: hears now and then how many requests have come.
        ended: hears the report and the timeline, for whoever keeps them.
    """
    home.create()
    factory = SimulatedFactory(loaded.settings, env, demand, home, seed=seed, timeline_s=timeline_s)
    factory.run(tell)
    audited = audit_home(home)
    settings, timeline = factory.settings, factory.timeline
    assert timeline is not None
    promises = {name: promise_words(plan) for name, plan in tier_plans(settings.tiers).items()}
    with Books(home.ledger_db) as books:
        told = report(
            books,
            factory.pools,
            factory=settings.factory.name if loaded.file != EXAMPLE else f"{settings.factory.name} (example)",
            demand=demand.words,
            seed=seed,
            policy=settings.routing.policy,
            simulated_s=factory.clock.now(),
            asked=factory.world.asked,
            came_back=factory.world.came_back,
            teams={client.caller.key: client.name.rpartition("/")[0] for client in factory.clients},
            promises=promises,
            timeline=timeline,
            checks=[(check.name, check.holds) for check in audited.checks],
        )
    ended(told, timeline.moments)
    if out is not None:
        write_files(out, told, timeline, home.journal / factory.books.epoch)
    return told


def promise_words(plan: TierPlan) -> str:
    """Return what a tier promises, in words."""
    words = []
    if plan.ttft_s is not None:
        words.append(f"first token in {plan.ttft_s:g} s")
    if plan.tok_per_s is not None:
        words.append(f"{plan.tok_per_s:g} tok/s")
    return ", ".join(words) or "nothing"
