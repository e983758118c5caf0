"""How much a key has really spent: the engines' own log times the price book. No wattmill import."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Prices:
    """Whole nano-dollars per token, so that nothing has to be rounded."""

    input_nusd: int
    output_nusd: int


@dataclass(slots=True)
class Made:
    """What engines did for one tag: prompts that arrived and tokens that were about to be sent."""

    prompt_tok: dict[str, int] = field(default_factory=dict)  # by engine id
    output_tok: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    refused: set[str] = field(default_factory=set)  # answered with an error before anything was made
    arrived_us: list[int] = field(default_factory=list)  # by the engines' clock

    def spent_nusd(self, prices: Prices) -> int:
        """Return what all of it costs. A prompt that an engine turned away with an error costs nothing."""
        return sum(
            (0 if id in self.refused else prompt * prices.input_nusd)
            + self.output_tok.get(id, 0) * prices.output_nusd
            for id, prompt in self.prompt_tok.items()
        )

    @property
    def tokens(self) -> int:
        """All prompts that were read, and all that was about to be sent."""
        prompts = sum(n for id, n in self.prompt_tok.items() if id not in self.refused)
        return prompts + sum(self.output_tok.values())

    @property
    def attempts(self) -> int:
        return len(self.prompt_tok)


def read(log: Path) -> dict[str, Made]:
    """Return what was made, by the part of the tag before its first dot."""
    by_tag: dict[str, Made] = defaultdict(Made)
    of: dict[str, Made] = {}
    for line in log.read_text().splitlines():
        kind, id, *rest = line.split()
        if kind == "A":
            made = of[id] = by_tag[rest[0].partition(".")[0]]
            made.prompt_tok[id] = int(rest[1])
            made.arrived_us.append(int(rest[-1]))
        elif kind == "T":
            of[id].output_tok[id] += 1
        elif kind == "F" and rest[0].startswith("status_"):
            of[id].refused.add(id)
    return by_tag
