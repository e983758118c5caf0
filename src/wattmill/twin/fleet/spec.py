"""What a simulated factory is made of: pools of replicas under a law, and clients who ask them.

Whatever a figure is taken from stands beside it (`Origin`). Times are whole picoseconds where events are
ordered by them, seconds where people declare them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from wattmill.scheduling.scaling.spec import ScalingRules
from wattmill.twin.engine.spec import ONE, EngineLimits, StepCost, tokens_per_step
from wattmill.twin.spec import StepLaw
from wattmill.vocab.caller import Caller
from wattmill.vocab.usage import Provenance


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where the figures of a law come from, and how far off it was where that was looked at."""

    provenance: Provenance
    source: str
    error: float | None = None  # median relative error on measurements that were held out; None: not known


class EngineLaw(msgspec.Struct, frozen=True, kw_only=True):
    """An owned replica as the compiled core plays it: a deployment's step-time law, lowered. It draws the
    watts of its table by the sequences in each step, where it has one."""

    cost: StepCost
    limits: EngineLimits


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens drafted for each request in each step, and how often one is accepted, in parts of `CERTAIN`."""

    drafted: int
    accept: int
    draws: bool  # false: every step gives what is expected

    @property
    def tokens_per_step(self) -> float:
        """What a step gives one request in the mean: 1 + a + ... + a^drafted."""
        return tokens_per_step(drafted=self.drafted, accept=self.accept) / ONE


class Disaggregation(msgspec.Struct, frozen=True, kw_only=True):
    """`prefill` replicas of a pool compute prompts and hand over to the others, by link.

    With `scaling` both kinds scale apart: prefill replicas by these rules and what is at them, the others by
    the pool's. Without, the pool's rules say how many there are of both together, and `prefill_of` how many
    of them compute prompts.
    """

    prefill: int
    handover_ps: int  # of one, whatever its size
    handover_ps_per_tok: int  # of the prompt: its KV bytes / the link's bytes per second
    kv_bytes_per_tok: float
    shared_link: bool
    scaling: ScalingRules | None = None

    def prefill_of(self, replicas: int, declared: int) -> int:
        """Return how many of `replicas` compute prompts if `prefill` of `declared` do: the same part, rounded
        half up, at least one of each kind. Hand check: 1 of 3, so 2 of 5 (1.67) and 3 of 8 (2.67)."""
        return max(1, min(replicas - 1, (2 * replicas * self.prefill + declared) // (2 * declared)))


class ProviderLaw(msgspec.Struct, frozen=True, kw_only=True):
    """A bought place: each request runs by itself at a speed that our load does not change, within limits.

    Time to the first token is `overhead_s + input / prefill_tok_per_s`, per token `1 / decode_tok_per_s`,
    each times a factor drawn for the request: log-normal with median 1 and standard deviation `spread` of its
    logarithm. Beyond a limit the provider answers 429 with the time until it would have had room.
    """

    prefill_tok_per_s: float
    decode_tok_per_s: float
    overhead_s: float = 0.0
    spread: float = 0.0
    requests_per_min: int | None = None
    tokens_per_min: int | None = None  # prompt and asked maximum together, as providers count
    concurrent: int | None = None


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """Watts of one replica: `idle_w` while it is on, `busy_w` while a step runs. Or joules of tokens."""

    origin: Origin
    idle_w: float = 0.0
    busy_w: float = 0.0
    by_batch: bool = False  # in place of `busy_w`: what the engine's own law says of each step
    j_per_out_tok: float = 0.0
    j_per_in_tok: float = 0.0  # of a computed prompt token
    g_per_kwh: float | None = None


class Hours(msgspec.Struct, frozen=True, kw_only=True):
    """What an owned replica costs by the hour, whether it works or not."""

    nusd_per_h: int
    nusd_per_kwh: int


class ColdStart(msgspec.Struct, frozen=True, kw_only=True):
    """How long a new replica takes until it serves, part by part (`model.cold_start_s`)."""

    provisioning_s: float = 0.0  # until a machine is there
    image_bytes: float = 0.0
    image_bytes_per_s: float = 1e9
    weight_bytes: float = 0.0
    storage_bytes_per_s: float = 1e9
    compile_s: float = 0.0  # kernels and captured graphs
    warm_up_s: float = 0.0  # first requests, caches


class Outages(msgspec.Struct, frozen=True, kw_only=True):
    """When replicas are down: at declared times, and by chance with exponential times between and after."""

    spans_s: tuple[tuple[float, float], ...] = ()  # of the whole pool: from, until
    mtbf_s: float | None = None  # of one replica, from repair to failure, in the mean
    mttr_s: float = 600.0


class SimPool(msgspec.Struct, frozen=True, kw_only=True):
    """How one declared pool behaves in the twin. `slots` of the declaration are those of one replica."""

    name: str
    law: StepLaw | EngineLaw | ProviderLaw
    origin: Origin
    owned: bool
    scheduler: Literal["vllm", "sglang", "trtllm", "llamacpp"] = "vllm"  # whose rules its engine goes by
    slots: int  # of one replica
    replicas: int = 1
    overhead_s: float = 0.0  # network, on the way to an owned place
    disaggregation: Disaggregation | None = None  # likewise
    speculation: Speculation | None = None  # of an owned engine; the compiled core plays it
    power: Power | None = None
    hours: Hours | None = None
    cold_start: ColdStart = ColdStart()
    outages: Outages = Outages()
    scaling: ScalingRules | None = None


class Counts(NamedTuple):
    """What a pool's compiled engines have counted besides tokens."""

    draws: int = 0  # steps of one request each whose tokens were drawn
    drawn_tok: int = 0
    void_tok: int = 0  # given to readers of answers that broke off
    void_uj: int = 0  # of requests and of steps that broke off, where the engine's law says joules
    handed: int = 0  # hand-overs from prefill to decode replicas
    handed_tok: int = 0  # prompt tokens whose memory went over
    link_busy_ps: int = 0
    link_wait_ps: int = 0  # that hand-overs waited for their turn


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and how: one stream of the demand."""

    name: str
    caller: Caller
    model: str
    pool: str | None = None  # asked for by name
    stream: bool = True
    privacy: str | None = None  # beyond the caller's own class
    tier: str | None = None  # a lower one than the key's
    tries: int = 1  # how often a client comes back in all that was told when to


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One request of the demand. `output_tok` is what the engine will say: no policy may look at it."""

    at_us: int
    client: int  # index
    input_tok: int
    output_tok: int
    max_output_tok: int
    blocks: tuple[int, ...] = ()  # of the prompt; equal ids, equal prefix
    session: int = -1  # whose next turn follows this one's end
