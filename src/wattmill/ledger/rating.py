"""Money for tokens: the one rule that the gateway tells, the books say and the audit proves.

Per token class `(tokens * rate + 500_000) // 1_000_000`, that is nano-dollars per million tokens rounded
half up once per class; then the sum over classes, plus the price's fixed part per attempt.
"""

from __future__ import annotations

from functools import lru_cache

from wattmill.units import TOK_PER_MTOK
from wattmill.vocab.price import Price
from wattmill.vocab.usage import INPUT_CLASSES, TOKEN_CLASSES, Usage

_HALF = TOK_PER_MTOK // 2
_INPUTS = len(INPUT_CLASSES)

UNBOUNDED_TOK = 2**53
"""What `output_affordable` returns where output is free."""


class Unpriced(LookupError):
    """Tokens of a class that this price has no rate for. It is never free."""


def rate(price: Price, usage: Usage) -> int:
    """Return nano-dollars for `usage`. Raises `Unpriced` when a used class has no rate."""
    rates = price.rates_nusd_per_mtok
    total = price.request_nusd
    try:
        if (
            usage.cached_tok
            or usage.cache_write_tok
            or usage.audio_in_tok
            or usage.reasoning_tok
            or usage.audio_out_tok
        ):
            for tokens, per_mtok in zip(usage.by_class(), rates, strict=True):
                if tokens:
                    total += (tokens * per_mtok + _HALF) // TOK_PER_MTOK  # type: ignore[operator]
            return total
        # The usual shape, without the tuple: this runs on the gateway's hot path.
        if usage.prompt_tok:
            total += (usage.prompt_tok * rates[0] + _HALF) // TOK_PER_MTOK  # type: ignore[operator]
        if usage.output_tok:
            total += (usage.output_tok * rates[4] + _HALF) // TOK_PER_MTOK  # type: ignore[operator]
    except TypeError:
        raise _unpriced(price, usage) from None
    return total


def worst_case_nusd(price: Price, input_tok: int, output_tok: int) -> int:
    """Return the most that `rate` can say for at most `input_tok` in and `output_tok` out, however they
    split into the priced classes. Raises `Unpriced` if a side with tokens has no priced class at all."""
    dear_in, half_in, dear_out, half_out = _dearest(price.rates_nusd_per_mtok)
    total = price.request_nusd
    if input_tok:
        if dear_in < 0:
            raise Unpriced(f"price {price.id} ({price.book}, {price.model}) has no rate for any input class")
        total += (input_tok * dear_in + half_in) // TOK_PER_MTOK
    if output_tok:
        if dear_out < 0:
            raise Unpriced(f"price {price.id} ({price.book}, {price.model}) has no rate for any output class")
        total += (output_tok * dear_out + half_out) // TOK_PER_MTOK
    return total


def output_affordable(price: Price, nusd: int, input_tok: int) -> int:
    """Return the largest number of output tokens whose worst case, with this input, is at most `nusd`.

    -1 when not even the input fits; `UNBOUNDED_TOK` where output is free.
    """
    left = nusd - worst_case_nusd(price, input_tok, 0)
    if left < 0:
        return -1
    _, _, dear_out, half_out = _dearest(price.rates_nusd_per_mtok)
    if dear_out < 0:
        return 0
    if dear_out == 0:
        return UNBOUNDED_TOK
    return max(0, ((left + 1) * TOK_PER_MTOK - 1 - half_out) // dear_out)


@lru_cache(maxsize=1024)
def _dearest(rates: tuple[int | None, ...]) -> tuple[int, int, int, int]:
    """Dearest input and output rate (-1: none), each with the most that rounding can add.

    A sum of k values rounded half up is at most their exact sum plus k halves, rounded down.
    """
    ins = [r for r in rates[:_INPUTS] if r is not None]
    outs = [r for r in rates[_INPUTS:] if r is not None]
    return (
        max(ins, default=-1),
        _HALF * max(1, sum(r > 0 for r in ins)),
        max(outs, default=-1),
        _HALF * max(1, sum(r > 0 for r in outs)),
    )


def _unpriced(price: Price, usage: Usage) -> Unpriced:
    missing = [
        f"{tokens} {name}"
        for name, tokens, per_mtok in zip(
            TOKEN_CLASSES, usage.by_class(), price.rates_nusd_per_mtok, strict=True
        )
        if tokens and per_mtok is None
    ]
    return Unpriced(
        f"price {price.id} ({price.book}, {price.model}) has no rate for {', '.join(missing)} tokens; "
        "add a rate for this class to the price book, or exclude the model from it"
    )
