"""Fixed traces for a sweep: drawn once with a seed, so that every repeat asks the same."""

from __future__ import annotations

import random
from collections.abc import Sequence

from wattmill.twin.calibration.spec import Ask

FIT_LEVELS: tuple[tuple[str, int, int, tuple[int, int], tuple[int, int]], ...] = (
    # name, concurrency, requests, words, tokens of answer
    ("one, long answers", 1, 4, (10, 40), (48, 64)),
    ("one, long prompts", 1, 4, (250, 450), (4, 8)),
    ("two", 2, 6, (20, 200), (24, 48)),
    ("full, long answers", 4, 12, (10, 60), (40, 64)),
    ("full, long prompts", 4, 10, (150, 400), (8, 16)),
    ("queueing", 8, 16, (30, 250), (16, 48)),
)

CHECK_WORDS = (15, 220)  # other lengths than any of the fit's levels
CHECK_OUTPUT_TOK = (12, 56)


def closed(
    requests: int, words: tuple[int, int], output_tok: tuple[int, int], rng: random.Random
) -> list[Ask]:
    return [Ask(rng.randint(*words), rng.randint(*output_tok)) for _ in range(requests)]


def open_loop(
    requests: int, per_s: float, words: tuple[int, int], output_tok: tuple[int, int], rng: random.Random
) -> list[Ask]:
    """Return a Poisson trace."""
    at_s, asks = 0.0, []
    for _ in range(requests):
        at_s += rng.expovariate(per_s)
        asks.append(Ask(rng.randint(*words), rng.randint(*output_tok), at_s))
    return asks


_WORDS: Sequence[str] = (
    *("river", "stone", "light", "cloud", "apple", "table", "green", "seven", "house", "north", "paper"),
    *("music", "ocean", "cotton", "silver", "garden", "winter", "bridge", "market", "window", "forest"),
    *("engine", "letter", "mirror", "candle", "ladder", "basket", "copper", "meadow", "harbor"),
)


def prompt(ask: Ask, seed: int) -> str:
    """Return about `ask.words` tokens of text that begins like no other."""
    rng = random.Random(f"{seed}/{ask.at_s}/{ask.words}/{ask.output_tok}")
    return " ".join([str(rng.randrange(10**6)), *rng.choices(_WORDS, k=max(1, ask.words))])
