"""Defects of our own: a logged 500, nothing leaked, and the books as careful as ever."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_rig import CHAT, Answer, Rig, rig, run


def broken(r: Rig, where: str) -> None:
    """Plant a defect that raises where it is reached."""

    def boom(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"planted in {where}")

    services = r.gateway.services
    if where == "end":
        r.journal.ends_fail = True
    elif where in ("identify", "route", "rate", "worst_case", "energy", "admit"):
        setattr(services, where, boom)
    elif where == "reserve":
        r.purse.reserve = boom  # type: ignore[method-assign]
    elif where == "lease":
        r.purse.lease_first = True
        r.purse.lease = boom  # type: ignore[method-assign]
    elif where == "intent":
        r.journal.append_intent = boom  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "where", ["identify", "route", "rate", "worst_case", "energy", "admit", "reserve", "lease", "intent"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_defect_is_a_logged_500_and_leaks_nothing(where: str, stream: bool) -> None:
    async def test() -> None:
        async with rig() as r:
            broken(r, where)
            a: Answer = await r.ask(CHAT | {"stream": stream})
            if a.status == 200:  # the stream had begun
                assert a.events[-1]["error"]["code"] == "internal"
            else:
                assert (a.status, a.error["code"]) == (500, "internal")
            assert [str(e) for e in r.logged] == [f"planted in {where}"]
            r.assert_balanced()

    run(test())


@pytest.mark.parametrize("method", ["feed", "reading"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_defect_in_an_adapter_leaks_nothing(
    method: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wattmill.models.engines.tally import Tally

    def boom(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Tally, method, boom)

    async def test() -> None:
        async with rig(adapter="llama.cpp") as r:
            a = await r.ask(CHAT | {"stream": stream})
            code = a.events[-1]["error"]["code"] if a.status == 200 else a.error["code"]
            assert code == "internal" and len(r.logged) == 1
            r.assert_balanced()
            monkeypatch.undo()
            assert (await r.ask()).status == 200

    run(test())


def test_an_end_that_cannot_be_written_keeps_its_reservation_charged() -> None:
    async def test() -> None:
        async with rig() as r:
            r.journal.ends_fail = True
            a = await r.ask()
            assert a.status == 200
            (intent,) = r.journal.intents
            assert r.purse.held_nusd == 0 and r.purse.spent_nusd == intent.reserved_nusd
            assert r.gateway.snapshot()["wattmill_journal_failures_total"] == [[[], 1]]

    run(test())
