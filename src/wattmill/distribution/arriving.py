"""Bodies that have begun to arrive and are not complete: the memory of a worker that they take, by sender.

One key has a share of it, so that no key keeps the others out.
"""

from __future__ import annotations

from wattmill.distribution.spec import Limits
from wattmill.vocab.refusal import Refusal


class Arriving:
    """The count of one worker, in bytes. A sender is the number of an API key."""

    def __init__(self) -> None:
        self.total = 0
        self._by_sender: dict[int, int] = {}

    def add(self, sender: int, count: int) -> None:
        """Count `count` more bytes from `sender`; fewer, when a body is complete or will never be."""
        self.total += count
        held = self._by_sender.get(sender, 0) + count
        if held:
            self._by_sender[sender] = held
        else:
            self._by_sender.pop(sender, None)

    def too_much(self, sender: int, limits: Limits) -> Refusal | None:
        """Return why `sender` may send no more now, or None. One body alone is always taken."""
        if self.total > max(limits.unfinished_bytes, limits.body_bytes):
            return Refusal(
                code="overloaded",
                message=f"the bodies that are arriving here take {limits.unfinished_bytes} bytes "
                "already (limits.unfinished_bytes)",
                retry_after_s=1.0,
            )
        share = int(limits.unfinished_bytes * limits.unfinished_share)
        if self._by_sender.get(sender, 0) > max(share, limits.body_bytes):
            return Refusal(
                code="limit_reached",
                message=f"the bodies of this API key that are arriving here take {share} bytes already "
                f"(limits.unfinished_share: {limits.unfinished_share:g} of limits.unfinished_bytes); "
                "send fewer at once",
                retry_after_s=1.0,
            )
        return None
