"""What a guardrail is shown, and what it may answer.

A declared hook is a function `(Shown) -> Verdict`, or an HTTP service that is sent a `Shown` and answers a
`Verdict`, both as JSON objects with these fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Stage = Literal["input", "output"]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The texts of one request or of one answer, after declared patterns have redacted them."""

    stage: Stage
    texts: tuple[str, ...]  # every string of the request's content in its order, or the answer so far
    privacy: str  # class of the data as known by now
    team: str  # "organisation/team"
    endpoint: str
    model: str  # as asked


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a guardrail wants. Without fields: go on.

    `refuse` is the reason that the client reads. `privacy` raises the class (input only; a lower one changes
    nothing). `texts` takes the place of the texts shown, one for one.
    """

    refuse: str | None = None
    privacy: str | None = None
    texts: tuple[str, ...] | None = None


GO_ON = Verdict()
