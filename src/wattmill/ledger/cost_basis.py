"""What a token costs on an owned place: from what an hour costs and how many tokens an hour makes."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from wattmill.units import J_PER_KWH, NUSD_PER_USD, S_PER_H, TOK_PER_MTOK

Number = Decimal | int | float | str


def owned_rates(
    *,
    hourly_usd: Number,
    power_w: Number,
    tariff_usd_per_kwh: Number,
    prefill_tok_per_s: Number,
    decode_tok_per_s: Number,
    utilization: Number,
    cached_share: Number,
    idle_w: Number = 0,
) -> tuple[int | None, ...]:
    """Return the cost rates of an owned place by token class, in nano-dollars per million tokens.

    The hours in which the place works, a share `utilization` of all, pay for the idle ones too:

        usd per working hour = (hourly_usd + (1 - utilization) x idle_w / 1000 x tariff) / utilization
                               + power_w / 1000 x tariff
        input rate  = usd per working hour x 1e6 / (3600 x prefill_tok_per_s)
        output rate = usd per working hour x 1e6 / (3600 x decode_tok_per_s)
        cached input rate = input rate x cached_share

    A working second makes `prefill_tok_per_s` prompt tokens or `decode_tok_per_s` output tokens, of the whole
    place with its usual batch. Writing the prefix cache costs nothing beyond computing (cache write = input),
    reasoning tokens are output tokens, audio has no rate. Exact, then rounded half to even once per class.
    All declared: `hourly_usd` is depreciation or rent without energy, in dollars; powers are watts >= 0.
    """
    hourly, power, tariff, idle = (
        _at_least_zero(name, value)
        for name, value in (
            ("hourly_usd", hourly_usd),
            ("power_w", power_w),
            ("tariff_usd_per_kwh", tariff_usd_per_kwh),
            ("idle_w", idle_w),
        )
    )
    busy = _share("utilization", utilization)
    if busy == 0:
        raise ValueError(
            "utilization is 0, must be above 0 and at most 1: idle hours need working ones that pay"
        )
    usd_per_w = tariff * S_PER_H / J_PER_KWH  # of a watt for an hour
    working_usd = (hourly + (1 - busy) * idle * usd_per_w) / busy + power * usd_per_w
    input_rate = working_usd * TOK_PER_MTOK / (S_PER_H * _above_zero("prefill_tok_per_s", prefill_tok_per_s))
    output_rate = working_usd * TOK_PER_MTOK / (S_PER_H * _above_zero("decode_tok_per_s", decode_tok_per_s))
    cached = round(input_rate * _share("cached_share", cached_share) * NUSD_PER_USD)
    computed, made = round(input_rate * NUSD_PER_USD), round(output_rate * NUSD_PER_USD)
    return (computed, cached, computed, None, made, made, None)


def _exact(name: str, value: Number) -> Fraction:
    try:
        # A float is taken as it is written: a declared 0.1 means one tenth.
        return Fraction(str(value))
    except ValueError:
        raise ValueError(f"{name} is {value!r}, must be a finite number") from None


def _at_least_zero(name: str, value: Number) -> Fraction:
    exact = _exact(name, value)
    if exact < 0:
        raise ValueError(f"{name} is {value}, must be >= 0")
    return exact


def _above_zero(name: str, value: Number) -> Fraction:
    exact = _exact(name, value)
    if exact <= 0:
        raise ValueError(f"{name} is {value}, must be > 0")
    return exact


def _share(name: str, value: Number) -> Fraction:
    exact = _exact(name, value)
    if not 0 <= exact <= 1:
        raise ValueError(f"{name} is {value}, must be 0 to 1")
    return exact
