"""The draws of one worker: what its policy is told where something is to be random."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import NamedTuple

_SEED_BITS = 53


class Dice(NamedTuple):
    """A source of draws uniform in [0, 1), and the seed that it began with."""

    seed: int
    draw: Callable[[], float]


def dice(seed: int | None, *, worker: int) -> Dice:
    """Return the dice of a worker; without a seed nobody can foresee them.

    Workers with one seed must not explore in step, so each has a part of it to itself.
    """
    own = secrets.randbits(_SEED_BITS) if seed is None else (seed * 1_000_003 + worker) % 2**_SEED_BITS
    return Dice(own, random.Random(own).random)
