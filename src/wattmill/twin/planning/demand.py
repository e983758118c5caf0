"""What is wanted: a demand file, decoded once into frozen values.

Each field carries its unit in its name, its rule and its description; the reference page is made from here.
Money in a plan is an estimate and a float; what is booked is another matter.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.twin.planning.given import Given
from wattmill.twin.planning.jobs import Job
from wattmill.twin.planning.load import Load
from wattmill.twin.planning.supply import Api, Candidate, Rental
from wattmill.twin.prediction import Speculation

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.-]{0,47}$")]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Site(_Section, frozen=True, kw_only=True):
    """Where the factory stands, and what it takes from the grid."""

    name: Annotated[str, Meta(min_length=1, description="What people call it.")]
    file: Annotated[
        str | None,
        Meta(
            description="A site's file, as for `wattmill site year`, meant from this file's folder. Its year "
            "gives what is not declared here: PUE, price, carbon, and `limits.power_mw`."
        ),
    ] = None
    pue: Annotated[
        Given | None,
        Meta(
            description="Watts at the utility meter for one watt of IT, mean of a year. For `it_kw_per_gpu`, "
            "and for what an accelerator draws below its rating; an all-in figure has it inside."
        ),
    ] = None
    peak_pue: Annotated[
        Given | None,
        Meta(
            description="The same at the site's highest hour: what a kW of `it_kw_per_gpu` is provisioned "
            "with. Absent: `pue`."
        ),
    ] = None
    usd_per_mwh: Annotated[
        Given | None, Meta(description="Price of electricity at the meter, dollars per MWh.")
    ] = None
    g_per_kwh: Annotated[Given | None, Meta(description="Carbon intensity, grams of CO2e per kWh.")] = None

    @property
    def overhead(self) -> Given:
        """Return the PUE of a year."""
        assert self.pue is not None, "checked when the file was read"
        return self.pue

    @property
    def electricity(self) -> Given:
        """Return dollars per MWh at the meter."""
        assert self.usd_per_mwh is not None, "checked when the file was read"
        return self.usd_per_mwh


class Limits(_Section, frozen=True, kw_only=True):
    """What the plan must stay within. Absent: no limit."""

    power_mw: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="MW at the utility meter, filled by what is provisioned and not by what is drawn."),
    ] = None
    usd_per_year: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="Cost of a year: capital or rent, and energy.")
    ] = None
    tonnes_co2_per_year: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="Tonnes of CO2e of the drawn energy of a year.")
    ] = None


class Drafting(_Section, frozen=True, kw_only=True):
    """Speculation: a step verifies drafted tokens of each request, and gives 1 + a + a^2 + ... of them.

    What drafting itself takes is left out. No measured row says that it ran with any, so what the law says
    of it is extrapolated."""

    drafted_tok: Annotated[
        int, Meta(ge=1, le=64, description="Tokens drafted for each request in each step.")
    ]
    acceptance: Annotated[
        float, Meta(gt=0, le=1, description="Probability that one is accepted, if those before it were.")
    ]
    source: Annotated[str, Meta(min_length=1, description="Where the acceptance comes from, with a date.")]

    @property
    def asked(self) -> Speculation:
        """Return it as the law is asked."""
        return Speculation(drafted=self.drafted_tok, acceptance=self.acceptance)


class Model(_Section, frozen=True, kw_only=True):
    """A model that is to be served."""

    name: Annotated[str, Meta(min_length=1, description="Its serving name, as in the catalogue of models.")]
    precisions: Annotated[
        tuple[Literal["bf16", "fp8", "fp4"], ...],
        Meta(
            min_length=1, description="Widths of weights that its owner accepts. Quality is the owner's word."
        ),
    ] = ("fp8",)
    kv: Annotated[Literal["bf16", "fp8"], Meta(description="Width of the cache.")] = "fp8"
    speculation: Annotated[
        Drafting | None,
        Meta(description="Tokens may be drafted and verified: each split is looked at with it and without."),
    ] = None


class Tier(_Section, frozen=True, kw_only=True):
    """What is sold under one name: a promise and a price."""

    model: Annotated[str | None, Meta(description="Which of `models`; may be left out if there is one.")] = (
        None
    )
    share: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="Part of all requests. Shares sum to 1; with users they follow from those."),
    ] = None
    users: Annotated[Annotated[float, Meta(gt=0)] | None, Meta(description="People who have this tier.")] = (
        None
    )
    requests_per_user_day: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="Requests of one of them in a mean day.")
    ] = None
    tok_per_s_per_user: Annotated[
        float, Meta(gt=0, description="Promise: output tokens per second of one stream, 1 / TPOT.")
    ]
    ttft_s: Annotated[float, Meta(gt=0, description="Promise: mean seconds to the first token.")]
    usd_per_mtok_input: Annotated[
        float, Meta(ge=0, description="Price, dollars per million input tokens.")
    ] = 0.0
    usd_per_mtok_output: Annotated[float, Meta(ge=0, description="Price, dollars per million output tokens.")]
    input_tok: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="Mean input tokens, if not as in `load`.")
    ] = None
    output_tok: Annotated[
        Annotated[float, Meta(gt=1)] | None, Meta(description="Mean output tokens, if not as in `load`.")
    ] = None
    thinking_x: Annotated[
        Given | None,
        Meta(description="Long thinking: so many times its output tokens in a task. A claim, with interval."),
    ] = None


class Availability(_Section, frozen=True, kw_only=True):
    """How often enough nodes must be up, and how often they are not. Failures are taken as independent."""

    target: Annotated[
        float, Meta(gt=0, lt=1, description="Share of the time in which enough nodes are up for the peak.")
    ]
    failures_per_gpu_year: Annotated[Given, Meta(description="Interruptions per accelerator and year.")]
    repair_h: Annotated[Given, Meta(description="Hours until a failed node serves again.")]


class Demand(_Section, frozen=True, kw_only=True):
    """A demand file: what is wanted, within which limits, from which candidates."""

    name: Annotated[str, Meta(min_length=1, description="What people call it.")]
    goal: Annotated[
        Literal["margin", "cost"],
        Meta(description="Most margin in a year, or least cost for a demand that is given."),
    ]
    site: Annotated[Site, Meta(description="The place and its energy.")]
    limits: Annotated[Limits, Meta(description="What the plan must stay within.")] = Limits()
    load: Annotated[Load, Meta(description="How much is asked, and how long prompts and answers are.")]
    models: Annotated[dict[Name, Model], Meta(min_length=1, description="What is served.")]
    tiers: Annotated[dict[Name, Tier], Meta(min_length=1, description="What is promised, and for how much.")]
    candidates: Annotated[dict[Name, Candidate], Meta(min_length=1, description="What could be bought.")]
    availability: Annotated[Availability, Meta(description="Spares: N + k.")]
    jobs: Annotated[dict[Name, Job], Meta(description="Training that takes part of the same power.")] = {}
    rentals: Annotated[dict[Name, Rental], Meta(description="Rents to compare owning with.")] = {}
    apis: Annotated[dict[Name, Api], Meta(description="Where tokens could be bought instead.")] = {}
    law: Annotated[
        Literal["expected", "slow end"],
        Meta(description="Which figures of the step-time law have to keep the promises."),
    ] = "expected"
    draws: Annotated[int, Meta(ge=100, le=1_000_000, description="Draws of the Monte-Carlo.")] = 2_000
    seed: Annotated[int, Meta(ge=0, description="Seed of the Monte-Carlo.")] = 1
