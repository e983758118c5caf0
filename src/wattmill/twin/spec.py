"""What the twin simulates: places with a service law, pieces of work, and what became of them.

Simulated time is a whole number of picoseconds since the first instant of the experiment (10^7 s fit into 63
bits): sums of step times are exact, so k steps jumped in one sum end at the same instant as k steps walked.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from wattmill.scheduling.spec import Pool

BLOCK_TOK = 512
"""Prompt tokens in one block of a prefix: what traces name with one hash, and what a prefix cache keeps."""


class StepLaw(msgspec.Struct, frozen=True, kw_only=True):
    """How long one step of a continuous batch takes: a sum, in whole picoseconds.

    step = step_ps + decoding x decode_ps + context tokens read x kv_ps_per_tok
         + prompt tokens x prefill_ps_per_tok + attention of these prompt tokens to those before them.

    The attention of a prompt up to its x-th token is `attention_ps_per_ktok` x x^2 / 2048 in all (each token
    takes that many picoseconds for each 1,024 tokens before it); a chunk pays the difference between its
    ends.
    """

    step_ps: int
    decode_ps: int
    kv_ps_per_tok: int = 0
    prefill_ps_per_tok: int
    attention_ps_per_ktok: int = 0
    budget_tok: int = 2_048  # tokens in one step, prompt chunks and decoding ones together
    kv_tok: int  # contexts that fit in memory; a request holds its prompt and its asked maximum
    cache_blocks: int = 0  # prefix cache, least recently used first out; 0: none


class StreamLaw(msgspec.Struct, frozen=True, kw_only=True):
    """A bought place seen from outside: each request runs by itself, at a speed that load does not change.

    `Pool.slots` is the provider's limit of concurrent requests; what comes beyond waits in our queue.
    """

    prefill_ps_per_tok: int
    decode_ps: int


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated place: what the policy is told of it (`pool`), and how it really behaves (`law`)."""

    pool: Pool
    law: StepLaw | StreamLaw
    overhead_ps: int = 0  # network and set-up, from the decision to the place


class Work(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request of a trace. `output_tok` is what the engine will produce: no policy may look at it."""

    at_us: int  # arrival, since the start of the experiment
    input_tok: int
    output_tok: int  # at least 1
    max_output_tok: int  # as asked
    privacy: str = "internal"
    blocks: tuple[int, ...] = ()  # ids of the prompt's blocks; equal ids, equal prefix


class Served(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of one piece of work that a place took. All instants are since the start."""

    work: int  # index in the trace
    place: int  # index in the factory
    at_ps: int
    begun_ps: int  # the place began to compute it
    first_ps: int  # first token
    end_ps: int
    cached_tok: int  # of the prompt, not computed again


class Broken(NamedTuple):
    """What a place had made of one piece of work when it died."""

    work: int  # index
    prompt_tok: int  # of the prompt, computed or found in the cache
    cached_tok: int  # of these
    output_tok: int
