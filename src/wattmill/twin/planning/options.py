"""Which pools could serve: (accelerator, engine, precision, split, batch), with a reason where one cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from wattmill.compute.catalogue import accelerator
from wattmill.compute.spec import Accelerator
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.performance import Curve, Performance, Reached, curve
from wattmill.twin.planning.supply import Candidate
from wattmill.units import B_PER_GB

BITS = {"bf16": 16.0, "fp8": 8.0, "fp4": 4.0}
MOST_BATCH = 512


class TierAsk(NamedTuple):
    """One tier as the planner sees it."""

    name: str
    model: str
    share: float  # of requests
    input_tok: float
    output_tok: float  # long thinking included
    tok_per_s: float
    ttft_s: float
    usd_per_request: float


class Config(NamedTuple):
    """One way to run a model: what a replica is made of."""

    candidate: str
    model: str
    engine: str
    precision: str
    deployment: Deployment
    kv_tokens: int

    @property
    def gpus(self) -> int:
        return self.deployment.gpus

    def __str__(self) -> str:
        d = self.deployment
        split = f"TP{d.tp}" + (f" EP{d.ep}" if d.ep > 1 else "")
        return f"{self.model} on {self.candidate}, {self.engine} {self.precision} {split}"


class Option(NamedTuple):
    """A configuration at the batch limit that suits one promise, and what it gives each tier there."""

    config: Config
    made_for: str  # the tier whose promise sets the batch
    gives: dict[str, Reached]  # by tier; a tier that is absent is not served: its promise would not hold

    @property
    def batch(self) -> int:
        return self.gives[self.made_for].batch

    def __str__(self) -> str:
        return f"{self.config}, at most {self.batch} at once for {self.made_for}"


class Left(NamedTuple):
    """A configuration that was left out, and why."""

    what: str
    why: str


class Choice(NamedTuple):
    """All that could be bought, with the curves that it rests on."""

    options: tuple[Option, ...]
    curves: dict[tuple[str, str], Curve]  # (configuration, tier)
    left: tuple[Left, ...]
    configs: dict[str, Config]  # every one that has a curve, also if the plan has no use for it


def choice(
    demand: Demand, tiers: tuple[TierAsk, ...], performance: Performance, *, extrapolate: bool = False
) -> Choice:
    """Return every pool that fits into memory, on whole nodes, and keeps at least one tier's promise.

    Predictions that are extrapolated or lack inputs are left out unless `extrapolate`. One batch limit for
    each promise: the throughput of a split rises with its batch until a promise breaks, so no other limit
    is better for any tier.
    """
    options: list[Option] = []
    curves: dict[tuple[str, str], Curve] = {}
    left: list[Left] = []
    configs: dict[str, Config] = {}
    for found in _configs(demand):
        if isinstance(found, Left):
            left.append(found)
            continue
        configs[str(found)] = found
        options += _served(found, tiers, performance, extrapolate, curves, left)
    kept = [option for option in options if not any(_better(other, option) for other in options)]
    return Choice(tuple(kept), curves, tuple(left), configs)


def _configs(demand: Demand) -> Iterator[Config | Left]:
    for key, candidate in demand.candidates.items():
        part = accelerator(candidate.accelerator)
        for model, wanted in demand.models.items():
            for engine in candidate.engines:
                for precision in wanted.precisions:
                    for tp in candidate.tp:
                        for ep in candidate.ep:
                            yield from _config(
                                key, candidate, part, model, wanted.name, engine, precision, wanted.kv, tp, ep
                            )


def _config(
    key: str,
    candidate: Candidate,
    part: Accelerator,
    model: str,
    serving_name: str,
    engine: str,
    precision: str,
    kv: str,
    tp: int,
    ep: int,
) -> Iterator[Config | Left]:
    sizes = architecture(serving_name)
    if ep > tp or (ep > 1 and not sizes.experts):
        return
    deployment = Deployment(
        architecture=sizes,
        accelerator=part,
        engine=engine,
        weight_bits=BITS[precision],
        kv_bits=BITS[kv],
        tp=tp,
        ep=ep,
    )
    kv_tokens = deployment.kv_tokens()
    found = Config(key, model, engine, precision, deployment, kv_tokens)
    per_node = part.gpus_per_node
    if deployment.gpus > part.scale_up_gpus:
        yield Left(str(found), f"only {part.scale_up_gpus} accelerators share a fabric")
    elif deployment.gpus % per_node and per_node % deployment.gpus:
        yield Left(str(found), f"neither divides a node of {per_node} nor fills whole ones")
    elif precision == "fp4" and part.fp4_flop_per_s is None:
        yield Left(str(found), "no unit for 4 bits")
    elif precision == "fp8" and part.fp8_flop_per_s is None:
        yield Left(str(found), "no unit for 8 bits")
    elif kv_tokens <= 0:
        need, have = deployment.weight_bytes_per_gpu / B_PER_GB, part.memory_bytes / B_PER_GB
        yield Left(str(found), f"{need:.0f} GB of weights leave no room for a cache in {have:.0f} GB")
    else:
        yield found


def _served(
    config: Config,
    tiers: tuple[TierAsk, ...],
    performance: Performance,
    extrapolate: bool,
    curves: dict[tuple[str, str], Curve],
    left: list[Left],
) -> list[Option]:
    own = [tier for tier in tiers if tier.model == config.model]
    asked: dict[tuple[float, float], Curve] = {}
    reached: dict[str, Reached] = {}
    for tier in own:
        lengths = tier.input_tok, tier.output_tok
        most = min(MOST_BATCH, int(config.kv_tokens / (tier.input_tok + tier.output_tok)))
        if lengths not in asked:
            slowest = min(t.tok_per_s for t in own if (t.input_tok, t.output_tok) == lengths)
            whole = curve(
                performance,
                config.deployment,
                input_tok=tier.input_tok,
                output_tok=tier.output_tok,
                most=most,
                slowest_tok_per_s=slowest,
            )
            asked[lengths] = whole if extrapolate else _sure(whole)
            if not asked[lengths].points:
                why = (
                    f"prediction is {whole.points[0].prediction.klass}" if whole.points else "no room for one"
                )
                left.append(Left(str(config), f"{why} (--extrapolate takes it)" if whole.points else why))
        curves[str(config), tier.name] = asked[lengths]
        at = asked[lengths].at_promise(ttft_s=tier.ttft_s, tok_per_s=tier.tok_per_s)
        if at is not None:
            reached[tier.name] = at
        elif asked[lengths].points:
            best = asked[lengths].points[0].prediction
            left.append(
                Left(
                    str(config),
                    f"{tier.name}: alone {1 / best.tpot_s.value:.0f} tok/s, first {best.ttft_s.value:.2f} s",
                )
            )
    return list(_by_batch(config, own, asked, reached))


def _sure(whole: Curve) -> Curve:
    kept = [p for p in whole.points if p.prediction.klass == "interpolated"]
    return Curve(tuple(kept), whole.output_tok)


def _by_batch(
    config: Config,
    tiers: list[TierAsk],
    curves: dict[tuple[float, float], Curve],
    reached: dict[str, Reached],
) -> Iterator[Option]:
    """Yield one option for each tier's own batch limit; a pool that is fast enough for a tier may also serve
    slower ones, at its own speed."""
    for tier in tiers:
        if tier.name not in reached:
            continue
        gives = {}
        for other in tiers:
            at = curves[other.input_tok, other.output_tok].at_promise(
                ttft_s=min(tier.ttft_s, other.ttft_s), tok_per_s=max(tier.tok_per_s, other.tok_per_s)
            )
            if at is not None and other.tok_per_s <= tier.tok_per_s and other.ttft_s >= tier.ttft_s:
                gives[other.name] = at
        yield Option(config, tier.name, gives)


def _better(other: Option, option: Option) -> bool:
    """Return whether `other` does everything that `option` does, with no more of the same accelerators.

    Its replicas must be parts of the same size or smaller, so that a replica of `option` can be replaced by
    whole ones. Ties go to the first by name.
    """
    if other is option or other.config.candidate != option.config.candidate:
        return False
    if option.config.gpus % other.config.gpus or other.config.model != option.config.model:
        return False
    if not set(option.gives) <= set(other.gives):
        return False
    ratios = [
        other.gives[tier].requests_per_s / other.config.gpus / (at.requests_per_s / option.config.gpus)
        for tier, at in option.gives.items()
    ]
    if min(ratios) < 1.0:
        return False
    return max(ratios) > 1.0 or len(other.gives) > len(option.gives) or str(other) < str(option)
