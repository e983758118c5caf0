"""The first gate: which tier a request has, and what that promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from wattmill.vocab.caller import PRIVACY_CLASSES, Caller
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request
from wattmill.vocab.tier import Tier

if TYPE_CHECKING:
    from wattmill.distribution.exchange import Exchange

HEADER = b"x-wattmill-tier"


def in_tier(ask: Request, tier: Tier) -> Request:
    """Return a request with all that `tier` promises. Its class may rise, never fall."""
    privacy = ask.privacy
    if tier.privacy is not None:
        privacy = max(privacy, tier.privacy, key=PRIVACY_CLASSES.index)
    return msgspec.structs.replace(
        ask,
        tier=tier.name,
        promise_ttft_s=tier.ttft_s,
        promise_tok_per_s=tier.tok_per_s,
        privacy=privacy,
    )


def probable_tok(ask: Request, bound_tok_per_tok: float) -> float:
    """Return about how many tokens a request has with its answer."""
    return ask.input_bound_tok / bound_tok_per_tok + (ask.max_output_tok or 0)


class TierGate:
    """Gives a request its key's tier, or the lower one that it asks for, with all that is promised."""

    def __init__(self, tiers: Mapping[str, Tier], *, bound_tok_per_tok: float = 4.0) -> None:
        self._tiers = tiers
        self._bound_tok_per_tok = bound_tok_per_tok

    def enter(self, x: Exchange) -> Refusal | None:
        caller = x.caller
        assert caller is not None
        tier = self._tiers.get(caller.tier)
        if tier is None:
            return Refusal(
                code="unpriced",
                message=f"key {caller.name!r} has tier {caller.tier!r}, which is not declared (there are: "
                f"{', '.join(self._tiers)}); `wattmill keys tier` gives it another",
            )
        asked = x.http.headers.get(HEADER)
        if asked is not None:
            lower = self._lower(asked, tier)
            if isinstance(lower, Refusal):
                return lower
            tier = lower
        ask = x.ask
        if tier.context_tok is not None:
            whole_tok = probable_tok(ask, self._bound_tok_per_tok)
            if whole_tok > tier.context_tok:
                return Refusal(
                    code="context_too_long",
                    message=f"the request has about {whole_tok:.0f} tokens with its answer, and tier "
                    f"{tier.name!r} promises {tier.context_tok}; shorten it, or use a key of a higher tier",
                    param="messages",
                )
        x.ask = in_tier(ask, tier)
        return None

    def for_counting(self, ask: Request, caller: Caller) -> Request:
        """Return a question for the length of a prompt, in the class that the key's tier promises."""
        tier = self._tiers.get(caller.tier)
        if tier is None or tier.privacy is None:
            return ask
        privacy = max(ask.privacy, tier.privacy, key=PRIVACY_CLASSES.index)
        return msgspec.structs.replace(ask, privacy=privacy)

    def left(self, x: Exchange) -> None:
        pass

    def _lower(self, asked: bytes, own: Tier) -> Tier | Refusal:
        name = asked.decode("latin-1").strip()[:64]
        tier = self._tiers.get(name)
        if tier is None:
            return Refusal(
                code="bad_header",
                message=f"header 'x-wattmill-tier' must be one of {', '.join(self._tiers)}, got {name!r}",
                param="x-wattmill-tier",
            )
        if tier.rank > own.rank:
            below = ", ".join(t.name for t in self._tiers.values() if t.rank <= own.rank)
            return Refusal(
                code="tier_too_high",
                message=f"header 'x-wattmill-tier' asks for {name!r}, above the key's tier {own.name!r}; it "
                f"may be one of: {below}",
                param="x-wattmill-tier",
            )
        return tier
