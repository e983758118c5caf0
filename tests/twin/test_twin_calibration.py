"""The twin and a live engine: its client measures, its fit finds a known engine, its error is shown."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from served import serving
from wattmill.power.spec import HostPower
from wattmill.twin.calibration.compare import (
    FIGURES,
    Rates,
    errors,
    measured,
    median_error,
    predicted,
    spread,
)
from wattmill.twin.calibration.error import current_error
from wattmill.twin.calibration.fit import _Lived, fit
from wattmill.twin.calibration.kept import keep, kept, path_of
from wattmill.twin.calibration.load import FIT_LEVELS, closed, open_loop, prompt
from wattmill.twin.calibration.shapes import Line, Pieces
from wattmill.twin.calibration.spec import Ask, Calibration, Figures, Seen, Sweep
from wattmill.twin.calibration.sweep import Endpoint, SweepFailed, _ask, sweep
from wattmill.twin.engine.defaults import limits
from wattmill.twin.engine.experiment import Clients, Requests, simulate
from wattmill.twin.engine.spec import EngineLimits, StepCost

MS_PS = 1_000_000_000
# A piece of 1, 2, 4, 8, 32, 128 tokens costs 11, 26, 32, 40, 118, 430 ms, as an engine on a CPU was measured.
TRUE = Pieces(128).cost(
    [11 * MS_PS, 15 * MS_PS, 6 * MS_PS, 8 * MS_PS, 78 * MS_PS, 312 * MS_PS, 9_000_000, 400_000_000, 3 * MS_PS]
)
LIMITS = limits("llamacpp", kv_tok=8_192, max_num_seqs=4, budget_tok=128)


def lived(
    name: str,
    asks: list[Ask],
    concurrency: int,
    noise: random.Random | None = None,
    cost: StepCost = TRUE,
    shape: EngineLimits = LIMITS,
) -> Sweep:
    """Return what a client of an engine with the true cost would have seen, measured with 3 % of noise."""
    prompt_tok = [ask.words + 31 for ask in asks]
    ran = simulate(
        [(cost, shape)],
        Requests(
            at_ps=None if concurrency else [round((ask.at_s or 0.0) * 1e12) for ask in asks],
            input_tok=prompt_tok,
            output_tok=[ask.output_tok for ask in asks],
        ),
        clients=Clients(concurrency=concurrency) if concurrency else None,
    )
    seen = []
    for i, ask in enumerate(asks):
        at, first, end = (float(x[i]) / 1e12 for x in (ran.at_ps, ran.first_ps, ran.end_ps))
        factor = 1.0 if noise is None else 1 + 0.03 * noise.uniform(-1, 1)
        seen.append(
            Seen(at, at + (first - at) * factor, at + (end - at) * factor, prompt_tok[i], ask.output_tok)
        )
    return Sweep(name=name, concurrency=concurrency, seen=tuple(seen), others_cores=None)


def levels(slots: int, rng: random.Random) -> list[Sweep]:
    return [
        lived(name, closed(requests, words, output_tok, rng), max(1, round(share * slots)), rng)
        for name, share, requests, words, output_tok in FIT_LEVELS
    ]


def test_a_known_engine_is_found_again_and_predicts_loads_that_it_was_not_fitted_on() -> None:
    cost, fit_error = fit(levels(4, random.Random(3)), LIMITS)
    assert fit_error < 0.03
    for tokens, rel in ((1, 0.05), (2, 0.1), (4, 0.1), (64, 0.1), (128, 0.05)):
        assert cost.step_ps[tokens] == pytest.approx(TRUE.step_ps[tokens], rel=rel)
    for per_s in (0.5, 0.9, 1.3):
        other = lived("other", open_loop(40, per_s, (15, 220), (12, 56), random.Random(9)), 0)
        pair = (predicted(other, cost, LIMITS, Rates()), measured(other, Rates()))
        assert max(abs(error) for error in errors([pair])) < 0.08


def test_an_engine_that_computes_a_step_in_one_go_is_found_again_too() -> None:
    line = Line().cost([6 * MS_PS, 2 * MS_PS, 9_000_000, 300_000_000, 400_000_000, 3 * MS_PS])
    shape = limits("vllm", kv_tok=8_192, max_num_seqs=4, budget_tok=128)
    rng = random.Random(3)
    sweeps = [
        lived(name, closed(n, words, output_tok, rng), max(1, round(4 * share)), rng, line, shape)
        for name, share, n, words, output_tok in FIT_LEVELS
    ]
    cost, fit_error = fit(sweeps, shape)
    assert fit_error < 0.03
    assert cost.prefill_ps_per_tok == pytest.approx(line.prefill_ps_per_tok, rel=0.1)
    assert cost.step_ps[0] + cost.decode_ps == pytest.approx(line.step_ps[0] + line.decode_ps, rel=0.05)


def test_a_wrong_engine_is_told() -> None:
    other = lived("other", open_loop(40, 1.0, (15, 220), (12, 56), random.Random(9)), 0)
    wrong = msgspec.structs.replace(TRUE, step_ps=tuple(2 * entry for entry in TRUE.step_ps))
    pair = (predicted(other, wrong, LIMITS, Rates()), measured(other, Rates()))
    assert max(errors([pair])) > 0.5
    exact = (predicted(other, TRUE, LIMITS, Rates()), measured(other, Rates()))
    assert max(abs(error) for error in errors([exact])) < 1e-6


def test_too_few_requests_are_no_fit() -> None:
    with pytest.raises(ValueError, match="4 requests are too few"):
        fit([lived("few", [Ask(10, 4)] * 4, 1)], LIMITS)


def test_a_guess_beyond_the_simulators_clock_is_hopeless_and_no_crash() -> None:
    """Prompts of 4,000 tokens at 10 s a token: the clock of 2^62 picoseconds is too short."""
    seen = tuple(Seen(float(n), n + 1.0, n + 2.0, 4_000, 10) for n in range(300))
    lived = _Lived(Sweep(name="long", concurrency=0, seen=seen, others_cores=None))
    shape = limits("vllm", kv_tok=1 << 20, max_num_seqs=4, budget_tok=128)
    assert lived.apart(Line().cost([1e13] * 6), shape).tolist() == [10.0] * 600
    assert max(abs(lived.apart(Line().cost([6e9, 2e9, 1e4, 2e8, 1e6, 3e9]), shape))) < 10.0


def test_figures_by_hand() -> None:
    """Two answers of 11 tokens: 0 to 1 to 3 s, and 2 to 3 to 6 s. 22 tokens in 6 s; 0.2 and 0.3 s a token."""
    seen = (Seen(0.0, 1.0, 3.0, 5, 11), Seen(2.0, 3.0, 6.0, 5, 11))
    told = measured(
        Sweep(name="hand", concurrency=0, seen=seen, others_cores=None, engine_cpu_s=3.0),
        Rates(host=HostPower(idle_w=10.0, max_w=30.0, cores=2), usd_per_hour=3.6),
    )
    assert told.output_tok_per_s == pytest.approx(22 / 6)
    assert told.ttft_p50_s == 1.0
    assert told.tpot_p50_s == pytest.approx(0.25)
    # 3 s of CPU in 6 s are a quarter of two cores: 10 + 20 / 4 watts.
    assert told.j_per_tok == pytest.approx(15 * 6 / 22)
    assert told.usd_per_mtok == pytest.approx(0.001 * 6 / 22 * 1e6)
    assert spread([9.0, 10.0, 11.0]) == pytest.approx(0.2)


class Scripted:
    """An endpoint that streams two tokens in three pieces of one event each, cut anywhere."""

    def __init__(self, *, broken: bool = False) -> None:
        self.bodies: list[dict[str, object]] = []
        self.broken = broken
        self.port = 0
        self.ready, self.leave = threading.Event(), lambda: None

    async def serve(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self.leave = lambda: loop.call_soon_threadsafe(stop.set)
        async with serving(self._one) as self.port:
            self.ready.set()
            await stop.wait()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(size)))
        if self.broken:
            writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 6\r\n\r\nno key")
        else:
            events = [
                {"choices": [{"delta": {"role": "assistant", "content": None}}], "system_fingerprint": "b7"},
                {"choices": [{"delta": {"content": "a"}}]},
                {"choices": [{"delta": {"content": "b"}}]},
                {"choices": [], "usage": {"prompt_tokens": 33, "completion_tokens": 2,
                                          "prompt_tokens_details": {"cached_tokens": 4}}},
            ]  # fmt: skip
            data = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)
            data += b"data: [DONE]\n\n"
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for at in range(0, len(data), 37):
                piece = data[at : at + 37]
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(0.001)
            writer.write(b"0\r\n\r\n")
        await writer.drain()


@pytest.fixture(params=[False, True], ids=["works", "refuses"])
def scripted(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    there = Scripted(broken=request.param)
    thread = threading.Thread(target=lambda: asyncio.run(there.serve()))
    thread.start()
    assert there.ready.wait(5)
    yield there
    there.leave()
    thread.join(5)
    assert not thread.is_alive()


def test_the_client_measures_what_it_was_told_and_says_why_it_cannot(scripted: Scripted) -> None:
    endpoint = Endpoint(f"http://127.0.0.1:{scripted.port}/v1", model="m", key="k")
    asks = [Ask(10, 2), Ask(20, 2), Ask(30, 2)]
    if scripted.broken:
        with pytest.raises(SweepFailed, match="answered 401 without tokens or usage: no key"):
            sweep(endpoint, "x", asks, concurrency=1, seed=1)
        return
    found = sweep(endpoint, "x", asks, concurrency=2, seed=1)
    assert [(one.prompt_tok, one.output_tok, one.cached_tok) for one in found.seen] == [(33, 2, 4)] * 3
    assert all(one.at_s < one.first_s < one.end_s for one in found.seen)
    assert found.seen[2].at_s >= min(one.end_s for one in found.seen[:2])
    assert [body["max_tokens"] for body in scripted.bodies] == [2, 2, 2]
    assert endpoint.fingerprint == "b7"


def test_two_models_never_share_a_file_and_an_older_file_is_found(tmp_path: Path) -> None:
    one = Calibration(model="a/b", engine="b7", at_us=1, cost=TRUE, limits=LIMITS, rows=52, fit_error=0.04)
    other = msgspec.structs.replace(one, model="a_b", rows=7)
    keep(tmp_path, one)
    assert kept(tmp_path, "a_b") is None
    keep(tmp_path, other)
    assert (kept(tmp_path, "a/b"), kept(tmp_path, "a_b")) == (one, other)
    path_of(tmp_path, "a_b").unlink()
    path_of(tmp_path, "a/b").rename(tmp_path / "twin" / "a_b.json")  # as an older version named it
    assert kept(tmp_path, "a/b") == one
    keep(tmp_path, msgspec.structs.replace(one, rows=60))
    assert [path.name for path in (tmp_path / "twin").glob("*.json")] == ["a%2Fb.json"]


def test_a_figure_that_nobody_saw_is_absent_and_compared_with_nothing() -> None:
    """Answers of one token have no time per token: None, never 0."""
    seen = (Seen(0.0, 1.0, 1.0, 5, 1), Seen(2.0, None, 3.0, 5, 1), Seen(0.0, 9.0, 9.0, 5, 1, company=True))
    told = measured(Sweep(name="hand", concurrency=0, seen=seen, others_cores=None), Rates())
    assert (told.tpot_p50_s, told.tpot_p95_s) == (None, None)
    assert told.ttft_p95_s == 1.0
    assert told.output_tok_per_s == pytest.approx(2 / 3)
    assert told.served_tok_per_s == pytest.approx(3 / 9)  # the third kept it busy all the time
    assert errors([(told, told)]) == [0.0, 0.0, 0.0]
    nothing = Figures(
        output_tok_per_s=0.0, ttft_p50_s=None, ttft_p95_s=None, tpot_p50_s=None, tpot_p95_s=None
    )
    with pytest.raises(ValueError, match="nothing can be compared"):
        median_error([(told, nothing)])


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([b"data: {half\n\n"], "no stream of chat completions"),
        ([b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n',
          b'data: {"choices": [], "usage": {"prompt_tokens": null}}\n\n'], "counted no tokens"),
    ],
)  # fmt: skip
def test_an_endpoint_that_speaks_otherwise_is_told_by_a_sentence(events: list[bytes], words: str) -> None:
    async def asked() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            data = b"".join(events)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data))
            await writer.drain()

        async with serving(answer) as port:
            endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", model="m", key=None)
            with pytest.raises(SweepFailed, match=words):
                await _ask(endpoint, Ask(5, 2), 1, 0.0)

    asyncio.run(asked())


def test_prompts_of_one_trace_begin_like_no_other_and_repeat_with_their_seed() -> None:
    asks = open_loop(50, 1.0, (5, 10), (1, 2), random.Random(1))
    texts = [prompt(ask, 7) for ask in asks]
    assert len({text.split()[0] for text in texts}) == 50
    assert texts == [prompt(ask, 7) for ask in asks] != [prompt(ask, 8) for ask in asks]


def test_the_worst_error_of_a_home_is_shown_and_a_check_counts_for_more_than_a_fit(tmp_path: Path) -> None:
    assert current_error(tmp_path) is None
    first = Calibration(model="a/b", engine="b7", at_us=1, cost=TRUE, limits=LIMITS, rows=52, fit_error=0.04)
    assert keep(tmp_path, first) == path_of(tmp_path, "a/b")
    assert kept(tmp_path, "a/b") == first
    assert current_error(tmp_path) == (0.04, "fit")
    keep(tmp_path, msgspec.structs.replace(first, check_error=0.07, checked_us=2))
    (tmp_path / "twin" / "other.json").write_text("no calibration")
    assert current_error(tmp_path) == (0.07, "check")
    with pytest.raises(ValueError, match="is no calibration"):
        kept(tmp_path, "other")
    assert kept(tmp_path, "third") is None
    assert set(FIGURES) < set(Figures.__struct_fields__)
