"""Fixed traces for a sweep: drawn once with a seed, so that every repeat asks the same."""

from __future__ import annotations

import random
from collections.abc import Sequence

from wattmill.twin.calibration.spec import Ask

FIT_LEVELS: tuple[tuple[str, float, int, tuple[int, int], tuple[int, int]], ...] = (
    # name, requests at once as a share of the slots (0: one alone), requests, words, tokens of answer
    ("one, short prompts", 0.0, 8, (1, 90), (3, 4)),
    ("one, long prompts", 0.0, 8, (100, 420), (3, 4)),
    ("one, long answers", 0.0, 4, (10, 300), (40, 64)),
    ("half full, answers", 0.5, 6, (10, 120), (24, 48)),
    ("full, long answers", 1.0, 8, (10, 60), (40, 64)),
    ("full, long prompts", 1.0, 8, (150, 400), (8, 16)),
    ("queueing", 2.0, 12, (30, 250), (16, 48)),
)
"""Requests alone tell what a batch of so many tokens costs, full slots what decoding together and prompts
beside answers cost; their lengths are spread evenly over each range, so that each size of batch is seen."""

CHECK_WORDS = (15, 220)  # other lengths than any of the fit's levels
CHECK_OUTPUT_TOK = (12, 56)


def closed(
    requests: int, words: tuple[int, int], output_tok: tuple[int, int], rng: random.Random
) -> list[Ask]:
    """Return requests with prompts spread evenly over `words`, in random order."""
    least, most = words
    lengths = [least + round((most - least) * (i + rng.random()) / requests) for i in range(requests)]
    rng.shuffle(lengths)
    return [Ask(length, rng.randint(*output_tok)) for length in lengths]


def open_loop(
    requests: int, per_s: float, words: tuple[int, int], output_tok: tuple[int, int], rng: random.Random
) -> list[Ask]:
    """Return a Poisson trace, stretched to the rate that is asked: a short one is seldom near its mean."""
    at_s, drawn = 0.0, []
    for _ in range(requests):
        at_s += rng.expovariate(per_s)
        drawn.append((rng.randint(*words), rng.randint(*output_tok), at_s))
    stretch = requests / per_s / at_s
    return [Ask(words, output_tok, at_s * stretch) for words, output_tok, at_s in drawn]


_WORDS: Sequence[str] = (
    *("river", "stone", "light", "cloud", "apple", "table", "green", "seven", "house", "north", "paper"),
    *("music", "ocean", "cotton", "silver", "garden", "winter", "bridge", "market", "window", "forest"),
    *("engine", "letter", "mirror", "candle", "ladder", "basket", "copper", "meadow", "harbor"),
)


def prompt(ask: Ask, seed: int) -> str:
    """Return about `ask.words` tokens of text that begins like no other."""
    rng = random.Random(f"{seed}/{ask.at_s}/{ask.words}/{ask.output_tok}")
    return " ".join([str(rng.randrange(10**6)), *rng.choices(_WORDS, k=max(1, ask.words))])
