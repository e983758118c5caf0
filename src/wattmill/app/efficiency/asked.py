"""A period in words, and the page of a factory's folder: what the command and the board both call."""

from __future__ import annotations

import os
from collections.abc import Mapping

from wattmill.app.declared.declaration import restored
from wattmill.app.efficiency.reading import seen
from wattmill.app.efficiency.siting import kept
from wattmill.app.efficiency.spec import Seen
from wattmill.app.home import Home
from wattmill.ledger.stores.control import Control
from wattmill.units import S_PER_DAY, seconds_from

LONGEST_S = 31 * S_PER_DAY


def seconds_of(text: str) -> float:
    """Return seconds of `30s`, `15m`, `1h` or `2d`. Raises `ValueError` with the way out."""
    found = seconds_from(text) or 0.0
    if not 0.0 < found <= LONGEST_S:
        raise ValueError(f"a period is {text!r}, must be a time such as 15m, 1h or 2d, at most 31d")
    return found


def seen_at(
    home: Home,
    *,
    since_us: int,
    until_us: int,
    control: Control | None = None,
    env: Mapping[str, str] = os.environ,
) -> Seen:
    """Return a period of the factory in `home`, with its declaration and what is known of its site."""
    if control is None and home.control_db.exists():
        with Control(home.control_db) as own:
            return seen_at(home, since_us=since_us, until_us=until_us, control=own, env=env)
    config = None if control is None else control.config()
    return seen(
        home,
        since_us=since_us,
        until_us=until_us,
        settings=None if config is None else restored(config[1]),
        overheads=kept(home.root),
        env=env,
    )
