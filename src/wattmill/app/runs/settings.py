"""What is declared of runs, and of what happens to one that runs away."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from wattmill.agents.runaway.spec import Action, Rules


class RunSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runs: spenders that a key opens for itself on the data port (`POST /v1/runs`)."""

    max_open: Annotated[int, Meta(ge=0, description="Runs that one key may have open at once.")] = 1_000
    max_depth: Annotated[int, Meta(ge=1, le=1_000, description="Levels of agents and runs below a key.")] = 16
    expires_h: Annotated[
        float, Meta(gt=0, le=8_784, description="When a run ends that names no end itself, in hours.")
    ] = 24.0


class RunawaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done about calls that look like those of an agent that got lost, by what they look like.

    `off`: not looked at. `warn`: a header and a line in `wattmill explain`. `slow`: the call waits first.
    `pause`: the run waits for a person; a conversation outside of runs, for pause_s. `stop`: the run ends."""

    near_identical: Annotated[Action, Meta(description="The same call again and again, at once.")] = "warn"
    context_growth: Annotated[Action, Meta(description="Ever longer prompts, at once.")] = "warn"
    fan_out: Annotated[Action, Meta(description="Sub-runs that open sub-runs.")] = "warn"
    retry_storm: Annotated[Action, Meta(description="A failed call repeated without waiting.")] = "warn"
    slow_s: Annotated[float, Meta(gt=0, le=60, description="How long a slowed call waits, in seconds.")] = 2.0
    pause_s: Annotated[
        float,
        Meta(gt=0, le=86_400, description="How long a conversation outside of runs is refused, in seconds."),
    ] = 60.0
    rules: Annotated[Rules, Meta(description="From where on a pattern is a runaway's.")] = Rules()

    @property
    def looks(self) -> bool:
        """Whether any call has to be looked at."""
        return not self.near_identical == self.context_growth == self.retry_storm == "off"

    def action(self, kind: str) -> Action:
        action: Action = getattr(self, kind)
        return action
