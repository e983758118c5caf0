"""What a pool's engines did besides serving, in words: for the command line and for the board."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wattmill.units import MS_PER_S

if TYPE_CHECKING:
    from wattmill.twin.fleet.report import Drafts, Handed, PoolRow


def played_words(row: PoolRow) -> list[str]:
    """Return a sentence each of failures, hand-overs and drafted tokens, where there were any."""
    words = []
    if row.failures and row.void_tok is not None:
        joules = "" if row.void_j is None else f" and {row.void_j:,.0f} J"
        noun = "failure" if row.failures == 1 else "failures"
        words.append(f"{row.failures} {noun} took {row.void_tok:,} tokens given{joules}")
    if row.handed is not None:
        words.append(_handed(row.handed))
    if row.speculation is not None:
        words.append(_drafts(row.speculation))
    return words


def _handed(told: Handed) -> str:
    words = (
        f"prompts on {told.prefill_replicas} of its replicas: {told.hand_overs:,} hand-overs, "
        f"{told.sent_gb:,.1f} GB"
    )
    if told.mean_wait_s is None or told.link_busy is None:
        return words
    return f"{words}, {told.mean_wait_s * MS_PER_S:,.1f} ms of waiting for a link, {told.link_busy:.1%} busy"


def _drafts(told: Drafts) -> str:
    words = (
        f"{told.drafted} tokens drafted, each accepted at {told.acceptance:.0%}: {told.law_tok_per_step:.3f} "
        "tokens a step by the law"
    )
    if told.drawn_tok_per_step is None:
        return words
    return f"{words}, {told.drawn_tok_per_step:.3f} in {told.draws:,} drawn steps"
