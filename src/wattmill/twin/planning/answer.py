"""From the programme's columns to a plan that people can read: costs, joules and grams put on tokens."""

from __future__ import annotations

from typing import NamedTuple

from wattmill.twin.planning.answer_limits import binding, job_answers, notes_on, task_answers
from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.load import Recorded
from wattmill.twin.planning.nodes import Bought, Flow, borne_usd, borne_w, flows_of
from wattmill.twin.planning.offers import energy_usd_per_j, offers
from wattmill.twin.planning.options import Choice, Left, TierAsk, beyond, choice, widened
from wattmill.twin.planning.performance import Performance, Power, slow_end
from wattmill.twin.planning.plan import (
    Plan,
    Pool,
    Proof,
    TierAnswer,
    Totals,
)
from wattmill.twin.planning.programme import Chosen, Problem, chosen, column
from wattmill.twin.planning.rivals import beaten_words, bound_by, instead
from wattmill.twin.planning.tiers import asked_of, tier_asks
from wattmill.twin.prediction import Interval
from wattmill.units import (
    G_PER_T,
    J_PER_KWH,
    S_PER_YEAR,
    TOK_PER_MTOK,
    USD_PER_MUSD,
    W_PER_MW,
)


class Answered(NamedTuple):
    """A plan with what it was made from, for those that ask further (Monte-Carlo, break-even, plots)."""

    plan: Plan
    chosen: Chosen
    choice: Choice
    flows: tuple[Flow, ...]


def answered(
    demand: Demand,
    trace: Recorded | None,
    performance: Performance,
    power: Power,
    *,
    extrapolate: bool = False,
) -> Answered:
    """Answer a demand. Raises ValueError if nothing may serve a tier, or no plan keeps the limits."""
    load = asked_of(demand, trace)
    tiers = tier_asks(demand, load)
    law = slow_end(performance) if demand.law == "slow end" else performance
    could = choice(demand, tiers, law, extrapolate=extrapolate)
    for tier in tiers:
        if not any(tier.name in option.gives for option in could.options):
            raise ValueError(f"no candidate keeps the promise of tier {tier.name!r}. {_reasons(could)}")
    problem = Problem(demand, load, tiers, offers(demand, power), could.options, power)
    done = chosen(problem)
    flows = tuple(flows_of(done))
    return Answered(_plan(done, could, flows), done, could, flows)


def _reasons(could: Choice) -> str:
    """Return why nothing was left: each reason once, with the first that it struck, those first that
    --extrapolate would lift."""
    by_why: dict[str, list[Left]] = {}
    for left in could.left:
        by_why.setdefault(left.why, []).append(left)
    told = []
    for why, struck in sorted(by_why.items(), key=lambda one: one[1][0].prediction is None):
        first, more = struck[0], len(struck) - 1
        others = "" if not more else " and one more" if more == 1 else f" and {more} more"
        told.append(f"{first.what}{others}: {why}")
        if first.prediction is not None and widened(first.prediction):
            told[-1] += f"; the 80 % interval of its time per token is {widened(first.prediction)}"
    rest = f"; and {len(told) - 4} reasons more" if len(told) > 4 else ""
    return "; ".join(told[:4]) + rest


def _plan(done: Chosen, could: Choice, flows: tuple[Flow, ...]) -> Plan:
    problem = done.problem
    demand = problem.demand
    bought = {offer.name: Bought(done, offer, flows) for offer in problem.offers}
    tiers = tuple(_tier(done, tier, flows, bought) for tier in problem.tiers)
    totals = _totals(done, bought, tiers, flows)
    return Plan(
        name=demand.name,
        goal=demand.goal,
        how=problem.asked.how,
        purchases=tuple(b.purchase() for b in bought.values() if b.nodes),
        pools=tuple(_pools(done, could, flows)),
        tiers=tiers,
        tasks=tuple(task_answers(done, tiers, flows, bought)),
        binding=tuple(binding(done, totals)),
        jobs=tuple(job_answers(done, bought)),
        totals=totals,
        proof=Proof(
            objective_usd_per_year=done.solution.objective * USD_PER_MUSD,
            bound_usd_per_year=done.solution.bound * USD_PER_MUSD,
            gap=done.solution.gap,
            relaxed_usd_per_year=done.relaxed * USD_PER_MUSD,
            solve_s=done.solution.solve_s,
            columns=len(done.solution.values),
        ),
        left={entry.what: entry.why for entry in (*could.left, *map(beaten_words, could.beaten))},
        notes=notes_on(problem, [b.offer.name for b in bought.values() if b.nodes and not b.offer.own]),
    )


def _tier(done: Chosen, tier: TierAsk, flows: tuple[Flow, ...], bought: dict[str, Bought]) -> TierAnswer:
    """Put on a tier what its flows bear of fixed cost and of power."""
    own = [flow for flow in flows if flow.tier is tier]
    per_s = sum(flow.per_s for flow in own)
    watts = sum(borne_w(flow, bought[flow.offer.name]) for flow in own)
    usd = sum(borne_usd(flow, bought[flow.offer.name], done.problem.demand) for flow in own)
    yearly = per_s * S_PER_YEAR
    output, both = yearly * tier.output_tok, yearly * (tier.output_tok + tier.input_tok)
    at = max(own, key=lambda flow: flow.per_s).option.gives[tier.name] if own else None
    carbon = done.problem.demand.site.g_per_kwh
    # What is rented draws elsewhere, where nobody reads a meter for us: then a tier's joules are not known.
    known = bool(output) and all(flow.offer.own for flow in own)
    joules = watts * S_PER_YEAR
    return TierAnswer(
        tier=tier.name,
        requests_per_s=per_s,
        input_tok=tier.input_tok,
        output_tok=tier.output_tok,
        output_tok_per_s=per_s * tier.output_tok,
        tok_per_s_per_user=_inverse(at.tpot_s) if at else Interval(value=0.0, low=0.0, high=0.0),
        ttft_s=at.ttft_s if at else Interval(value=0.0, low=0.0, high=0.0),
        price_usd_per_mtok_output=tier.usd_per_request / tier.output_tok * TOK_PER_MTOK,
        cost_usd_per_year=usd,
        revenue_usd_per_year=yearly * tier.usd_per_request,
        usd_per_mtok_output=usd / output * TOK_PER_MTOK if output else 0.0,
        usd_per_mtok_both=usd / both * TOK_PER_MTOK if both else 0.0,
        marginal_usd_per_mtok_output=_marginal(done, tier),
        j_per_output_tok=joules / output if known else None,
        j_per_tok_both=joules / both if known else None,
        g_per_mtok_output=(
            joules / output * TOK_PER_MTOK / J_PER_KWH * carbon.value if carbon and known else None
        ),
    )


def _inverse(tpot_s: Interval) -> Interval:
    return Interval(value=1.0 / tpot_s.value, low=1.0 / tpot_s.high, high=1.0 / tpot_s.low)


def _marginal(done: Chosen, tier: TierAsk) -> float:
    """Return dollars per million output tokens of one more request, by the relaxation: what its nodes and
    energy cost, and what it displaces where a limit binds."""
    usd = -done.prices[f"demand:{tier.name}"] * USD_PER_MUSD  # a year, for one request per second in the peak
    requests = S_PER_YEAR / done.problem.asked.peak_to_mean
    return usd / requests / tier.output_tok * TOK_PER_MTOK


def _totals(
    done: Chosen, bought: dict[str, Bought], tiers: tuple[TierAnswer, ...], flows: tuple[Flow, ...]
) -> Totals:
    demand, load = done.problem.demand, done.problem.asked
    per_s = sum(tier.requests_per_s for tier in tiers)
    output = sum(tier.output_tok_per_s for tier in tiers)
    both = output + sum(tier.requests_per_s * tier.input_tok for tier in tiers)
    ours = [flow for flow in flows if flow.offer.own]
    own_output = sum(flow.per_s * flow.tier.output_tok for flow in ours)
    own_both = own_output + sum(flow.per_s * flow.tier.input_tok for flow in ours)
    provisioned = sum(b.provisioned_mw for b in bought.values())
    drawn_w = sum(b.drawn_w for b in bought.values())
    working = sum(b.working_gpus for b in bought.values())
    busy = sum(flow.busy_gpus for flow in flows)
    carbon = demand.site.g_per_kwh
    brought = sum(
        job.usd_value * job.runs_per_year * done.solution.values[f"done:{name}"]
        for name, job in demand.jobs.items()
        if job.usd_value is not None
    )
    return Totals(
        requests_per_s=per_s,
        peak_requests_per_s=per_s * load.peak_to_mean,
        peak_to_mean=load.peak_to_mean,
        utilisation_peak=busy * load.peak_to_mean / working if working else 0.0,
        utilisation_mean=busy / working if working else 0.0,
        output_tok_per_s=output,
        both_tok_per_s=both,
        provisioned_mw=provisioned,
        drawn_mw=drawn_w / W_PER_MW,
        output_tok_per_s_per_mw=own_output / provisioned if provisioned else 0.0,
        both_tok_per_s_per_mw=own_both / provisioned if provisioned else 0.0,
        fixed_usd_per_year=sum(b.fixed_usd for b in bought.values()),
        energy_usd_per_year=drawn_w * S_PER_YEAR * energy_usd_per_j(demand),
        revenue_usd_per_year=sum(tier.revenue_usd_per_year for tier in tiers),
        jobs_usd_per_year=brought,
        tonnes_co2_per_year=drawn_w * S_PER_YEAR / J_PER_KWH * carbon.value / G_PER_T if carbon else None,
    )


def _pools(done: Chosen, could: Choice, flows: tuple[Flow, ...]) -> list[Pool]:
    out = []
    for offer, option in done.problem.pairs():
        replicas = round(done.solution.values[column("replicas", offer, option)])
        own = [flow for flow in flows if flow.offer is offer and flow.option is option]
        if not replicas or not own:
            continue
        main = max(own, key=lambda flow: flow.per_s)
        at, d = option.gives[main.tier.name], option.config.deployment
        apart, drafts = option.config.apart, option.config.speculation
        out.append(
            Pool(
                offer=offer.name,
                model=option.config.model,
                engine=option.config.engine,
                precision=option.config.precision,
                tp=d.tp,
                ep=d.ep,
                pp=d.pp,
                attn_dp=d.attn_dp,
                replicas=replicas,
                batch=at.batch,
                bound_by=bound_by(could, option, main.tier, done.problem.tiers),
                instead=instead(could, option, main.tier, done.problem.tiers),
                tiers={flow.tier.name: flow.per_s for flow in own},
                klass=at.klass,
                nearest=at.nearest,
                beyond="" if at.klass == "interpolated" else beyond(at.nearer),
                widened=widened(at.nearer),
                kv_tokens=option.config.kv_tokens,
                prefill="" if apart is None else apart.words,
                drafted_tok=0 if drafts is None else drafts.drafted,
                decode_replicas=1 if apart is None else apart.decode_replicas,
            )
        )
    return out
