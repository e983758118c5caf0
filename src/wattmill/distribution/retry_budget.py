"""How much is tried again: never more than a share of what was asked. A dying fleet is not hammered.

Pure. Every further attempt of a request (failover, retry, hedge, a try at a place whose breaker is open)
takes a token from two buckets, the one of the place that it leaves and the one of the key that asks, or is
not made. A request puts `share` of a token into both. So at any time, for each place and each key:

    further attempts <= burst + share x requests + per_s x seconds
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta

_KEYS = 10_000  # buckets kept; a key that is not asking has a full one, so the others are as good as new


class RetryRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is tried again."""

    share: Annotated[
        float, Meta(ge=0, le=10, description="Further attempts per request, for each place and each key.")
    ] = 0.2
    per_s: Annotated[
        float, Meta(ge=0, description="Further attempts per second that are allowed in any case.")
    ] = 10.0
    burst: Annotated[float, Meta(ge=1, description="Further attempts that may be saved up.")] = 50.0


class Bucket:
    """One place's or one key's. A request costs one addition; the rest is done where a token is taken."""

    __slots__ = ("_at_s", "_rules", "_tokens", "refused", "requests", "taken")

    def __init__(self, rules: RetryRules) -> None:
        self._rules = rules
        self._tokens = rules.burst
        self._at_s = math.inf  # of the last look; a bucket is full before the first one
        self.requests = 0  # since a token was last looked for
        self.taken = 0  # ever
        self.refused = 0  # ever

    def has(self, now_s: float) -> bool:
        rules = self._rules
        grown = self.requests * rules.share + max(0.0, now_s - self._at_s) * rules.per_s
        self._tokens = min(rules.burst, self._tokens + grown)
        self._at_s = now_s
        self.requests = 0
        return self._tokens >= 1.0

    def take(self) -> None:
        """Take the token that `has` found."""
        self._tokens -= 1.0
        self.taken += 1


class RetryBudget:
    """The buckets of one worker."""

    __slots__ = ("_keys", "_pools", "_rules")

    def __init__(self, rules: RetryRules | None = None) -> None:
        self._rules = rules or RetryRules()
        self._pools: dict[str, Bucket] = {}
        self._keys: dict[int, Bucket] = {}

    def use(self, rules: RetryRules) -> None:
        """Go by other rules from now on; what was saved up begins anew."""
        if rules != self._rules:
            self._rules = rules
            self._pools.clear()
            self._keys.clear()

    def asked(self, pool: str, key: int) -> None:
        """A request of `key` makes its first attempt, at `pool`."""
        bucket = self._pools.get(pool)
        if bucket is None:
            bucket = self._pools[pool] = Bucket(self._rules)
        bucket.requests += 1
        bucket = self._keys.get(key)
        if bucket is None:
            if len(self._keys) >= _KEYS:
                self._keys.clear()
            bucket = self._keys[key] = Bucket(self._rules)
        bucket.requests += 1

    def take(self, pool: str, key: int, now_s: float) -> str | None:
        """Take a token of both for a further attempt after one at `pool`; or say whose there are none of:
        "pool" or "key"."""
        of_pool = self._pools.get(pool)
        if of_pool is None:
            of_pool = self._pools[pool] = Bucket(self._rules)
        of_key = self._keys.get(key)
        if of_key is None:
            of_key = self._keys[key] = Bucket(self._rules)
        if not of_pool.has(now_s):
            of_pool.refused += 1
            return "pool"
        if not of_key.has(now_s):
            of_key.refused += 1
            return "key"
        of_pool.take()
        of_key.take()
        return None
