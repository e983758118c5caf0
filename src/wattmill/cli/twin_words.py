"""A fitted engine in words."""

from __future__ import annotations

from wattmill.twin.engine.spec import StepCost


def engine_words(cost: StepCost) -> str:
    """Return what was found of an engine, for people."""
    context_us, way_ms = cost.context_ps_per_tok / 1e6, cost.overhead_ps / 1e9
    beside = f"{context_us:.1f} µs a token of context; {way_ms:.1f} ms on the way"
    if cost.piece_tok:
        sizes = [n for n in (1, 2, 4, 32, cost.piece_tok) if n < len(cost.step_ps)]
        pieces = ", ".join(f"{cost.step_ps[n] / 1e9:.1f} ms for {n}" for n in sizes)
        return f"a piece of a step takes {pieces} tokens; {beside}"
    return (
        f"step {cost.step_ps[0] / 1e9:.2f} ms + {cost.decode_ps / 1e9:.2f} ms a decoding request; prompts "
        f"{cost.prefill_ps_per_tok / 1e9:.3f} ms a token; {beside}"
    )
