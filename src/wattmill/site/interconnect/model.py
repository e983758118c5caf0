"""Watts, seconds and failures of a fabric.

Copper: loss of a pair grows with the square root of frequency (skin effect; dielectric loss, which grows with
frequency itself, is left out, so reaches above the reference rate are an upper bound), from a cable that
loses 19.75 dB over 2 m at 26.56 GHz (the largest loss of a cable assembly at 106 Gb/s a lane, IEEE
802.3ck-2022). PAM4 carries two bits a symbol, so a lane of R Gb/s has its highest frequency at R / 4.

Collectives: Hockney's alpha-beta law with the volumes of Thakur, Rabenseifner and Gropp (Int. J. High
Performance Computing Applications 19, 2005): a ring all-reduce sends 2 (n - 1) / n of the bytes in 2 (n - 1)
messages; an all-to-all sends (n - 1) / n of them in n - 1 messages at once, so that one delay counts. Valid
for messages that are long against delay x rate, without congestion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, sqrt

from wattmill.site.interconnect.spec import (
    Exchange,
    Fabric,
    HandOver,
    Medium,
    Question,
    Tier,
    Way,
)
from wattmill.units import H_PER_YEAR, W_PER_MW

_BIT_PER_BYTE = 8.0
_BIT_PER_GBIT = 1e9
_J_PER_PJ = 1e-12
_S_PER_NS = 1e-9
FIBRE_S_PER_M = 4.9e-9
"""Seconds of light in a metre of glass fibre, group index 1.468 (ITU-T G.652)."""
_REFERENCE_DB_PER_M = 19.75 / 2.0
_REFERENCE_GHZ = 26.56
_BITS_PER_SYMBOL_AND_HALF_WAVE = 4.0


def copper_reach_m(lane_gbps: float, *, budget_db: float = 19.75) -> float:
    """Return how far a passive pair carries a PAM4 lane within `budget_db`, at the most."""
    if lane_gbps <= 0:
        raise ValueError(f"lane_gbps must be > 0, got {lane_gbps}")
    ghz = lane_gbps / _BITS_PER_SYMBOL_AND_HALF_WAVE
    return budget_db / (_REFERENCE_DB_PER_M * sqrt(ghz / _REFERENCE_GHZ))


def chosen(tier: Tier, optics: Medium, known: Mapping[str, Medium]) -> Medium:
    """Return the medium of a tier: the copper that reaches and takes least, or else the optics.

    Raises `ValueError` where not even the optics reach.
    """
    copper = [m for m in known.values() if m.kind == "copper" and m.reach_m >= tier.length_m]
    if copper:
        return min(copper, key=lambda medium: medium.pj_per_bit)
    if optics.reach_m < tier.length_m:
        raise ValueError(
            f"tier {tier.name}: {optics.name} reaches {optics.reach_m:g} m of {tier.length_m:g} m"
        )
    return optics


def port_w(medium: Medium, gbps: float) -> float:
    """Return the power of one port at `gbps`: it is drawn whether bits flow or not."""
    return medium.pj_per_bit * _J_PER_PJ * gbps * _BIT_PER_GBIT


def delay_s(fabric: Fabric, used: Sequence[Medium]) -> float:
    """Return the time of an empty message up through all tiers and down again.

    Two links of each tier, and a switch between any two links: the highest one is passed once.
    """
    total = -fabric.switch_delay_ns * _S_PER_NS
    for tier, medium in zip(fabric.tiers, used, strict=True):
        light_s = tier.length_m * FIBRE_S_PER_M
        total += 2.0 * (light_s + (medium.delay_ns + fabric.switch_delay_ns) * _S_PER_NS)
    return total


def exchange_s(exchange: Exchange, *, gbps: float, message_s: float) -> float:
    """Return what an exchange adds to a step, after what computing hides."""
    n = exchange.group
    byte_s = _BIT_PER_BYTE / (gbps * _BIT_PER_GBIT)
    volume = exchange.bytes_each / exchange.times
    if exchange.collective == "all-reduce":
        one_s = 2.0 * (n - 1) / n * volume * byte_s + 2.0 * (n - 1) * message_s
    else:
        one_s = (n - 1) / n * volume * byte_s + message_s
    return exchange.times * one_s * (1.0 - exchange.hidden)


def hand_over_s(over: HandOver, *, gbps: float, message_s: float) -> float:
    """Return the time of a prompt's keys and values from one place to the other."""
    bits = over.prompt_tok * over.bytes_per_tok * _BIT_PER_BYTE
    return bits / (gbps * _BIT_PER_GBIT * over.share * over.ways) + message_s


def answered(
    question: Question,
    optics: Medium,
    known: Mapping[str, Medium],
    *,
    overhead: float,
    gbps: float | None = None,
) -> Way:
    """Return the factory that fits under the meter with one kind of optics.

    Args:
        overhead: watts at the meter for each watt at the equipment's inlets, from the site's chain and plant.
        gbps: of an accelerator, if not the fabric's.
    """
    fabric, part = question.fabric, question.accelerator
    rate = fabric.gbps if gbps is None else gbps
    used = [chosen(tier, optics, known) for tier in fabric.tiers]
    ports = [(tier.links * 2.0, medium) for tier, medium in zip(fabric.tiers, used, strict=True)]
    ports_w = sum(count * port_w(medium, rate) for count, medium in ports)
    switches_w = sum(tier.links for tier in fabric.tiers) * (
        fabric.switch_pj_per_bit * _J_PER_PJ * rate * _BIT_PER_GBIT
    )
    each_w = part.w + ports_w + switches_w
    count = floor(question.mw * W_PER_MW / (each_w * overhead))
    if count < 1:
        raise ValueError(f"{question.mw:g} MW do not carry one accelerator of {each_w * overhead:.0f} W")
    message_s = delay_s(fabric, used)
    exchange = exchange_s(question.exchange, gbps=rate, message_s=message_s)
    step_s = part.compute_s + exchange
    tok_per_s = count * part.tok_per_step / step_s
    meter_w = count * each_w * overhead
    failures, lost_h = failures_of(ports, count)
    return Way(
        optics=optics.name,
        gbps=rate,
        media=tuple(medium.name for medium in used),
        accelerators=count,
        meter_w=meter_w,
        compute_w=count * part.w,
        ports_w=count * ports_w,
        switches_w=count * switches_w,
        overhead_w=count * each_w * (overhead - 1.0),
        network_w_each=ports_w + switches_w,
        exchange_s=exchange,
        step_s=step_s,
        tok_per_s=tok_per_s,
        j_per_tok=meter_w / tok_per_s,
        ports_usd=count * sum(n * medium.usd_per_gbps * rate for n, medium in ports),
        failures_per_year=failures,
        lost_accelerator_h_per_year=lost_h,
        hand_over_s=None
        if question.hand_over is None
        else hand_over_s(question.hand_over, gbps=rate, message_s=message_s),
    )


def with_the_same_watts(
    question: Question, optics: Medium, other: Medium, known: Mapping[str, Medium]
) -> float:
    """Return the rate at which a network of `optics` takes what one of `other` takes at the fabric's rate."""

    def pj_per_bit(kind: Medium) -> float:
        fabric = question.fabric
        ports = sum(2.0 * t.links * chosen(t, kind, known).pj_per_bit for t in fabric.tiers)
        return ports + fabric.switch_pj_per_bit * sum(t.links for t in fabric.tiers)

    return question.fabric.gbps * pj_per_bit(other) / pj_per_bit(optics)


def failures_of(ports: Sequence[tuple[float, Medium]], count: int) -> tuple[float, float]:
    """Return failures a year, and accelerator-hours that stand still until repair: every port of the failure
    domain is down, a link needs both of its ports, and an accelerator without its link does nothing."""
    failures = lost_h = 0.0
    for each, medium in ports:
        domains = count * each / medium.ports_per_failure
        a_year = domains * H_PER_YEAR / medium.mtbf_h
        failures += a_year
        links = each / 2.0
        lost_h += a_year * medium.repair_h * medium.ports_per_failure / links if links else 0.0
    return failures, lost_h
