"""The twin fitted to what the books hold of a period, and held against another one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from small_factory import HEAD, holds, owned, run, stream
from typer.testing import CliRunner, Result

from wattmill.app.declared.declaration import Loaded, decode, stored
from wattmill.app.home import Home
from wattmill.app.results.room import room
from wattmill.app.results.shelf import Shelf
from wattmill.cli.twin import twin_app
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.sqlite_read import Books
from wattmill.twin.calibration.error import current_error
from wattmill.twin.calibration.kept import keep, kept, path_of
from wattmill.twin.calibration.load import open_loop
from wattmill.twin.calibration.recorded import Recorded, TooLittle, recorded, thinned, unseen
from wattmill.twin.calibration.replayed import replayed
from wattmill.twin.calibration.shapes import Line
from wattmill.twin.calibration.spec import Ask, Calibration, Covers
from wattmill.twin.engine.defaults import limits
from wattmill.twin.engine.experiment import Requests, simulate
from wattmill.twin.engine.spec import StepCost
from wattmill.twin.fleet.books import SimulatedBooks
from wattmill.vocab.fact import End, Fact, Intent, MeterWindow
from wattmill.vocab.price import Price
from wattmill.vocab.request import Terms
from wattmill.vocab.usage import Usage

S, MS_PS = 1_000_000, 1_000_000_000
BEGIN = 1_700_000_000 * S
LATER = BEGIN + 600 * S
FEW = BEGIN + 3_000 * S  # a quiet evening
TRUE = Line().cost([6 * MS_PS, 2 * MS_PS, 9_000_000, 300_000_000, 400_000_000, 3 * MS_PS])
LIMITS = limits("vllm", kv_tok=8_192, max_num_seqs=4, budget_tok=128)
RATES = (10**8,) * 4 + (10**9,) * 3
PRICE = Price(id=1, book="own cost", model="m", rates_nusd_per_mtok=RATES)
BUSY_W = 50
DECLARED = """
[factory]
name = "one place"
[models.m]
context_tok = 8192
[pools.own]
engine = "openai_http"
adapter = "vllm"
base_url = "http://127.0.0.1:8000/v1"
place = "our rack"
models = ["m"]
slots = 4
context_tok = 2048
speed = { prefill_tok_per_s = 3000.0, decode_tok_per_s = 90.0 }
cost = { rule = "owned", hourly_usd = "0.36", power_w = 100.0, prefill_tok_per_s = 3000.0, decode_tok_per_s = 200.0 }
[pools.far]
engine = "openai_http"
adapter = "openai"
base_url = "https://api.example.com/v1"
place = "a provider"
models = ["m"]
context_tok = 2048
speed = { prefill_tok_per_s = 3000.0, decode_tok_per_s = 90.0 }
cost = { rule = "rates", input_usd_per_mtok = "0.60", output_usd_per_mtok = "2.40" }
"""  # noqa: E501


class Life:
    """A factory's data folder, with facts as a worker writes them."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.home.create()
        self.books = SimulatedBooks(self.home.journal, self.home.ledger_db, seed=1, start_us=BEGIN)
        self.books.use_prices({1: PRICE})
        self.seq = 0

    def ran(self, asks: Sequence[Ask], from_us: int, *, seed: int = 0, pool: str = "own") -> None:
        """Let the true engine serve `asks`, and write what the gateway would have seen, with 3 % of noise."""
        rng = random.Random(seed)
        out = simulate(
            [(TRUE, LIMITS)],
            Requests(
                at_ps=[round((ask.at_s or 0.0) * 1e12) for ask in asks],
                input_tok=[ask.words for ask in asks],
                output_tok=[ask.output_tok for ask in asks],
            ),
        )
        facts: list[tuple[int, Fact]] = []
        busy = set[int]()
        for i, ask in enumerate(asks):
            at, first, end = (from_us + int(x[i]) // 1_000_000 for x in (out.at_ps, out.first_ps, out.end_ps))
            factor = 1 + 0.03 * rng.uniform(-1, 1)
            facts += self.attempt(
                at, round((first - at) * factor), round((end - at) * factor), ask.words, ask.output_tok, pool
            )
            busy.update(range(at // S, end // S + 1))
        each_uj = round(BUSY_W * float(out.busy_ps.sum()) / 1e6 / len(busy))
        for second in sorted(busy):
            window = MeterWindow(
                "host", second * S, (second + 1) * S, each_uj, 0, {pool: each_uj}, 0, "modelled", "a host"
            )
            facts.append(((second + 1) * S, window))
        self.write(facts)

    def attempt(
        self, at: int, ttft_us: int | None, took_us: int, prompt: int, output: int, pool: str = "own",
        **how: object,
    ) -> list[tuple[int, Fact]]:  # fmt: skip
        self.seq += 1
        usage = Usage(prompt, output)
        cost = (prompt * RATES[0] + 500_000) // 10**6 + (output * RATES[4] + 500_000) // 10**6
        intent = Intent(
            self.seq, self.seq, 0, at, (1, 2, 3), pool, "m", "chat", True, 4_000, 500, 10**9, 1, 1,
            reserved_cost_nusd=10**9,
        )  # fmt: skip
        end = End(
            self.seq, at + took_us, "finished", usage, "measured", cost, cost, ttft_us=ttft_us,
            duration_us=took_us, started_us=at,
        )  # fmt: skip
        if how.pop("whole", False):
            intent = replace(intent, stream=False)
        intent = replace(intent, model=str(how.pop("model", intent.model)))
        return [(at, intent), (at + took_us, replace(end, **how))]

    def write(self, facts: Sequence[tuple[int, Fact]]) -> None:
        for _, fact in sorted(facts, key=lambda one: one[0]):
            self.books.append_intent(fact)
        self.books.book()

    def close(self) -> Home:
        self.books.close(FEW + 10_000 * S, {})
        self.books.db.close()
        return self.home


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a factory with a period to fit to, a later one of other lengths, and a quiet evening."""
    life = Life(tmp_path_factory.mktemp("books") / "factory")
    life.ran(open_loop(90, 2.2, (10, 400), (4, 60), random.Random(3)), BEGIN, seed=3)
    life.ran(open_loop(80, 1.6, (100, 500), (10, 90), random.Random(4)), LATER, seed=4)
    life.ran(open_loop(7, 0.5, (10, 400), (4, 60), random.Random(5)), FEW, seed=5)
    home = life.close()
    found = decode(DECLARED, file="wattmill.toml", folder=home.root, env={})
    assert isinstance(found, Loaded), found
    with Control(home.control_db) as control:
        control.put_config(stored(found.settings), 1)
        control.publish_price(PRICE.book, PRICE.model, RATES, effective_us=0, source="test")
    return home


def asked(home: Home, *args: str) -> Result:
    return CliRunner().invoke(twin_app, args, env={"WATTMILL_HOME": str(home.root), "COLUMNS": "200"})


def period(home: Home, since_us: int = BEGIN, seconds: int = 300, pool: str = "own") -> Recorded:
    with Books(home.ledger_db) as books:
        return recorded(books.db, pool, since_us=since_us, until_us=since_us + seconds * S)


def of_a_prompt(cost: StepCost, tokens: int) -> float:
    """Return the picoseconds of a prompt alone, by the sum that `StepCost` is."""
    steps = -(-tokens // LIMITS.budget_tok)
    return (
        steps * cost.step_ps[0]
        + tokens * cost.prefill_ps_per_tok
        + cost.attention_ps_per_ktok * tokens**2 / 2_048
    )


def test_an_engine_is_found_in_the_books_and_predicts_another_period(factory: Home) -> None:
    done = asked(
        factory, "calibrate", "--pool", "own", "--batch", "128", "--since", "2023-11-14T22:13:20", "--until",
        "2023-11-14T22:18:20", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = kept(factory.root, "own/m")
    assert found is not None and found.rows == 90 and found.fit_error < 0.05
    assert found.period_us == (BEGIN, BEGIN + 300 * S) and found.limits == LIMITS
    for tokens in (100, 300):  # parts of a prompt's cost can stand for each other, their sum cannot
        assert of_a_prompt(found.cost, tokens) == pytest.approx(of_a_prompt(TRUE, tokens), rel=0.1)
    assert found.drawn is not None and found.drawn.busy_w == pytest.approx(BUSY_W, rel=0.05)
    assert current_error(factory.root) == (found.fit_error, "fit")

    done = asked(factory, "check", "--pool", "own", "--since", "2023-11-14T22:23:20", "--until",
                 "2023-11-14T22:33:20", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    told = msgspec.json.decode(done.output)
    lines = {line["figure"]: line for line in told["lines"]}
    assert set(lines) == {
        "output_tok_per_s", "served_tok_per_s", "ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s",
        "j_per_tok", "usd_per_mtok", "booked_usd_per_mtok",
    }  # fmt: skip
    assert {f: line["error"] for f, line in lines.items() if abs(line["error"]) > 0.1} == {}
    assert lines["j_per_tok"]["provenance"] == "modelled"
    assert lines["booked_usd_per_mtok"]["error"] == pytest.approx(0.0, abs=1e-6)
    # 0.36 USD of rent and 0.1 kW at 0.25 USD make 0.385 USD an hour.
    rate = lines["served_tok_per_s"]["recorded"]
    assert lines["usd_per_mtok"]["recorded"] == pytest.approx(0.385 / 3_600 / rate * 1e6)
    assert current_error(factory.root) == (told["median_error"], "check")
    (one,) = room(factory.root, Shelf(factory.root)).calibrations
    assert one.model == "own/m" and one.held is not None and "figures within 10%" in one.held


def test_a_period_with_too_little_is_refused_with_a_number_and_a_way_out(factory: Home) -> None:
    evening = ("--since", "2023-11-14T23:03:20", "--until", "2023-11-14T23:30:00")
    for command in ("calibrate", "check"):
        done = asked(factory, command, "--pool", "own", *evening)
        assert done.exit_code == 1
        assert "'own' has 7 streamed answers that finished" in done.output
        assert "30 are the least. Take a longer period (--since), or measure" in done.output
    for args, words in (
        (("--pool", "own", "--since", "1h"), "nothing was sent to 'own' between"),
        (("--pool", "far", *evening), "nothing was ever sent to 'far'; the books know own"),
        (("--pool", "own", "--since", "soon"), "must be a time before now such as 90s, 15m or 2h"),
        (("--pool", "own", "--since", "1h", "--until", "2h"), "the period is empty"),
        (("--pool", "own", "--since", "2023-01-01"), "longer than 31 days"),
        (("--pool", "own", "--url", "http://127.0.0.1:1/v1"), "name one of the two"),
        (("--url", "http://127.0.0.1:1/v1", "--model", "m", "--since", "1h"), "they need --pool"),
        ((), "name what to measure with --url and --model"),
    ):
        done = asked(factory, "check", *args)
        assert done.exit_code == 1 and words in done.output, done.output


def test_an_engine_that_nobody_described_is_not_guessed(factory: Home) -> None:
    done = asked(factory, "calibrate", "--pool", "far")
    assert done.exit_code == 1 and "nobody said which engine answers at 'far'" in done.output
    done = asked(factory, "calibrate", "--pool", "near")
    assert done.exit_code == 1 and "--pool is 'near', must be one of own, far" in done.output


def test_a_check_without_a_calibration_says_how_to_make_one(factory: Home, tmp_path: Path) -> None:
    found = kept(factory.root, "own/m")
    path_of(factory.root, "own/m").unlink(missing_ok=True)
    done = asked(factory, "check", "--pool", "own", "--since", "2023-11-14T22:13:20", "--until",
                 "2023-11-14T22:18:20")  # fmt: skip
    assert done.exit_code == 1
    assert "no calibration of 'own/m'" in done.output and "twin calibrate --pool own" in done.output
    if found is not None:
        keep(factory.root, found)


def a_calibration(**changes: object) -> Calibration:
    return Calibration(
        model="own/m", engine="vllm", at_us=1, cost=TRUE, limits=LIMITS, rows=90, fit_error=0.02, **changes  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_true_engine_replays_its_own_life_and_says_where_it_extrapolates(factory: Home) -> None:
    later = period(factory, LATER, 600)
    told = replayed(
        later,
        a_calibration(
            covers=Covers(prompt_tok=(10, 200), output_tok=(4, 60), at_once=1),
            period_us=(LATER - 10, LATER + 10),
        ),
    )
    assert told.median_error < 0.02 and told.ttft_error is not None and told.ttft_error < 0.03
    beyond = sum(one.prefill_tok > 2 * 200 for one in later.works)
    assert told.outside == beyond > 0
    assert any(note.startswith(f"{beyond} of 80 requests lie beyond twice") for note in told.notes)
    assert any("requests at once, 1 at most in the fit" in note for note in told.notes)
    assert any("overlaps the one of the fit" in note for note in told.notes)
    slow = replace(TRUE, decode_ps=3 * TRUE.decode_ps, step_ps=(3 * TRUE.step_ps[0],))
    assert replayed(later, replace(a_calibration(), cost=slow)).median_error > 0.5


def test_what_keeps_the_engine_busy_is_played_and_only_whole_answers_are_judged(tmp_path: Path) -> None:
    life = Life(tmp_path / "factory")
    facts: list[tuple[int, Fact]] = []
    for n in range(40):
        facts += life.attempt(BEGIN + (100 + n) * S, 200_000, 600_000, 50, 20)
    facts += life.attempt(BEGIN + 97 * S, 100_000, 2 * S, 50, 20)  # before, and until the next begins:
    facts += life.attempt(BEGIN + 98 * S, 100_000, 3 * S, 50, 20)  # in flight when the period begins
    facts += life.attempt(BEGIN + 90 * S, 100_000, S, 50, 20)  # over long before
    facts += life.attempt(BEGIN + 110 * S, 100_000, S, 50, 9, status="aborted")
    facts += life.attempt(BEGIN + 111 * S, None, S, 0, 0, status="failed", usage=None, usage_source="none")
    facts += life.attempt(BEGIN + 112 * S, 990_000, 990_100, 50, 20, whole=True)
    facts += life.attempt(BEGIN + 159 * S, 200_000, 3 * S, 50, 20)  # in flight when the period ends
    facts += life.attempt(BEGIN + 161 * S, 100_000, S, 50, 20)  # beside it, after the end
    facts += life.attempt(BEGIN + 163 * S, 100_000, S, 50, 20)  # beside nothing of the period
    life.write(facts)
    found = period(life.close(), BEGIN + 100 * S, 60)
    assert (found.attempts, found.streamed, found.unknown) == (44, 41, 0)
    assert len(found.works) == 46 and len(found.judged) == 42
    assert [one.company for one in found.sweep.seen[-2:]] == [False, True]
    assert found.zero_us == BEGIN + 97 * S
    assert [one.company for one in found.sweep.seen[:3]] == [True, True, False]
    (whole,) = (one for one in found.works if not one.stream)
    assert whole.first_us is None
    assert found.at_once == 2


def test_a_model_that_was_asked_for_with_its_place_has_the_calibration_of_a_sweep(tmp_path: Path) -> None:
    """A sweep through the gateway asks for `own/m`, and keeps its calibration under that name."""
    life = Life(tmp_path / "factory")
    facts: list[tuple[int, Fact]] = []
    for n in range(40):
        facts += life.attempt(BEGIN + n * S, 200_000, 600_000, 50, 20, model="own/m" if n % 4 else "m")
    life.write(facts)
    found = period(life.close(), BEGIN, 60)
    assert f"{found.pool}/{found.model}" == "own/m" and found.attempts == 40


def test_tokens_that_nobody_counted_refuse_a_period(tmp_path: Path) -> None:
    life = Life(tmp_path / "factory")
    facts: list[tuple[int, Fact]] = []
    for n in range(40):
        facts += life.attempt(BEGIN + n * S, 200_000, 600_000, 50, 20)
    for n in range(3):
        facts += life.attempt(
            BEGIN + (50 + n) * S, 100_000, S, 0, 0, status="failed", usage=None, usage_source="unmetered"
        )
    life.write(facts)
    with pytest.raises(TooLittle, match=r"3 of 43 attempts .* were never counted .*wattmill reconcile"):
        period(life.close())


def test_a_fit_says_what_its_requests_could_not_tell() -> None:
    alone = Covers(prompt_tok=(50, 60), output_tok=(20, 20), at_once=1)
    assert [note.split(":")[0] for note in unseen(alone)] == [
        "never two requests at once", "prompts of 50 to 60 tokens only",
    ]  # fmt: skip
    assert unseen(Covers(prompt_tok=(10, 400), output_tok=(20, 20), at_once=4)) == []


def test_a_long_period_is_thinned_by_whole_busy_stretches(factory: Home) -> None:
    whole = period(factory)
    part = thinned(whole, 40)
    assert 20 < len(part.works) <= 40 and len(part.works) == len(part.sweep.seen)
    assert part.energy_j is not None and part.energy_tok == sum(one.output_tok for one in part.works)
    kept_at = {one.at_s for one in part.sweep.seen}
    for one in part.sweep.seen:
        if not one.company:  # all that was in flight with it is there too
            beside = [o for o in whole.sweep.seen if o.at_s < one.end_s and one.at_s < o.end_s]
            assert {o.at_s for o in beside} <= kept_at
    assert thinned(whole, 1_000) is whole


def test_a_factory_is_simulated_with_the_engine_that_was_fitted_and_its_error_on_the_label(
    tmp_path: Path,
) -> None:
    """Alone: 100 prompt tokens in one step, 20 more tokens, each with the context that there is by then."""
    checked = a_calibration(check_error=0.031, checked_us=2, period_us=(1, 2))
    file = keep(tmp_path, replace(checked, cost=replace(TRUE, overhead_ps=0, attention_ps_per_ktok=0)))
    law = f'calibration = "{file}"\n'
    text = HEAD + owned("near").split("[pools.near.twin.step]")[0] + law
    ran = run(text, tmp_path, stream(per_s=0.3, duration_s=10.0), core="compiled")
    (pool,) = ran.factory.pools
    assert pool.spec.origin.error == 0.031 and pool.spec.origin.provenance == "measured"
    assert "own/m on vllm, fitted to 90 requests on 1970-01-01" in pool.spec.origin.source
    first = ran.attempts[0]
    assert first.ttft_us == pytest.approx(6_000 + 100 * 300, abs=3)
    decoded = first.duration_us - (first.ttft_us or 0)
    assert decoded == pytest.approx(sum(6_000 + 2_000 + 9 * n for n in range(101, 121)), rel=1e-3)
    assert holds(ran.audit)
    for changed, words in (
        (text.replace("own%2Fm.json", "none.json"), "there is no such file; `wattmill twin calibrate` names"),
        (text.replace(law, f'calibration = "{tmp_path / "bad.json"}"\n'), "is no calibration"),
        (
            HEAD + owned("near").replace("[pools.near.twin]\n", f"[pools.near.twin]\n{law}"),
            "keep one, each is",
        ),
    ):
        (tmp_path / "bad.json").write_text("[]")
        with pytest.raises(ValueError, match=words):
            run(changed, tmp_path / words[:9].replace("`", ""), core="compiled")


def test_a_wait_at_the_gate_is_the_gates_and_a_retry_begins_where_it_was_sent(tmp_path: Path) -> None:
    """Each arrives at 0 s and is sent on at 0.5 s: one waited at the gate, one is a retry, one slow."""
    life = Life(tmp_path / "factory")
    facts: list[tuple[int, Fact]] = []
    for n in range(40):
        facts += life.attempt(BEGIN + (10 + n) * S, 200_000, 600_000, 50, 20)
    for n, (queued_us, number) in enumerate(((400_000, 0), (0, 1), (0, 0))):
        (at, intent), (ended, end) = life.attempt(BEGIN + n * S, 700_000, 900_000, 50, 20)
        assert isinstance(intent, Intent) and isinstance(end, End)
        intent = replace(
            intent, queued_us=queued_us, attempt=number, request=intent.seq - number, terms=Terms(tier="free")
        )
        facts += [(at, intent), (ended, replace(end, started_us=at + 500_000))]
    life.write(facts)
    found = period(life.close(), BEGIN, 60)
    waited, again, slow = found.sweep.seen[:3]
    assert [round(one.first_s - one.at_s, 3) for one in (waited, again, slow) if one.first_s] == [
        0.2,
        0.2,
        0.7,
    ]
    assert found.queued == 1
