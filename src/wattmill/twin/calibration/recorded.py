"""A period of a factory's books as a trace of one engine: to fit to, and to hold a prediction against.

Requests are played at the instants at which they came (who waited at the gate with a tier, or came as a
retry: at which they were sent on, since that wait was the gate's and not the engine's). Those that were left
by their client, cut, in flight already when the period begins, or that came after its end keep the engine
busy as they did, and are not judged.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections import Counter
from collections.abc import Sequence

import msgspec

from wattmill.ledger.stores.sqlite_period import Ran, energy_known_by, foreign_share, pools, ran
from wattmill.twin.calibration.fit import covered
from wattmill.twin.calibration.spec import Covers, Seen, Sweep
from wattmill.units import UJ_PER_J, US_PER_S
from wattmill.vocab.usage import Provenance, weakest

LEAST = 30
"""Streamed answers without which no period is fitted to or held against: fewer have no 95th percentile."""

LOOKBACK_S = 900.0
UNKNOWN_SHARE = 0.05
SETTLED_SHARE = 0.95


class TooLittle(ValueError):
    """The period cannot be fitted to or checked against; the message says what lacks and what to do."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One place's requests of a period, as an open-loop sweep. Seconds of it since `zero_us`."""

    pool: str
    model: str  # as most of them asked, without the place that they may have named before it
    since_us: int
    until_us: int
    zero_us: int
    sweep: Sweep
    works: tuple[Ran, ...]  # of each entry of the sweep
    attempts: int  # that came in the period
    streamed: int  # of these: finished, streamed, counted
    unknown: int  # of these: produced something that nobody counted
    at_once: int
    queued: int  # waited at the gate, which is not in the figures
    covers: Covers
    energy_j: float | None  # put on those of `works` that have joules; None: none are booked
    energy_tok: int  # output tokens of those
    energy_provenance: Provenance
    foreign_share: float | None  # of the meters' joules above idle, to programs beside the factory

    @property
    def judged(self) -> tuple[Ran, ...]:
        return tuple(work for work, seen in zip(self.works, self.sweep.seen, strict=True) if not seen.company)


def recorded(db: sqlite3.Connection, pool: str, *, since_us: int, until_us: int) -> Recorded:
    """Read the period [since_us, until_us) of `pool` from its ledger. Raises `TooLittle`."""
    around_us = round(LOOKBACK_S * US_PER_S)
    found = ran(db, pool, since_us=since_us - around_us, until_us=until_us + around_us)
    words = f"between {_when(since_us)} and {_when(until_us)}"
    inside = [one for one in found if since_us <= one.arrived_us < until_us]
    if not inside:
        known = pools(db)
        if pool not in known:
            raise TooLittle(
                f"nothing was ever sent to {pool!r}; the books know {', '.join(known) or 'no place yet'}"
            )
        raise TooLittle(
            f"nothing was sent to {pool!r} {words}; name a period with requests (--since 2h, or an instant)"
        )
    unknown = sum(_uncounted(one) for one in inside)
    good = [one for one in inside if _good(one)]
    streamed = sum(one.first_us is not None for one in good)
    if streamed < LEAST:
        raise TooLittle(
            f"{pool!r} has {streamed} streamed answers that finished with counted tokens {words} (of "
            f"{len(inside)} attempts): {LEAST} are the least. Take a longer period (--since), or measure the "
            "place with `--url` and `--model`, which takes two minutes"
        )
    if sum(one.first_us is not None and one.output_tok > 1 for one in good) < LEAST:
        raise TooLittle(
            f"fewer than {LEAST} of the {streamed} streamed answers at {pool!r} {words} have more than one "
            "token, so nothing says how fast it decodes: take a period with longer answers"
        )
    if unknown > UNKNOWN_SHARE * len(inside):
        raise TooLittle(
            f"{unknown} of {len(inside)} attempts at {pool!r} {words} were never counted (in doubt, or "
            f"unmetered), so nobody knows what the engine was busy with: at most {UNKNOWN_SHARE:.0%} may be. "
            "Settle them with `wattmill reconcile`, or take another period"
        )
    played = _played(found, since_us, until_us)
    zero_us = min(_at_us(one) for one in played)
    settled = [one for one in played if one.energy_uj is not None]
    tokens = sum(one.output_tok for one in played)
    energy_tok = sum(one.output_tok for one in settled)
    booked = bool(settled) and energy_tok >= SETTLED_SHARE * tokens
    sweep = Sweep(
        name=f"{pool} {words}",
        concurrency=0,
        seen=tuple(_seen(one, zero_us, since_us, until_us) for one in played),
        others_cores=None,
    )
    at_once = _most_at_once(played)
    return Recorded(
        pool=pool,
        # `local/m` and `m` are one model at `local`: a sweep through the gateway asks for the former.
        model=Counter(one.model.removeprefix(f"{pool}/") for one in good).most_common(1)[0][0],
        since_us=since_us,
        until_us=until_us,
        zero_us=zero_us,
        sweep=sweep,
        works=tuple(played),
        attempts=len(inside),
        streamed=streamed,
        unknown=unknown,
        at_once=at_once,
        queued=sum(one.queued_us > 0 for one in inside),
        covers=covered([sweep], at_once=at_once),
        energy_j=sum(one.energy_uj or 0 for one in settled) / UJ_PER_J if booked else None,
        energy_tok=energy_tok,
        energy_provenance=weakest(energy_known_by(db, since_us=since_us, until_us=until_us)),
        foreign_share=foreign_share(db, since_us=since_us, until_us=until_us),
    )


def unseen(covers: Covers) -> list[str]:
    """Return what a fit to such requests cannot know, for people: it stays where a rule of thumb puts it."""
    notes: list[str] = []
    if covers.at_once < 2:
        notes.append("never two requests at once: what answers cost beside each other is a guess")
    if covers.prompt_tok[1] < 2 * covers.prompt_tok[0]:
        notes.append(
            f"prompts of {covers.prompt_tok[0]} to {covers.prompt_tok[1]} tokens only: how much of a first "
            "token is the prompt's length is a guess"
        )
    return notes


def thinned(period: Recorded, most: int) -> Recorded:
    """Return the period with at most about `most` requests: whole stretches between two moments at which
    nothing was in flight, spread evenly over it. A stretch longer than that is cut."""
    if len(period.works) <= most:
        return period
    stretches: list[list[int]] = []
    until_s = -1.0
    for i, one in enumerate(period.sweep.seen):
        if one.at_s >= until_s or not stretches:
            stretches.append([])
        stretches[-1].append(i)
        until_s = max(until_s, one.end_s)
    every = -(-len(period.works) // most)
    chosen: list[int] = []
    for stretch in stretches[::every] if len(stretches) >= every else stretches:
        chosen += stretch[: most - len(chosen)]
        if len(chosen) >= most:
            break
    # Who was in flight when the next one that is left out came, had company that is not played.
    seen = period.sweep.seen
    last = chosen[-1]
    cut_s = seen[last + 1].at_s if last + 1 < len(seen) else float("inf")
    kept = tuple(
        msgspec.structs.replace(seen[i], company=True) if seen[i].end_s > cut_s >= seen[i].at_s else seen[i]
        for i in chosen
    )
    works = tuple(period.works[i] for i in chosen)
    settled = [one for one in works if one.energy_uj is not None]
    return msgspec.structs.replace(
        period,
        sweep=msgspec.structs.replace(period.sweep, seen=kept),
        works=works,
        energy_j=None if period.energy_j is None else sum(one.energy_uj or 0 for one in settled) / UJ_PER_J,
        energy_tok=sum(one.output_tok for one in settled),
    )


def _good(one: Ran) -> bool:
    """Return whether an attempt says how fast the engine was: it ended by itself, its tokens are known."""
    return one.status == "finished" and one.source == "measured" and one.output_tok > 0


def _uncounted(one: Ran) -> bool:
    return one.status == "in_doubt" or one.source == "unmetered"


def _at_us(one: Ran) -> int:
    return one.left_us if one.number or one.queued_us else one.arrived_us


def _worked(one: Ran) -> bool:
    """Return whether the engine did anything for it that is known."""
    return one.source in ("measured", "estimated") and one.prefill_tok + one.output_tok > 0


def _played(found: Sequence[Ran], since_us: int, until_us: int) -> list[Ran]:
    """Return what came in the period, before it all that was in flight without a pause until it began, and
    after it all that came while something of the period was in flight."""
    before = [one for one in found if one.arrived_us < since_us and _worked(one)]
    begin_us, moved = since_us, True
    while moved:
        earliest = min((_at_us(one) for one in before if one.ended_us > begin_us), default=begin_us)
        moved = earliest < begin_us
        begin_us = min(begin_us, earliest)
    chain = [one for one in before if one.ended_us > begin_us]
    inside = [one for one in found if since_us <= one.arrived_us < until_us and _worked(one)]
    last_us = max((one.ended_us for one in inside), default=until_us)
    after = [one for one in found if one.arrived_us >= until_us and _at_us(one) < last_us and _worked(one)]
    return sorted([*chain, *inside, *after], key=_at_us)


def _seen(one: Ran, zero_us: int, since_us: int, until_us: int) -> Seen:
    return Seen(
        at_s=(_at_us(one) - zero_us) / US_PER_S,
        first_s=None if one.first_us is None else (one.first_us - zero_us) / US_PER_S,
        end_s=(one.ended_us - zero_us) / US_PER_S,
        prompt_tok=one.prefill_tok + one.cached_tok,
        output_tok=one.output_tok,
        cached_tok=one.cached_tok,
        company=not since_us <= one.arrived_us < until_us or not _good(one),
    )


def _most_at_once(works: Sequence[Ran]) -> int:
    moments = sorted(
        [(_at_us(one), 1) for one in works] + [(one.ended_us, -1) for one in works],
        key=lambda moment: (moment[0], moment[1]),
    )
    now = most = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


def _when(at_us: int) -> str:
    return f"{dt.datetime.fromtimestamp(at_us // US_PER_S, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
