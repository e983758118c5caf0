"""How long answers are: learned for each (model, key) and for each model, declared before that."""

from __future__ import annotations

import msgspec

PRIOR = 4.0  # answers that the wider expectation counts for
KEEP = 0.98  # weight of an answer against the one after it
MOST_KEYS = 4_096


class Length(msgspec.Struct, frozen=True, gc=False):
    """Mean output of one choice, over about the last fifty answers."""

    weight: float
    tok: float


def longer(known: Length | None, output_tok: float, expected_tok: float) -> Length:
    """Return the mean after one more answer; it began at `expected_tok`."""
    if known is None:
        known = Length(PRIOR, expected_tok)
    weight = KEEP * known.weight + 1.0
    return Length(weight, known.tok + (output_tok - known.tok) / weight)


class Lengths:
    """A bounded table: the key that was met first is forgotten first."""

    def __init__(self, *, expected_tok: int, most: int = MOST_KEYS) -> None:
        self._expected_tok = expected_tok
        self._most = most
        self._models: dict[str, Length] = {}
        self._keys: dict[tuple[str, int], Length] = {}

    def __len__(self) -> int:
        return len(self._keys) + len(self._models)

    def expected_tok(self, model: str, key: int) -> int | None:
        """Return the expected length of one choice to two digits, None if nothing was seen of the model."""
        known = self._keys.get((model, key)) or self._models.get(model)
        return None if known is None else two_digits(known.tok)

    def learn(self, model: str, key: int, output_tok: float) -> None:
        """Take in one finished answer. An answer that a limit cut counts as long as it was."""
        wide = self._models.get(model)
        whose = model, key
        narrow = self._keys.get(whose)
        if narrow is None and len(self._keys) >= self._most:
            del self._keys[next(iter(self._keys))]
        if wide is None and len(self._models) >= self._most:
            del self._models[next(iter(self._models))]
        expected_tok = self._expected_tok if wide is None else wide.tok
        self._keys[whose] = longer(narrow, output_tok, expected_tok)
        self._models[model] = longer(wide, output_tok, self._expected_tok)


def two_digits(tok: float) -> int:
    """Return a whole number of tokens, at least 1, to two digits: expectations are no better than that."""
    whole = max(1, round(tok))
    if whole < 100:
        return whole
    if whole < 1_000:
        return (whole + 5) // 10 * 10
    step: int = 10 ** (len(str(whole)) - 2)
    return (whole + step // 2) // step * step
