"""Two views of the joules in the books: marginal (what requests caused), attributional (with idle ones)."""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from typing import Literal

import msgspec

from wattmill.ledger.stores.sqlite_energy import MeterSums, meter_sums
from wattmill.units import J_PER_KWH, UJ_PER_J, US_PER_S
from wattmill.vocab.shares import largest_remainder

IdleRule = Literal["unallocated", "by_energy", "by_tokens"]


class KeyJoules(msgspec.Struct, frozen=True, kw_only=True):
    """One key's joules in a span, in microjoules. `idle_uj` is its part of idle and overhead by the declared
    rule, 0 without one."""

    key: int
    marginal_uj: int
    idle_uj: int
    tokens: int

    @property
    def attributional_uj(self) -> int:
        return self.marginal_uj + self.idle_uj


class EnergyView(msgspec.Struct, frozen=True, kw_only=True):
    """All meters of a span. What the rule leaves unallocated costs the operator `unallocated_usd`."""

    meters: tuple[MeterSums, ...]
    keys: tuple[KeyJoules, ...]
    rule: IdleRule
    shared_uj: int  # idle, the factory's own while nobody is served, conversion and cooling
    unallocated_uj: int
    unallocated_usd: Decimal  # at the declared tariff


def energy_view(
    db: sqlite3.Connection, *, since_us: int, until_us: int, rule: IdleRule, tariff_usd_per_kwh: Decimal
) -> EnergyView:
    """Return the joules of the windows, and of the attempts by whole minutes, of [since_us, until_us).

    Idle, service and overhead are shared joules. `by_energy` gives each key a part in the ratio of its own
    joules, `by_tokens` of its tokens at metered places; whole microjoules by largest remainder.
    """
    meters = tuple(meter_sums(db, since_us, until_us))
    shared = sum(one.idle_uj + one.service_uj + one.overhead_uj for one in meters)
    rows = db.execute(
        "SELECT key, sum(energy_uj), sum(tok_input + tok_cached_input + tok_cache_write + tok_audio_input + "
        "tok_output + tok_reasoning + tok_audio_output) FROM rollup_minute WHERE start_s >= ? "
        "AND start_s < ? AND energy_uj > 0 GROUP BY key ORDER BY key",
        (since_us // 60_000_000 * 60, until_us / US_PER_S),
    ).fetchall()
    weights = [0] * len(rows)
    if rule == "by_energy":
        weights = [uj for _, uj, _ in rows]
    elif rule == "by_tokens":
        weights = [tokens for _, _, tokens in rows]
    parts = largest_remainder(shared, weights) if any(weights) else [0] * len(rows)
    unallocated = shared - sum(parts)
    return EnergyView(
        meters=meters,
        keys=tuple(
            KeyJoules(key=key, marginal_uj=uj, idle_uj=part, tokens=tokens)
            for (key, uj, tokens), part in zip(rows, parts, strict=True)
        ),
        rule=rule,
        shared_uj=shared,
        unallocated_uj=unallocated,
        unallocated_usd=Decimal(unallocated) / (J_PER_KWH * UJ_PER_J) * tariff_usd_per_kwh,
    )
