"""The health of the factory in one sentence: what must be acted on, what to watch, or that all is well."""

from __future__ import annotations

from wattmill.app.disk_checkup import FREE_BAD_BYTES
from wattmill.app.seeing.board import Health, Mood
from wattmill.app.seeing.figure import UNITS
from wattmill.app.seeing.readings import Readings
from wattmill.ledger.refusing import amount_text
from wattmill.units import BYTES_PER_MB

CAP_NEAR = 0.8
LAG_WATCH_S = 10.0
STATE_STALE_S = 5.0
PROMISE_WATCH = 0.95
FEWEST_JUDGED = 20  # a share of fewer requests says little


def health(r: Readings) -> Health:
    """Return the mood, the sentence and the command that says more."""
    if not r.running:
        return Health(
            mood="unknown",
            sentence="The factory is not running. What you see is what its books say.",
            help="wattmill up",
        )
    act, watch = _act(r), _watch(r)
    if act:
        return _told("act", [*act, *watch])
    if watch:
        return _told("watch", watch)
    places = _alive(r)[0]
    up = f"{_number(places)} {_plural('place', places)} up" if places else "Starting"
    return Health(mood="good", sentence=f"All promises kept. {up}, books balanced.")


Finding = tuple[str, str]
"""A sentence and the command that helps."""


def _told(mood: Mood, found: list[Finding]) -> Health:
    return Health(mood=mood, sentence=" ".join(text for text, _ in found[:3]), help=found[0][1])


def _act(r: Readings) -> list[Finding]:
    out: list[Finding] = []
    if r.free_bytes is not None and r.free_bytes < FREE_BAD_BYTES:
        left = f"{r.free_bytes / BYTES_PER_MB:.0f} MB"
        out.append((f"The disk is full ({left} left): what cannot be booked is refused.", "wattmill doctor"))
    if r.books and any(r.books.difference.values()):
        worst = max(r.books.difference, key=lambda k: abs(r.books.difference[k]) if r.books else 0)
        out.append(
            (f"The books do not balance: {worst} is off by {r.books.difference[worst]:,}.", "wattmill audit")
        )
    if r.workers and all(w.status is None for w in r.workers):
        out.append(("No gateway worker answers.", "wattmill doctor"))
    up, down = _alive(r)
    if down and not up:
        out.append(("Every place is down.", "wattmill status"))
    if r.state and r.state.problem:
        out.append((f"{r.state.problem.rstrip('.')}.", "wattmill config check"))
    if r.fault:
        out.append((f"The books cannot be read: {r.fault.rstrip('.')}.", "wattmill doctor"))
    return out


def _watch(r: Readings) -> list[Finding]:
    out: list[Finding] = []
    up, down = _alive(r)
    if down and up:
        out.append((f"{', '.join(down)} {'is' if len(down) == 1 else 'are'} down.", "wattmill status"))
    out += _caps(r)
    out += _promises(r)
    books = r.books
    if books and books.in_doubt:
        out.append((f"{_number(books.in_doubt)} in doubt.", "wattmill reconcile"))
    if books and books.unmetered:
        out.append((f"{_number(books.unmetered)} unmetered.", "wattmill audit"))
    if books and books.overrun_nusd:
        out.append((f"Overrun of {UNITS['nusd'](books.overrun_nusd)}.", "wattmill audit"))
    if books and books.overrun_units:
        units = ", ".join(amount_text(unit, n) for unit, n in books.overrun_units.items())
        out.append((f"Overrun of {units} under limits.", "wattmill audit"))
    if books and books.lag_s is not None and books.lag_s > LAG_WATCH_S:
        out.append((f"The ledger is {UNITS['s'](books.lag_s)} behind.", "wattmill status"))
    if r.state and (r.now_us - r.state.at_us) / 1e6 > STATE_STALE_S:
        out.append(("The supervisor has been silent for more than 5 s.", "wattmill status"))
    return out


def _caps(r: Readings) -> list[Finding]:
    used = [
        (b.used_nusd / b.cap_nusd, b.name)
        for b in r.budgets
        if b.cap_nusd and b.used_nusd / b.cap_nusd >= CAP_NEAR
    ]
    if not used:
        return []
    share, name = max(used)
    text = f"{name} is at {share:.0%} of its cap.".replace("%", " %")
    if len(used) > 1:
        text = f"{_number(len(used))} caps are near, {name} at {share:.0%}.".replace("%", " %")
    return [(text, "wattmill budget show")]


def _promises(r: Readings) -> list[Finding]:
    """Name the highest tier that promises something and kept too little of it in the last hour."""
    kept = {sums.tier: sums for sums in (r.books.tiers if r.books else [])}
    for name, plan in reversed(r.tiers.items()):
        sums = kept.get(name)
        if sums is None or sums.offered < FEWEST_JUDGED or (plan.ttft_s is None and plan.tok_per_s is None):
            continue
        share = sums.kept_share
        if share is not None and share < PROMISE_WATCH:
            text = f"Tier {name} kept {share:.0%} of its promises in the last hour.".replace("%", " %")
            return [(text, "wattmill status")]
    return []


def _alive(r: Readings) -> tuple[int, list[str]]:
    """Return how many places every worker calls healthy, and the names of those that some call down."""
    said: dict[str, bool] = {}
    for worker in r.workers:
        for life in (worker.status or {}).get("fleet", ()):
            name = str(life.get("pool"))
            said[name] = said.get(name, True) and bool(life.get("healthy"))
    down = sorted(name for name, healthy in said.items() if not healthy)
    return len(said) - len(down), down


def _number(n: int) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    return words[n] if n < len(words) else f"{n:,}"


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else f"{noun}s"
