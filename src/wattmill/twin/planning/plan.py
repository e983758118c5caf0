"""A plan: what to buy, what a token costs there, what binds, and how near to the best it is proven to be.

Every figure is modelled unless it says otherwise; what went in as declared stands beside it with its source.
"""

from __future__ import annotations

import msgspec

from wattmill.twin.planning.splits import Split
from wattmill.twin.prediction import Class, Interval


class Purchase(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes of one offer."""

    offer: str
    accelerator: str
    nodes: int
    racks: int  # begun ones count
    gpus: int
    working_gpus: int
    spare_nodes: int
    training_nodes: int
    provisioned_mw: float  # at our meter; 0 where rented
    fixed_usd_per_year: float
    fixed_usd_per_gpu_h: float
    energy_inside_usd_per_gpu_h: float | None  # taken out of an all-in rate
    drawn_usd_per_gpu_h: float  # energy at the site's price, in its place


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas that are alike."""

    offer: str
    model: str
    engine: str
    precision: str
    tp: int
    ep: int  # devices over which whole experts are spread
    pp: int  # pipeline stages
    attn_dp: int  # groups of `tp` that hold different sequences
    replicas: int
    batch: int
    bound_by: str  # what keeps the batch from being larger
    instead: str  # the split that came next, and what holds it back
    tiers: dict[str, float]  # mean requests per second
    klass: Class
    nearest: str | None
    beyond: str  # which quantities leave what was measured, and how far; "": none does
    widened: str  # what that does to the interval of the time per token
    kv_tokens: int  # of a replica, where it decodes
    prefill: str = ""  # prompts apart: replicas of a unit that compute them, `2 x TP4`; "": each does both
    drafted_tok: int = 0  # for each request in each step; 0: no speculation
    decode_replicas: int = 1  # of such a unit; `tp` to `attn_dp` are theirs, and `replicas` counts units

    @property
    def split(self) -> str:
        """Return it as people write it: `TP4 DP2 EP8`, or `2 x TP4 to 1 x TP8` where prompts are apart."""
        own = str(Split(self.tp, self.ep, self.pp, self.attn_dp))
        found = f"{self.prefill} to {self.decode_replicas} x {own}" if self.prefill else own
        return f"{found}, {self.drafted_tok} drafted" if self.drafted_tok else found


class TierAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a tier gets and costs. Dollars, joules and grams carry its share of spares, room and idle time."""

    tier: str
    requests_per_s: float  # mean
    input_tok: float
    output_tok: float
    output_tok_per_s: float  # mean
    tok_per_s_per_user: Interval
    ttft_s: Interval
    price_usd_per_mtok_output: float  # all that a request brings, on its output tokens
    cost_usd_per_year: float
    revenue_usd_per_year: float
    usd_per_mtok_output: float
    usd_per_mtok_both: float  # input + output tokens
    marginal_usd_per_mtok_output: float  # what one more costs, what it displaces included
    j_per_output_tok: float | None  # drawn at the meter; None: part of it is served elsewhere, or nothing is
    j_per_tok_both: float | None
    g_per_mtok_output: float | None

    @property
    def margin_usd_per_year(self) -> float:
        return self.revenue_usd_per_year - self.cost_usd_per_year


class TaskAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one task of a tier takes. With long thinking: the claimed multiple and its interval."""

    tier: str
    times: float  # output tokens over those of an answer without thinking
    times_low: float
    times_high: float
    output_tok: float
    usd_per_task: float
    usd_low: float
    usd_high: float
    j_per_task: float | None
    provisioned_mw: float  # the tier's part of our power
    mw_share: float


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """A limit, how far it is used, and what one more unit of it would be worth in the relaxation."""

    limit: str
    unit: str
    used: float
    allowed: float
    worth_usd_per_year: float
    binds: bool


class JobAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What training takes of the same power."""

    job: str
    law: str
    flop: float
    flop_low: float
    flop_high: float
    nodes: int
    mw: float  # provisioned while it runs
    usd_per_run: float
    usd_low: float
    usd_high: float
    usd_per_task: float | None
    j_per_run: float | None  # None: it runs elsewhere, where nobody reads a meter for us
    done: bool


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """How near to the best plan this one is proven to be."""

    objective_usd_per_year: float
    bound_usd_per_year: float
    gap: float
    relaxed_usd_per_year: float
    solve_s: float
    columns: int


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The factory as a whole."""

    requests_per_s: float
    peak_requests_per_s: float
    peak_to_mean: float
    utilisation_peak: float  # of the capacity that is bought and at work
    utilisation_mean: float
    output_tok_per_s: float
    both_tok_per_s: float
    provisioned_mw: float
    drawn_mw: float  # mean
    output_tok_per_s_per_mw: float  # of provisioned power, what is rented elsewhere on neither side
    both_tok_per_s_per_mw: float
    fixed_usd_per_year: float
    energy_usd_per_year: float
    revenue_usd_per_year: float
    jobs_usd_per_year: float  # what training brings
    tonnes_co2_per_year: float | None

    @property
    def cost_usd_per_year(self) -> float:
        return self.fixed_usd_per_year + self.energy_usd_per_year

    @property
    def margin_usd_per_year(self) -> float:
        return self.revenue_usd_per_year + self.jobs_usd_per_year - self.cost_usd_per_year


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one demand file."""

    name: str
    goal: str
    how: str  # where the demand's figures come from
    purchases: tuple[Purchase, ...]
    pools: tuple[Pool, ...]
    tiers: tuple[TierAnswer, ...]
    tasks: tuple[TaskAnswer, ...]
    binding: tuple[Binding, ...]
    jobs: tuple[JobAnswer, ...]
    totals: Totals
    proof: Proof
    left: dict[str, str]  # configurations that were left out, and why
    notes: tuple[str, ...]
