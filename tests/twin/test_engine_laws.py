"""The compiled engine obeys what is known in closed form of queues, and its own laws of conservation bite."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from wattmill.twin.engine import build, run
from wattmill.twin.engine import layout as c
from wattmill.twin.engine.conservation import check_conserved
from wattmill.twin.engine.defaults import limits
from wattmill.twin.engine.experiment import Requests, simulate
from wattmill.twin.engine.live import Engine
from wattmill.twin.engine.spec import EngineLimits, StepCost

TOKEN_PS = 1_000_000  # a step, whoever is in it: servers that do not slow each other down
COST = StepCost(step_ps=(TOKEN_PS,), power_mw=(0, 300_000), idle_mw=100_000)


def servers(count: int) -> EngineLimits:
    return EngineLimits(scheduler="trtllm", max_num_seqs=count, budget_tok=2 * count, kv_blocks=1 << 30)


def poisson(count: int, mean_gap_ps: float, seed: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.exponential(mean_gap_ps, count)).astype(np.int64)


def interval(values: npt.NDArray[np.float64], level: float = 0.999) -> tuple[float, float]:
    """Return the confidence interval of the mean, by means of 20 batches, the first left out."""
    means = [float(batch.mean()) for batch in np.array_split(values, 20)[1:]]
    low, high = stats.t.interval(level, len(means) - 1, np.mean(means), stats.sem(means))
    return float(low), float(high)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_with_exponential_work_waits_as_m_m_1_does(load: float) -> None:
    count, mean_tok = 200_000, 1_000
    rng = np.random.default_rng(5)
    output_tok = rng.geometric(1 / mean_tok, count)
    ran = simulate(
        [(COST, servers(1))],
        Requests(
            at_ps=poisson(count, mean_tok * TOKEN_PS / load, 6), input_tok=[1] * count, output_tok=output_tok
        ),
    )
    low, high = interval((ran.end_ps - ran.at_ps) / (mean_tok * TOKEN_PS))
    assert low < 1 / (1 - load) < high
    assert high - low < 0.3 / (1 - load)  # narrow enough to tell 1 / (1 - load) from its neighbours
    busy = float(ran.busy_ps[0]) / float(ran.end_ps.max())
    assert busy == pytest.approx(load, rel=0.02)


def crommelin(a: float, c: int) -> float:
    """Return the mean wait of M/D/c in units of the service time, `a` the offered load (Crommelin, 1932)."""
    return sum(
        float(stats.poisson.sf(i * c - 1, i * a) - c / a * stats.poisson.sf(i * c, i * a))
        for i in range(1, 2_000)
    )


@pytest.mark.parametrize(("count", "load"), [(1, 0.8), (4, 0.9)])
def test_servers_with_equal_work_wait_as_m_d_c_does(count: int, load: float) -> None:
    assert crommelin(0.8, 1) == pytest.approx(0.8 / (2 * (1 - 0.8)))
    requests, work_tok = 200_000, 1_000
    ran = simulate(
        [(COST, servers(count))],
        Requests(
            at_ps=poisson(requests, work_tok * TOKEN_PS / (load * count), 7),
            input_tok=[1] * requests,
            output_tok=[work_tok] * requests,
        ),
    )
    # A newcomer waits for the step that runs: half of one in the mean, as often as any runs.
    waits = (ran.begun_ps - ran.at_ps) / (work_tok * TOKEN_PS) - (0.5 / work_tok if count > 1 else 0.0)
    low, high = interval(waits)
    assert low - 0.5 / work_tok < crommelin(load * count, count) < high + 0.5 / work_tok
    assert high - low < 0.4


def test_what_arrivals_see_is_the_rate_times_the_stay() -> None:
    """Little's law, where the number is looked at from outside, at the instants of arrivals (which see time
    averages, since they are Poisson's)."""
    rng = np.random.default_rng(8)
    count = 12_000
    at_ps = poisson(count, 25e9, 9)
    input_tok, output_tok = rng.integers(1, 300, count), rng.integers(1, 120, count)
    cost = StepCost(step_ps=(8_000_000_000,), context_ps_per_tok=20_000, prefill_ps_per_tok=20_000_000)
    engine = Engine([(cost, EngineLimits(max_num_seqs=32, budget_tok=512, kv_blocks=330))])
    seen = np.zeros(count)
    for i in range(count):
        engine.advance(int(at_ps[i]) - 1)
        seen[i] = engine.load[0]
        engine.take(
            i, 0, int(at_ps[i]), input_tok=int(input_tok[i]), output_tok=int(output_tok[i]),
            max_output_tok=int(output_tok[i]),
        )  # fmt: skip
    ran = simulate(
        [(cost, EngineLimits(max_num_seqs=32, budget_tok=512, kv_blocks=330))],
        Requests(at_ps=at_ps, input_tok=input_tok, output_tok=output_tok),
    )
    stays = (ran.end_ps - ran.at_ps) / 1e12
    rate = count / (float(at_ps[-1]) / 1e12)
    low, high = interval(seen)
    assert low < rate * float(stays.mean()) < high
    assert ran.preemptions.sum() > 0  # memory was short


def test_joules_of_steps_and_of_idle_time_are_the_meter() -> None:
    ran = simulate(
        [(COST, servers(1))] * 2,
        Requests(at_ps=poisson(500, 3_000 * TOKEN_PS, 1), input_tok=[1] * 500, output_tok=[900] * 500),
    )
    end_s = float(ran.end_ps.max()) / 1e12
    meter_j = 0.3e3 * ran.busy_ps.sum() / 1e12 + 0.1e3 * (2 * end_s - ran.busy_ps.sum() / 1e12)
    assert (ran.busy_uj.sum() + ran.idle_uj.sum()) / 1e6 == pytest.approx(meter_j, rel=1e-3)
    assert 0 <= ran.busy_uj.sum() - ran.energy_uj.sum() < 1e-2 * ran.busy_uj.sum()


@pytest.mark.parametrize(
    ("column", "by", "says"),
    [
        (c.USED, 1, "blocks are held by nobody"),
        (c.GIVEN_OUT, 1, "tokens given are not the tokens of the answers"),
        (c.COMPUTED, -1, "tokens computed and reused are not those wanted and lost"),
        (c.LOST, 1, "tokens computed and reused are not those wanted and lost"),
        (c.ENERGY, 1, "joules of the steps are not those of the requests"),
        (c.TAKEN, 1, "what a replica took is not what it ended"),
        (c.NODES, 1, "a prefix is in use by nobody"),
    ],
)
def test_a_token_a_block_or_a_joule_too_many_is_told(column: int, by: int, says: str) -> None:
    s = build.state([(COST, servers(2))], requests=20)
    build.fill_rows(s.req, input_tok=[5] * 20, output_tok=[7] * 20, max_output_tok=None, ids_from=None)
    run.open_loop(s, np.zeros(1, np.int64), run.LEAST_LOADED, 0)
    check_conserved(s)
    s.rep[0, column] += by
    with pytest.raises(AssertionError, match=says):
        check_conserved(s)


def test_dispatchers_spread_as_they_say() -> None:
    requests = Requests(at_ps=[0] * 900, input_tok=[1] * 900, output_tok=[500] * 900)
    for rule in ("least-loaded", "round-robin"):
        ran = simulate([(COST, servers(4))] * 3, requests, dispatch=rule)  # type: ignore[arg-type]
        assert np.bincount(ran.replica).tolist() == [300, 300, 300]
    two = np.bincount(simulate([(COST, servers(4))] * 3, requests, dispatch="two-choices", seed=1).replica)
    assert two.min() >= 295
    other = simulate([(COST, servers(4))] * 3, requests, dispatch="two-choices", seed=2)
    again = simulate([(COST, servers(4))] * 3, requests, dispatch="two-choices", seed=2)
    assert other.replica.tolist() == again.replica.tolist()


def test_shipped_limits_make_working_engines() -> None:
    for engine in ("vllm", "sglang", "trtllm", "llamacpp"):
        shipped = limits(engine, kv_tok=200_000)  # type: ignore[arg-type]
        ran = simulate([(COST, shipped)], Requests(at_ps=[0] * 9, input_tok=[3_000] * 9, output_tok=[50] * 9))
        assert math.isfinite(float(ran.end_ps.max()))
    assert limits("vllm", kv_tok=1_600).kv_blocks == 100


def test_the_energy_of_a_rack_over_a_day_fits_its_numbers() -> None:
    """72 devices of 1.4 kW: one jump of 1,000 s, and a day without work."""
    step_ps, day_ps = 100_000_000_000, 86_400_000_000_000_000
    cost = StepCost(step_ps=(step_ps,), power_mw=(20_000_000, 100_000_000), idle_mw=20_000_000)
    ran = simulate(
        [(cost, servers(1))], Requests(at_ps=[0, day_ps], input_tok=[1, 1], output_tok=[10_000, 10_000])
    )
    busy_ps = int(ran.busy_ps[0])
    assert busy_ps >= 2 * 10_000 * step_ps
    assert int(ran.busy_uj[0]) == pytest.approx(busy_ps * 100_000_000 // 10**9, rel=1e-6)
    idle_ps = int(ran.end_ps.max()) - busy_ps
    assert int(ran.idle_uj[0]) == pytest.approx(idle_ps * 20_000_000 // 10**9, rel=1e-6)
