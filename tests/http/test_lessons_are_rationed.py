"""A place that ends many requests between two sweeps teaches by the first of them, then after the sweep."""

from __future__ import annotations

from gateway_rig import STREAM, rig, run, until

from wattmill.app.gates.runaway import _is_news
from wattmill.distribution.backend_state import LESSONS


def test_lessons_are_used_up_by_answers_and_given_back_by_the_sweep() -> None:
    async def test() -> None:
        async with rig() as r:
            taught: list[object] = []
            r.more = {"learn": lambda *what: taught.append(what)}
            r.gateway.use(r.services())
            state = r.gateway.state("p0")
            r.gateway._timer.cancel()  # no sweep but ours
            state.lessons = 2
            for _ in range(3):
                assert (await r.ask(STREAM)).status == 200
            assert len(taught) == 2 and state.lessons == 0
            r.gateway._sweep()
            await until(lambda: state.lessons == LESSONS)
            await r.ask(STREAM)
            assert len(taught) == 3
            r.assert_balanced()

    run(test())


def test_of_a_storm_of_warnings_few_are_written_down() -> None:
    told = [count for count in range(1, 1_001) if _is_news(count)]
    assert told == [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256, 512]
