"""One thing that `wattmill doctor` looked at."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["good", "note", "poor", "bad"]
"""good: as it should be. note: a fact to know. poor: works, but worse. bad: `wattmill up` cannot run."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    what: str
    value: str
    verdict: Verdict
    way_out: str = ""
