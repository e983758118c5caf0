"""How long answers are: learned for each (model, key, size of the prompt), for each key and for each model,
declared before that.

What one key sends is seldom of one kind, and the size of a prompt often tells the kinds apart: in Azure's
recorded conversations the quarter octave of the prompt, learned as they came, explains 71 % of the variance
of the answer, in Mooncake's nothing, where it does no harm (docs/lab/policies.md).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

PRIOR = 4.0  # answers that the wider expectation counts for
KEEP = 0.98  # weight of an answer against the one after it
MOST_KEYS = 4_096
SIZES = 4  # sizes of prompts that a key has in the mean, for the bound of the table

_Key = TypeVar("_Key")


class Length(msgspec.Struct, gc=False):
    """Mean output of one choice, over about the last fifty answers. It changes with every answer."""

    weight: float
    tok: float
    told: int = 0  # to two digits; 0 until somebody asks

    def learn(self, output_tok: float) -> None:
        self.weight = weight = KEEP * self.weight + 1.0
        self.tok += (output_tok - self.tok) / weight
        self.told = 0


class Lengths:
    """Bounded tables: what was met first is forgotten first."""

    def __init__(self, *, expected_tok: int, most: int = MOST_KEYS) -> None:
        self._expected_tok = expected_tok
        self._most = most
        self._models: dict[str, Length] = {}
        self._keys: dict[tuple[str, int], Length] = {}
        self._sizes: dict[tuple[str, int, int], Length] = {}

    def __len__(self) -> int:
        return len(self._sizes) + len(self._keys) + len(self._models)

    def expected_tok(self, model: str, key: int, input_bound_tok: int) -> int | None:
        """Return the expected length of one choice to two digits, None if nothing was seen of the model."""
        # The bits of the fourth power count quarter octaves: prompts of one size differ by less than a fifth.
        known = self._sizes.get((model, key, (input_bound_tok**4).bit_length()))
        if known is None:
            known = self._keys.get((model, key)) or self._models.get(model)
            if known is None:
                return None
        if not known.told:
            known.told = two_digits(known.tok)
        return known.told

    def learn(self, model: str, key: int, input_bound_tok: int, output_tok: float) -> None:
        """Take in one finished answer. An answer that a limit cut counts as long as it was."""
        sized = model, key, (input_bound_tok**4).bit_length()
        whose = model, key
        wide, narrow, own = self._models.get(model), self._keys.get(whose), self._sizes.get(sized)
        if wide is None:
            wide = _begun(self._models, model, float(self._expected_tok), self._most)
        if narrow is None:
            narrow = _begun(self._keys, whose, wide.tok, self._most)
        if own is None:
            own = _begun(self._sizes, sized, narrow.tok, SIZES * self._most)
        own.learn(output_tok)
        narrow.learn(output_tok)
        wide.learn(output_tok)


def _begun(table: dict[_Key, Length], key: _Key, expected_tok: float, most: int) -> Length:
    if len(table) >= most:
        del table[next(iter(table))]
    table[key] = known = Length(PRIOR, expected_tok)
    return known


def two_digits(tok: float) -> int:
    """Return a whole number of tokens, at least 1, to two digits: expectations are no better than that."""
    whole = max(1, round(tok))
    if whole < 100:
        return whole
    if whole < 1_000:
        return (whole + 5) // 10 * 10
    step: int = 10 ** (len(str(whole)) - 2)
    return (whole + step // 2) // step * step
