"""The trails of one worker: bounded, the longest unused one is forgotten first."""

from __future__ import annotations

from collections.abc import Hashable

from wattmill.agents.runaway.policy import Trail

MAX_TRAILS = 4_096


class Watch:
    """Trails by subject (a run, or key and conversation). A trail with calls in flight lives on with them."""

    def __init__(self, most: int = MAX_TRAILS) -> None:
        self._most = most
        self._trails: dict[Hashable, Trail] = {}

    def __len__(self) -> int:
        return len(self._trails)

    def trail(self, subject: Hashable) -> Trail:
        """Return the trail of `subject`, which is the youngest from now on."""
        trails = self._trails
        trail = trails.pop(subject, None)
        if trail is None:
            trail = Trail()
            if len(trails) >= self._most:
                del trails[next(iter(trails))]
        trails[subject] = trail
        return trail

    def forget(self, subject: Hashable) -> None:
        """A run was closed, or a person said go on: begin anew."""
        self._trails.pop(subject, None)
