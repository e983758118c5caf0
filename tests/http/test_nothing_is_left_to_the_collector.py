"""A request leaves no ring of references behind: at thousands a second the collector would never rest."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from gateway_rig import CHAT, STREAM, Wire, rig, run, well

from wattmill.distribution.attempt import Attempt
from wattmill.distribution.exchange import Exchange
from wattmill.distribution.http import HttpRequest


async def refusing(wire: Wire) -> None:
    await wire.json({"error": {"message": "busy"}}, status=500)


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
@pytest.mark.parametrize("scripts", [(well,), (refusing, well)], ids=["at once", "failed over"])
def test_a_served_request_is_gone_when_its_answer_is(body: Any, scripts: Any) -> None:
    async def test() -> None:
        async with rig(*scripts) as r:
            await r.ask(body)
            gc.collect()
            gc.disable()
            try:
                for _ in range(3):
                    assert (await r.ask(body)).status == 200
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                left = [one for one in gc.garbage if isinstance(one, Exchange | Attempt | HttpRequest)]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            assert not left

    run(test())
