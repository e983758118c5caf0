"""Why a pool is as it is: what binds its batch, and which other split came next."""

from __future__ import annotations

from wattmill.twin.planning.options import Beaten, Choice, Left, Option, TierAsk


def bound_by(could: Choice, option: Option, tier: TierAsk, tiers: tuple[TierAsk, ...]) -> str:
    """Return what keeps the batch of a pool from being larger: where it is made for a faster tier than the
    one that it serves most, that tier's promise counts."""
    made_for = next(one for one in tiers if one.name == option.made_for)
    tok_per_s, ttft_s = max(tier.tok_per_s, made_for.tok_per_s), min(tier.ttft_s, made_for.ttft_s)
    at = option.gives[tier.name]
    curve = could.curves[str(option.config), tier.name]
    last = curve.points[-1].concurrency
    if at.batch >= last:
        memory = int(option.config.kv_tokens / (tier.input_tok + tier.output_tok))
        return "memory for the cache" if last >= memory else "the range that the law is sure of"
    larger = next(point.prediction for point in curve.points if point.concurrency > at.batch)
    if larger.tpot_s.value > at.tpot_s.value and 1.0 / larger.tpot_s.value < tok_per_s:
        return "the promise of tokens per second"
    if larger.ttft_s.value > ttft_s:
        return "the promise of a first token"
    return "throughput, which falls beyond"


def instead(could: Choice, option: Option, tier: TierAsk, tiers: tuple[TierAsk, ...]) -> str:
    """Return which other way to run the model on the same accelerators came next for `tier`, by how much, and
    what holds it back."""
    rivals = [
        one
        for one in (*could.options, *(beaten.option for beaten in could.beaten))
        if one.config.candidate == option.config.candidate
        and one.config.model == option.config.model
        and one.made_for == option.made_for
        and one.config != option.config
        and tier.name in one.gives
    ]
    if not rivals:
        return "no other split on these accelerators keeps the promise"
    best = max(rivals, key=lambda one: (_per_gpu(one, tier), -one.config.gpus))
    more = _per_gpu(best, tier) / _per_gpu(option, tier) - 1.0
    much = f"{abs(more):.1%} {'fewer' if more < 0 else 'more'} requests per accelerator"
    if more >= 0:
        size = best.config.gpus
        much += f", but in replicas of {size}: whole nodes and the other tiers decide"
    held = bound_by(could, best, tier, tiers)
    batch = best.gives[tier.name].batch
    return f"next best is {best.config.way}: {much}; its batch of {batch} is bound by {held}"


def beaten_words(beaten: Beaten) -> Left:
    """Return in words why an option need not be looked at."""
    option, by = beaten.option, beaten.by
    name = option.made_for
    gain = (by.gives[name].requests_per_s / by.config.gpus) / (
        option.gives[name].requests_per_s / option.config.gpus
    ) - 1.0
    return Left(
        str(option),
        f"{by.config.way} does all of it, with {gain:.1%} more requests per accelerator for {name}",
    )


def _per_gpu(option: Option, tier: TierAsk) -> float:
    return option.gives[tier.name].requests_per_s / option.config.gpus
