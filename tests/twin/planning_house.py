"""Demands and laws that a hand can follow, for the planner's tests."""

from __future__ import annotations

from typing import Any

import msgspec

from wattmill.models.deployment import Deployment
from wattmill.twin.planning.answer import Answered, answered
from wattmill.twin.planning.demand import Demand
from wattmill.twin.prediction import Class, Interval, Prediction


def interval(value: float, wide: float = 1.1) -> Interval:
    return Interval(value=value, low=value / wide, high=value * wide)


def straight_law(
    *, alone_ms: float = 8.0, each_ms: float = 0.2, klass: Class = "interpolated", wide: float = 1.1
) -> Any:
    """A law that a hand can follow: a token takes (alone + each x batch) / tp, the first one 50 of them."""

    def predicted(deployment: Deployment, *, isl: int, osl: int, concurrency: int) -> Prediction:
        fast = deployment.accelerator.bandwidth_bytes_per_s / 3.35e12  # an H100 is 1
        tpot_s = (alone_ms + each_ms * concurrency) / 1e3 / deployment.tp**0.8 / fast
        ttft_s = 20 * tpot_s
        per_s = concurrency * osl / (ttft_s + tpot_s * (osl - 1))
        return Prediction(
            ttft_s=interval(ttft_s, wide),
            tpot_s=interval(tpot_s, wide),
            output_tok_per_s=interval(per_s, wide),
            klass=klass,
            nearest="by hand",
        )

    return predicted


def no_power(part: object, batch: float) -> None:
    """Nobody knows what an accelerator draws."""


def given(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    out: dict[str, Any] = {"value": value, "source": "the test"}
    if low is not None and high is not None:
        out |= {"low": low, "high": high}
    return out


def own(usd: float) -> dict[str, Any]:
    return {
        "pay": "all-in",
        "usd_per_gpu_h": given(usd, 0.9 * usd, 1.1 * usd),
        "energy_inside_usd_per_mwh": given(80.0),
    }


def demand(**changes: Any) -> Demand:
    """One megawatt, two tiers, H100 and B200 owned; `changes` replace whole sections."""
    data: dict[str, Any] = {
        "name": "test",
        "goal": "margin",
        "site": {
            "name": "here",
            "pue": given(1.25),
            "usd_per_mwh": given(40.0, 30.0, 60.0),
            "g_per_kwh": given(400.0),
        },
        "limits": {"power_mw": 1.0},
        "load": {
            "from": "rate",
            "utilisation": 0.8,
            "input_tok": 1000.0,
            "output_tok": 200.0,
            "peak_to_mean": 1.5,
        },
        "models": {"llama": {"name": "Llama-3.1-70B", "precisions": ["fp8"]}},
        "tiers": {
            "slow": {"share": 0.7, "tok_per_s_per_user": 25.0, "ttft_s": 5.0, "usd_per_mtok_output": 2.0},
            "fast": {"share": 0.3, "tok_per_s_per_user": 100.0, "ttft_s": 2.0, "usd_per_mtok_output": 20.0},
        },
        "candidates": {
            "h100": {"accelerator": "H100-SXM", "all_in_kw_per_gpu": given(1.73), "own": own(1.3)},
            "b200": {"accelerator": "B200-SXM", "all_in_kw_per_gpu": given(2.17), "own": own(2.3)},
        },
        "availability": {
            "target": 0.999,
            "failures_per_gpu_year": given(0.173, 0.16, 0.19),
            "repair_h": given(24.0, 8.0, 72.0),
        },
    }
    return msgspec.convert({**data, **changes}, Demand)


def answer(wanted: Demand, law: Any = None, *, power: Any = no_power, **more: Any) -> Answered:
    return answered(wanted, None, law or straight_law(), power, **more)
