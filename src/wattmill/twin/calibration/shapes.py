"""What is fitted of an engine: a few positive numbers, and the step cost that they make.

Two shapes. An engine that computes a step in one go has a straight line in requests and tokens. llama.cpp on
a CPU, with memory by slot, computes it in pieces (`StepCost.piece_tok`), and the cost of a piece is no line
in its tokens: one token is a product of a matrix and a vector, two and more go another way that is dearer for
few of them. There the table itself is fitted, at some numbers of tokens, straight in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wattmill.twin.engine.spec import EngineLimits, StepCost

_LEAST_PS, _MOST_PS = 1.0, 1e13


class Shape(Protocol):
    """A step cost in positive numbers, picoseconds."""

    def start(self, tpot_s: float, prefill_s_per_tok: float) -> list[float]:
        """Return a guess from the time of a token of one answer alone and that of a prompt's token."""
        ...

    def cost(self, values_ps: Sequence[float]) -> StepCost: ...


class Line:
    """A step, a request in it, a token of context, a prompt token, attention in prompts, the way there."""

    def start(self, tpot_s: float, prefill_s_per_tok: float) -> list[float]:
        return [
            tpot_s * 0.7e12, tpot_s * 0.3e12, tpot_s * 1e9,
            prefill_s_per_tok * 0.9e12, prefill_s_per_tok * 2e10, 3e9,
        ]  # fmt: skip

    def cost(self, values_ps: Sequence[float]) -> StepCost:
        step, decode, context, prefill, attention, overhead = _whole(values_ps)
        return StepCost(
            step_ps=(step,),
            decode_ps=decode,
            context_ps_per_tok=context,
            prefill_ps_per_tok=prefill,
            attention_ps_per_ktok=attention,
            overhead_ps=overhead,
        )


class Pieces:
    """A piece of 1, 2, 4 ... tokens, a token of context, attention in prompts, the way there."""

    def __init__(self, budget_tok: int) -> None:
        self.budget_tok = budget_tok
        self.knots = [n for n in (1, 2, 4, 8, 32) if n < budget_tok] + [budget_tok]

    def start(self, tpot_s: float, prefill_s_per_tok: float) -> list[float]:
        rises = [
            max((to - at) * prefill_s_per_tok * 0.9e12, tpot_s * 0.5e12 if to <= 4 else tpot_s * 1e11)
            for at, to in zip(self.knots, self.knots[1:], strict=False)
        ]
        return [tpot_s * 0.9e12, *rises, tpot_s * 1e9, prefill_s_per_tok * 2e10, 3e9]

    def cost(self, values_ps: Sequence[float]) -> StepCost:
        *rises, context, attention, overhead = _whole(values_ps)
        table, total = [1], 0
        for knot, at, rise in zip(self.knots, [0, *self.knots], rises, strict=False):
            table += [total + rise * (n - at) // (knot - at) for n in range(at + 1, knot + 1)]
            total += rise
        return StepCost(
            step_ps=tuple(max(1, entry) for entry in table),
            piece_tok=self.budget_tok,
            context_ps_per_tok=context,
            attention_ps_per_ktok=attention,
            overhead_ps=overhead,
        )


def shape_of(limits: EngineLimits) -> Shape:
    return Pieces(limits.budget_tok) if limits.scheduler == "llamacpp" else Line()


def _whole(values_ps: Sequence[float]) -> list[int]:
    return [round(min(max(float(value), _LEAST_PS), _MOST_PS)) for value in values_ps]
