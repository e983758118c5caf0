"""What a request's tier promised, how long it waited for its turn, and whether the promise was kept."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from wattmill.ledger.book import opened
from wattmill.ledger.promise import NO_PLACE, kept
from wattmill.ledger.story import Told


class TierStory(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    waited_us: int | None  # at the gate, before it was routed
    promise: str | None  # in words; None: nothing was promised, or only the journal knew
    kept: bool | None  # None: it has not ended, or there was nothing to judge


def tier_story(journal: Told, booked: Mapping[int, tuple[str, int]]) -> TierStory | None:
    """Return the tier's part of a story; None if the request had no tier.

    Args:
        booked: (tier, queued_us) of its attempts, for when the journal is gone.
    """
    if journal.refused is not None and journal.refused.tier:
        no = journal.refused
        broken = False if no.code in NO_PLACE else None
        return TierStory(name=no.tier, waited_us=no.queued_us, promise=None, kept=broken)
    first = journal.intents[0] if journal.intents else None
    if first is None or first.terms is None or not first.terms.tier:
        for name, queued_us in booked.values():
            return TierStory(name=name, waited_us=queued_us, promise=None, kept=None)
        return None
    intents = {intent.seq: intent for intent in journal.intents}
    verdicts = [kept(opened(intents[end.seq]), end).whole for end in journal.ends if end.seq in intents]
    promised = first.terms.promise_ttft_s is not None or first.terms.promise_tok_per_s is not None
    return TierStory(
        name=first.terms.tier,
        waited_us=first.queued_us,
        promise=_words(first.terms.promise_ttft_s, first.terms.promise_tok_per_s),
        kept=(True in verdicts or (None if None in verdicts else False)) if promised and verdicts else None,
    )


def _words(ttft_s: float | None, tok_per_s: float | None) -> str | None:
    parts = []
    if ttft_s is not None:
        parts.append(f"first token within {ttft_s:g} s")
    if tok_per_s is not None:
        parts.append(f"{tok_per_s:g} tok/s")
    return ", ".join(parts) or None
