"""Which pools could serve: (accelerator, engine, precision, split, batch), with a reason where one cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from wattmill.compute.catalogue import accelerator
from wattmill.compute.spec import Accelerator
from wattmill.models.architecture import Architecture
from wattmill.models.architectures import architecture
from wattmill.models.deployment import Deployment
from wattmill.models.graphs import sizes_of
from wattmill.twin.planning.apart import Apart, for_answers, for_prompts, ratios_of
from wattmill.twin.planning.demand import Demand
from wattmill.twin.planning.offers import Offer
from wattmill.twin.planning.performance import Curve, Performance, Power, Reached, curve
from wattmill.twin.planning.splits import Split, depths, split_of, stages, taken_gpus
from wattmill.twin.planning.supply import Candidate
from wattmill.twin.prediction import Interval, Prediction, Speculation
from wattmill.units import B_PER_GB, MS_PER_S

BITS = {"bf16": 16.0, "fp8": 8.0, "fp4": 4.0}
MOST_BATCH = 512  # of one scheduler: each attention rank has one, and each batch in a pipeline
MOST_USERS = 4096  # of one replica: the law has not been asked for more


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
    deployment: Deployment  # of those that decode, where prompts are computed apart
    kv_tokens: int  # where it decodes
    gpus: int  # that a replica takes; those that it strands in its fabric count as at work, too
    apart: Apart | None = None  # prompts on replicas of their own; a replica is then a unit of both kinds
    speculation: Speculation | None = None

    @property
    def way(self) -> str:
        """Return the engine, the precision and the split: `vllm fp8 TP8 EP8`, or `vllm fp8 1 x TP4 to 2 x
        TP8` where prompts are computed apart."""
        return f"{self.engine} {self.precision} {self.split}"

    @property
    def split(self) -> str:
        found = str(split_of(self.deployment))
        if self.apart is not None:
            found = f"{self.apart.words} to {self.apart.decode_replicas} x {found}"
        return found if self.speculation is None else f"{found}, {self.speculation.drafted} drafted"

    def busy_w(self, offer: Offer, batch: float, power: Power) -> float:
        """Return the watts at the meter of one of its accelerators at work, at `batch` users. Those that
        compute prompts are taken at their rating."""
        if self.apart is None:
            return offer.busy_w(batch, power)
        prompts = self.apart.prefill_gpus / self.gpus
        each = batch / self.apart.decode_replicas
        return prompts * offer.full_w + (1.0 - prompts) * offer.busy_w(each, power)

    def __str__(self) -> str:
        return f"{self.model} on {self.candidate}, {self.way}"


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
    prediction: Prediction | None = None  # the surest, where none is sure enough


class Beaten(NamedTuple):
    """An option that need not be looked at: another does all that it does with no more accelerators."""

    option: Option
    by: Option


class Choice(NamedTuple):
    """All that could be bought, with the curves that it rests on."""

    options: tuple[Option, ...]
    beaten: tuple[Beaten, ...]  # options that another makes needless
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
    together: dict[tuple[str, str, str, str, bool], list[Config]] = {}
    whole: dict[str, dict[tuple[float, float], Curve]] = {}
    for found in _configs(demand):
        if isinstance(found, Left):
            left.append(found)
            continue
        configs[str(found)] = found
        key = found.candidate, found.model, found.engine, found.precision, found.speculation is not None
        together.setdefault(key, []).append(found)
        options += _served(found, tiers, performance, extrapolate, curves, left, whole)
    for alike in together.values():
        for found in _units(demand.candidates[alike[0].candidate], alike, whole):
            configs[str(found)] = found
            options += _served(found, tiers, performance, extrapolate, curves, left, whole)
    kept = [option for option in options if not any(_better(other, option) for other in options)]
    beaten = []
    for option in options:
        by = next((other for other in kept if _better(other, option)), None)
        if by is not None:  # whoever beats one that beats another beats that, too
            beaten.append(Beaten(option, by))
    return Choice(tuple(kept), tuple(beaten), curves, tuple(left), configs)


def _configs(demand: Demand) -> Iterator[Config | Left]:
    for key, candidate in demand.candidates.items():
        part = accelerator(candidate.accelerator)
        for model, wanted in demand.models.items():
            sizes = architecture(wanted.name)
            for engine in candidate.engines:
                for precision in wanted.precisions:
                    for found in _split(key, candidate, part, model, sizes, engine, precision, wanted.kv):
                        yield found
                        if isinstance(found, Config) and wanted.speculation is not None:
                            yield found._replace(speculation=wanted.speculation.asked)


def _split(
    key: str,
    candidate: Candidate,
    part: Accelerator,
    model: str,
    sizes: Architecture,
    engine: str,
    precision: str,
    kv: str,
) -> Iterator[Config | Left]:
    def config(split: Split) -> Config:
        deployment = Deployment(
            architecture=sizes,
            accelerator=part,
            engine=engine,
            weight_bits=BITS[precision],
            kv_bits=BITS[kv],
            stage_link_bytes_per_s=candidate.stage_gb_per_s * B_PER_GB,
            graph_sizes=sizes_of(candidate.graph_sizes, engine, max_num_seqs=MOST_BATCH),
            **split._asdict(),
        )
        return Config(
            key, model, engine, precision, deployment, deployment.kv_tokens(), taken_gpus(part, split)
        )

    flat = [config(split) for split in stages(candidate, part, sizes)]
    fits_in_one = any(one.kv_tokens > 0 and one.deployment.gpus <= part.scale_up_gpus for one in flat)
    for pp in depths(candidate, sizes, fits_in_one=fits_in_one):
        for one in flat:
            found = config(split_of(one.deployment)._replace(pp=pp))
            why = _impossible(found, part)
            yield found if why is None else Left(str(found), why)


def _units(
    candidate: Candidate, alike: list[Config], whole: dict[str, dict[tuple[float, float], Curve]]
) -> Iterator[Config]:
    """Yield what may be made of configurations of one model, engine and precision if prompts are computed
    apart (`apart`): `whole` has the curves of each as it is, by lengths. What is best for one tier's lengths
    need not be for another's: looked at is what is good for any."""
    flat = [one for one in alike if one.deployment.pp == 1 and str(one) in whole]
    prompts, answers = set[int](), set[int]()
    for lengths in dict.fromkeys(key for one in flat for key in whole[str(one)]):
        asked = [(whole[str(one)].get(lengths, Curve((), lengths[1])), one.gpus) for one in flat]
        prompts.update(for_prompts(asked))
        answers.update(for_answers(asked))
    for prefill, decode in ratios_of(candidate.disaggregate):
        for p in sorted(prompts):
            for d in sorted(answers):
                own = flat[p].gpus * prefill
                yield flat[d]._replace(
                    kv_tokens=flat[d].kv_tokens * decode,
                    gpus=own + flat[d].gpus * decode,
                    apart=Apart(
                        prefill=flat[p].deployment,
                        prefill_replicas=prefill,
                        decode_replicas=decode,
                        prefill_gpus=own,
                        link_bytes_per_s=candidate.handover_gb_per_s * B_PER_GB,
                        latency_s=candidate.handover_ms / MS_PER_S,
                    ),
                )


def _impossible(config: Config, part: Accelerator) -> str | None:
    """Return why a configuration cannot run, or None."""
    d, per_node = config.deployment, part.gpus_per_node
    if d.stage_gpus > part.scale_up_gpus:
        return f"only {part.scale_up_gpus} accelerators share a fabric"
    if d.gpus % per_node and per_node % d.gpus:
        return f"neither divides a node of {per_node} nor fills whole ones"
    if config.precision == "fp4" and part.fp4_flop_per_s is None:
        return "no unit for 4 bits"
    if config.precision == "fp8" and part.fp8_flop_per_s is None:
        return "no unit for 8 bits"
    if config.kv_tokens <= 0:
        need, have = d.weight_bytes_per_gpu / B_PER_GB, part.memory_bytes / B_PER_GB
        return f"{need:.0f} GB of weights leave no room for a cache in {have:.0f} GB"
    return None


def _served(
    config: Config,
    tiers: tuple[TierAsk, ...],
    performance: Performance,
    extrapolate: bool,
    curves: dict[tuple[str, str], Curve],
    left: list[Left],
    whole: dict[str, dict[tuple[float, float], Curve]],
) -> list[Option]:
    own = [tier for tier in tiers if tier.model == config.model]
    asked: dict[tuple[float, float], Curve] = {}
    reached: dict[str, Reached] = {}
    for tier in own:
        lengths = tier.input_tok, tier.output_tok
        d = config.deployment
        replicas = 1 if config.apart is None else config.apart.decode_replicas
        most = min(
            MOST_BATCH * d.attn_dp * d.pp * replicas,
            MOST_USERS,
            int(config.kv_tokens / (tier.input_tok + tier.output_tok)),
        )
        if lengths not in asked:
            slowest = min(t.tok_per_s for t in own if (t.input_tok, t.output_tok) == lengths)
            more: dict[str, Any] = {}
            if config.apart is not None:
                more["disaggregation"] = config.apart.asked
            if config.speculation is not None:
                more["speculation"] = config.speculation
            found = curve(
                performance,
                config.deployment,
                input_tok=tier.input_tok,
                output_tok=tier.output_tok,
                most=most,
                slowest_tok_per_s=slowest,
                **more,
            )
            whole.setdefault(str(config), {})[lengths] = found
            asked[lengths] = found if extrapolate else _sure(found)
            if not asked[lengths].points:
                left.append(_unsure(config, found))
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


def beyond(prediction: Prediction) -> str:
    """Return in words which quantities of a prediction leave what was measured, and how far."""
    reasons = "; ".join(map(str, prediction.outside))
    basis = f" (by the law and {prediction.basis})" if prediction.basis else ""
    return f"prediction is {prediction.klass}{basis}" + (f": {reasons}" if reasons else "")


def widened(prediction: Prediction) -> str:
    """Return in words what leaving it does to the interval of the time per token; "" where nothing."""
    if prediction.tpot_if_interpolated_s is None:
        return ""
    inside = prediction.tpot_if_interpolated_s
    return f"{_around(prediction.tpot_s)}, where an interpolated one has {_around(inside)}"


def _around(interval: Interval) -> str:
    return f"{interval.low / interval.value - 1.0:+.0%} to {interval.high / interval.value - 1.0:+.0%}"


def _unsure(config: Config, whole: Curve) -> Left:
    """Return why no prediction of a curve may be used: by the one that leaves least what was measured."""
    if not whole.points:
        return Left(str(config), "no room for one")
    least = min((point.prediction for point in whole.points), key=lambda found: len(found.outside))
    return Left(str(config), f"{beyond(least)} (--extrapolate takes it)", least)


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
