"""Nothing is lost and nothing made up: tokens, blocks of memory, joules. Cheap sums, checked on every run."""

from __future__ import annotations

import numpy as np

from wattmill.twin.engine import layout as c
from wattmill.twin.engine.layout import State


def check_conserved(s: State, *, whole_trace: bool = True) -> None:
    """Raise `AssertionError` where a finished run broke a law. All requests must have come to their end.

    `whole_trace`: the rows are the requests, each once; false where rows are used again and again.
    """
    every, req = s.rep, s.req
    rep = every[: len(s.load)]  # what follows are lanes of pipelines
    unit = np.maximum(s.law[:, c.PREFIX] // s.law[:, c.BLOCK], 1)
    _law(int(s.load.sum()) == 0, "requests are in flight after the last end")
    _law(not every[:, [c.RUNNING, c.DECODING, c.CTX, c.HEAPED]].any(), "a replica runs what is gone")
    _law(bool((every[:, c.BOUNDARY] == c.NEVER).all()), "a step or a batch never ended")
    _law(not s.residue.any(), "memory grows for requests that are gone")
    _law(not rep[:, c.USED].any(), "blocks are held by nobody")
    _law(bool((rep[:, c.NODES] == rep[:, c.IDLE_NODES]).all()), "a prefix is in use by nobody")
    _law(bool((rep[:, c.NODES] * unit <= s.law[:, c.KV]).all()), "the prefix tree outgrew the memory")
    _law(
        bool((rep[:, c.TAKEN] == rep[:, c.ENDED] + rep[:, c.PASSED] + rep[:, c.DROPPED]).all()),
        "what a replica took is not what it ended, handed over or dropped",
    )
    total = rep.sum(axis=0)
    outputs, wanted, joules = (int(total[i]) for i in (c.ENDED_OUT, c.ENDED_TOK, c.ENDED_UJ))
    if whole_trace:
        gone = req[:, c.STATE] == c.GONE
        never = ~gone & (req[:, c.STATE] != c.GIVEN_UP)
        _law(not never.any(), f"{int(never.sum())} requests never ended")
        ended = req if gone.all() else req[gone]
        _law(outputs == int(ended[:, c.OUTPUT].sum()), "an answer ended twice, or never")
        prompts = int((ended[:, c.INPUT] + ended[:, c.OUTPUT] - 1).sum())
        _law(wanted == prompts, "a prompt ended twice, or never")
        _law(joules == int(req[:, c.JOULES].sum()), "a request was given joules after its end")
    _law(not whole_trace or int(s.common[c.DUE]) == 0, "memory is on a link after the last end")
    _law(
        int(total[c.GIVEN_OUT]) == outputs + int(total[c.UNDONE]),
        "tokens given are not the tokens of the answers",
    )
    computed = int(total[c.COMPUTED] + total[c.REUSED] + total[c.GIVEN_OUT] - total[c.COMPLETED])
    _law(computed == wanted + int(total[c.LOST]), "tokens computed and reused are not those wanted and lost")
    _law(
        int(total[c.ENERGY]) == int(total[c.SPARE]) + joules + int(total[c.VOID_UJ]),
        "joules of the steps are not those of the requests",
    )


def _law(holds: bool, broken: str) -> None:
    if not holds:
        raise AssertionError(f"the engine's simulation broke a law: {broken}")
