"""Runs on the data port: opened by a key, named in three ways, capped at every level, ended at once."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from gateway_engine import Wire, answer_body, well
from gateway_rig import CHAT, STREAM, price, run, until
from msgspec.structs import replace
from runs_rig import Declared, runs_rig, second_worker

from wattmill.app.gates.tier import TierGate
from wattmill.app.identify import read_entries
from wattmill.app.runs.minding import find_run, pause, resume, stop, top_up
from wattmill.app.runs.settings import RunawaySettings, RunSettings
from wattmill.distribution.gate import WAIT
from wattmill.vocab.fact import Refused, RunawaySeen
from wattmill.vocab.tier import Tier

pytestmark = pytest.mark.timeout(60)


async def talkative(wire: Wire) -> None:
    """As many tokens as it may, and says that the length ended it."""
    most = wire.body.get("max_completion_tokens") or wire.body.get("max_tokens") or 1
    if not wire.body.get("stream"):
        body = answer_body("x " * most, prompt=5, output=most)
        body["choices"][0]["finish_reason"] = "length"
        await wire.json(body)
        return
    await wire.stream_head()
    for _ in range(most):
        await wire.chunk("x ")
    await wire.chunk(None, finish="length")
    await wire.usage_chunk(5, most)
    await wire.done()


WAYS = ("header", "baggage", "url")


def named(way: str, id: str) -> dict[str, Any]:
    if way == "url":
        return {"path": f"/run/{id}/v1/chat/completions"}
    if way == "header":
        return {"headers": [("x-wattmill-run", id)]}
    return {"headers": [("baggage", "tenant=a"), ("baggage", f"wattmill.run={id};ttl=1,other=b")]}


@pytest.mark.parametrize("way", WAYS)
def test_a_request_is_in_the_run_that_it_names_and_all_above_it_pay(tmp_path: Path, way: str) -> None:
    async def test() -> None:
        heads = []

        async def engine(wire: Wire) -> None:
            heads.append(wire.head.lower())
            await well(wire)

        async with runs_rig(tmp_path, engine) as f:
            opened = await f.open(budget="1 USD", agent="coder")
            answer = await f.ask(CHAT, **named(way, opened["id"]))
            assert answer.status == 200
            (intent,) = f.r.journal.intents
            assert intent.path[-1] == opened["node"] and intent.below == 2
            assert intent.key == f.keyring.identify(f"Bearer {f.secrets['mine']}".encode(), 0).key  # type: ignore[union-attr]
            assert all(f.purse.charged(node) == f.r.journal.ends[0].charge_nusd > 0 for node in intent.path)
            assert b"baggage" not in heads[0] and b"wattmill-run" not in heads[0]
            assert opened["id"].lower().encode() not in heads[0]
            await f.tick()
            shown = (await f.ask(path=f"/v1/runs/{opened['id']}", method="GET")).json
            assert shown["spent_usd"] == f"{f.r.journal.ends[0].charge_nusd / 1e9:.9f}"

    run(test())


@pytest.mark.parametrize(("one", "two"), [("header", "baggage"), ("header", "url"), ("baggage", "url")])
def test_names_that_disagree_are_refused_and_names_that_agree_are_not(
    tmp_path: Path, one: str, two: str
) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            a, b = await f.open(), await f.open()
            both = named(one, a["id"])
            other = named(two, b["id"])
            mixed = {**both, **other, "headers": [*both.get("headers", []), *other.get("headers", [])]}
            answer = await f.ask(CHAT, **mixed)
            assert (answer.status, answer.error["code"]) == (400, "run_mismatch")
            assert answer.headers["x-should-retry"] == "false" and not f.r.journal.intents
            other = named(two, a["id"])
            same = {**both, **other, "headers": [*both.get("headers", []), *other.get("headers", [])]}
            assert (await f.ask(CHAT, **same)).status == 200

    run(test())


def test_a_run_of_another_key_is_as_unknown_as_one_that_never_was(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            mine = await f.open()
            assert len(mine["id"]) >= 26  # 128 random bits and more
            assert (await f.ask(CHAT, path=f.in_run(mine))).status == 200  # it is known to the worker now
            answers = [
                await f.ask(CHAT, path=f"/run/{id}/v1/chat/completions", key="other")
                for id in (mine["id"], "run-never", mine["id"][:-1] + "x")
            ]
            answers += [
                await f.ask(path=f"/v1/runs/{id}", method="GET", key="other")
                for id in (mine["id"], "run-never")
            ]
            answers.append(await f.ask(b"{}", path=f"/v1/runs/{mine['id']}/close", key="other"))
            assert {a.status for a in answers} == {404}
            assert len({a.error["message"] for a in answers}) == 1

    run(test())


def test_a_key_that_requires_a_run_serves_nothing_outside_of_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path, requires_run=True) as f:
            for headers in ([], [("baggage", "tenant=a")]):
                answer = await f.ask(CHAT, headers=headers)
                assert (answer.status, answer.error["code"]) == (403, "run_required")
                assert answer.headers["x-should-retry"] == "false"
            opened = await f.open(budget="1 USD")
            assert (await f.ask(CHAT, path=f.in_run(opened))).status == 200
            assert (await f.ask(CHAT, key="other")).status == 200  # the rule is the key's own
            assert len(f.r.journal.of(Refused)) == 2

    run(test())


def test_a_run_is_known_to_every_worker_at_once_and_paused_everywhere(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f, second_worker(f) as g:
            opened = await f.open(budget="1 USD")
            # No tick between: the miss is looked up.
            assert (await g.ask(CHAT, path=g.in_run(opened))).status == 200
            assert (await f.ask(CHAT, path=f.in_run(opened))).status == 200
            pause(f.control, find_run(f.control, str(opened["node"])), "lunch")
            for worker in (f, g):
                await worker.tick()
                answer = await worker.ask(CHAT, path=worker.in_run(opened))
                assert (answer.status, answer.error["code"]) == (429, "run_paused")
                assert "lunch" in answer.error["message"] and answer.headers["x-should-retry"] == "false"
            resume(f.control, find_run(f.control, str(opened["node"])))
            for worker in (f, g):
                await worker.tick()
                assert (await worker.ask(CHAT, path=worker.in_run(opened))).status == 200
            stop(f.control, find_run(f.control, opened["name"]), None)
            await g.tick()
            answer = await g.ask(CHAT, path=g.in_run(opened))
            assert (answer.status, answer.error["code"]) == (410, "run_ended")

    run(test())


def test_many_that_ask_for_an_unknown_run_at_once_are_one_look_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f, second_worker(f) as g:
            opened = await f.open()
            looks = []
            read = g.runs.desk._read
            g.runs.desk._read = lambda id: (looks.append(id), read(id))[1]  # type: ignore[func-returns-value,method-assign]
            answers = await asyncio.gather(*(g.ask(CHAT, path=g.in_run(opened)) for _ in range(20)))
            assert {a.status for a in answers} == {200} and len(looks) == 1

    run(test())


def test_who_guesses_ids_holds_up_nobody_else(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            mine = await f.open()
            plain, looked = f.runs.desk._read, 0

            def slow(id: str) -> Any:
                nonlocal looked
                looked += 1
                time.sleep(0.01)
                return plain(id)

            f.runs.desk._read = slow  # type: ignore[method-assign]

            async def guess(n: int) -> None:
                for turn in range(6):
                    answer = await f.ask(CHAT, key="other", path=f"/run/run-{n}-{turn}/v1/chat/completions")
                    assert answer.error["code"] == "unknown_run", "its own turn comes too"

            async with asyncio.TaskGroup() as group:
                for n in range(64):
                    group.create_task(guess(n))
                await until(lambda: looked > 8)
                assert (await f.ask(CHAT, path=f.in_run(mine))).status == 200
                assert looked < 200, "it did not have to wait for all of them"

    run(test())


def test_a_cap_is_never_passed_and_a_top_up_lets_the_run_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path, talkative) as f:
            opened = await f.open(budget="0.01 USD")
            node = opened["node"]
            body = CHAT | {"max_tokens": 100}
            last = None
            for _ in range(40):
                last = await f.ask(body, path=f.in_run(opened))
                await f.tick()
                if last.status != 200:
                    break
            assert last is not None and (last.status, last.error["code"]) == (429, "budget_exceeded")
            assert last.headers["x-should-retry"] == "false" and opened["name"] in last.error["message"]
            assert 0.8 * 10**7 < f.purse.charged(node) <= 10**7
            assert sum(e.charge_nusd for e in f.r.journal.ends) == f.purse.charged(node)
            assert all(e.overrun_nusd == 0 for e in f.r.journal.ends)
            top_up(f.control, find_run(f.control, str(node)), 10**7)
            await f.tick()
            assert (await f.ask(body, path=f.in_run(opened))).status == 200

    run(test())


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_the_cap_cut_short_is_kept_and_says_why(tmp_path: Path, stream: bool) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path, talkative) as f:
            opened = await f.open(budget="0.002 USD")  # some 75 of 500 tokens, at 20 USD per million
            body = (STREAM if stream else CHAT) | {"max_tokens": 500}
            answer = await f.ask(body, path=f.in_run(opened))
            assert answer.status == 200
            if stream:
                assert 10 < len(answer.text.split()) < 500
                finishes = [
                    c["finish_reason"] for e in answer.events if isinstance(e, dict) for c in e["choices"]
                ]
                assert finishes[-1] == "length"
                assert "stopped_by=budget" in answer.body.decode() and answer.body.endswith(
                    b"data: [DONE]\n\n"
                )
            else:
                assert answer.json["choices"][0]["finish_reason"] == "length"
                assert answer.headers["x-wattmill-stopped-by"] == "budget"
            assert f.purse.charged(opened["node"]) <= 2_000_000
            # Its own limit, and not the budget, ends the next one.
            wide = await f.open(budget="1 USD")
            answer = await f.ask(body | {"max_tokens": 5}, path=f.in_run(wide))
            assert b"stopped_by" not in answer.body and "x-wattmill-stopped-by" not in answer.headers

    run(test())


def test_soft_stages_tell_how_much_is_spent_and_prefer_the_cheapest_place(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path, talkative) as f:
            opened = await f.open(budget="0.1 USD")
            seen, frugal = [], []
            route = f.r.gateway.services.route

            def watching(ask: Any, *more: Any) -> Any:
                frugal.append(ask.frugal)
                return route(ask, *more)

            f.r.gateway.services.route = watching
            while (answer := await f.ask(CHAT | {"max_tokens": 100}, path=f.in_run(opened))).status == 200:
                seen.append(answer.headers.get("x-wattmill-budget"))
                await f.tick()
            told = [line for line in seen if line]
            assert seen[0] is None and told
            percents = [int(line.split("%")[0]) for line in told]
            assert percents == sorted(percents) and percents[0] >= 80 > percents[0] - 10
            assert {line.split("stage=")[1].split(";")[0] for line in told} == {"saving", "last-call"}
            assert all(line.endswith(f"node=org/team/mine/{opened['name']}") for line in told)
            assert "x-wattmill-budget" in answer.headers
            assert frugal[: len(seen)] == [line is not None for line in seen]

    run(test())


def test_near_its_cap_a_tier_that_allows_it_is_served_in_a_lower_one(tmp_path: Path) -> None:
    high = Tier(name="premium", number=1, rank=30, ttft_s=2.0)
    low = Tier(name="free", number=0, rank=5, context_tok=1_000, privacy="private")

    async def test() -> None:
        async with runs_rig(tmp_path, talkative) as f:
            services = f.r.gateway.services
            (place,) = services.backends.values()
            model = place.models["m"]
            tiers = {
                "premium": replace(model, charge=price(31, 100, 200)),
                "free": replace(model, charge=price(32, 1, 2)),
            }
            backend = replace(place, models={"m": replace(model, by_tier=tiers)})
            gate = TierGate({"premium": high, "free": low})
            opened = await f.open(budget="0.1 USD")
            await f.tick()
            f.keyring.replace(read_entries(f.control, tier="premium"))
            f.r.gateway.use(
                dataclasses.replace(
                    services,
                    backends={place.pool: backend},
                    gates=(gate, *f.runs.run_gates({"premium": low})),
                )
            )
            told = []
            for _ in range(40):
                answer = await f.ask(CHAT | {"max_tokens": 20}, path=f.in_run(opened))
                assert answer.status == 200
                told.append(answer.headers.get("x-wattmill-budget"))
                await f.tick()
            at = next(n for n, line in enumerate(told) if line)
            by_price = [intent.charge_price for intent in f.r.journal.intents]
            assert by_price == [31] * at + [32] * (40 - at) and 0 < at < 40
            assert all(line.endswith("; tier=free") for line in told[at:])
            assert [intent.privacy for intent in f.r.journal.intents[at:]] == ["private"] * (40 - at)
            assert all(intent.terms.tier == "free" for intent in f.r.journal.intents[at:])
            # What is too long for the lower one stays where it is.
            answer = await f.ask(CHAT | {"max_tokens": 990}, path=f.in_run(opened))
            assert "tier=" not in answer.headers["x-wattmill-budget"]

    run(test())


def test_a_sub_run_gets_no_more_than_its_parent_has_left_and_what_it_leaves_returns(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path, talkative) as f:
            parent = await f.open(budget="0.01 USD")
            await f.ask(CHAT | {"max_tokens": 200}, path=f.in_run(parent))
            await f.tick()
            spent = f.purse.charged(parent["node"])
            child = await f.open(budget="5 USD", parent=parent["id"])
            assert child["budget_usd"] == f"{(10**7 - spent) / 1e9:.9f}" and "note" in child
            assert child["depth"] == 2
            assert (await f.ask(CHAT, path=f.in_run(child))).status == 200
            used = f.purse.charged(child["node"])
            assert f.purse.charged(parent["node"]) == spent + used
            closed = (await f.ask(b"{}", path=f"/v1/runs/{child['id']}/close")).json
            assert closed["state"] == "closed"
            await f.tick()
            again = await f.open(budget="5 USD", parent=parent["id"])
            assert again["budget_usd"] == f"{(10**7 - spent - used) / 1e9:.9f}"

    run(test())


def test_closing_a_run_closes_all_below_it_and_ended_runs_serve_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            top = await f.open()
            # The run that a request to /v1/runs is in is the parent, as for any other request.
            below = (await f.ask(b"{}", path=f"/run/{top['id']}/v1/runs")).json
            assert below["depth"] == 2
            assert (await f.ask(CHAT, path=f.in_run(below))).status == 200
            await f.ask(b"{}", path=f"/v1/runs/{top['id']}/close")
            for one in (top, below):
                answer = await f.ask(CHAT, path=f.in_run(one))
                assert (answer.status, answer.error["code"]) == (410, "run_ended")
            answer = await f.ask(b'{"parent": "%s"}' % top["id"].encode(), path="/v1/runs")
            assert answer.status == 410
            assert (await f.ask(path=f"/v1/runs/{below['id']}", method="GET")).json["state"] == "closed"

    run(test())


def test_a_paused_run_holds_those_below_it_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            top = await f.open()
            below = await f.open(parent=top["id"])
            assert (await f.ask(CHAT, path=f.in_run(below))).status == 200
            pause(f.control, find_run(f.control, str(top["node"])), None)
            await f.tick()
            answer = await f.ask(CHAT, path=f.in_run(below))
            assert answer.error["code"] == "run_paused"

    run(test())


def test_depth_fan_out_and_number_of_runs_are_limited(tmp_path: Path) -> None:
    async def test() -> None:
        settings = Declared(RunSettings(max_open=6, max_depth=3))
        async with runs_rig(tmp_path, settings=settings) as f:
            top = await f.open(max_depth=1, max_fan_out=2)
            children = [await f.open(parent=top["id"]) for _ in range(2)]

            async def refused(**asked: Any) -> str:
                answer = await f.ask(asked or b"{}", path="/v1/runs")
                assert answer.status == 429 and answer.headers["x-should-retry"] == "false"
                return str(answer.error["code"])

            assert await refused(parent=top["id"]) == "run_limit"  # too wide
            assert await refused(parent=children[0]["id"]) == "run_limit"  # too deep
            await f.ask(b"{}", path=f"/v1/runs/{children[0]['id']}/close")
            await f.open(parent=top["id"])  # a closed one makes room
            deep = await f.open()
            for _ in range(2):
                deep = await f.open(parent=deep["id"])
            assert await refused(parent=deep["id"]) == "run_limit"  # runs.max_depth
            assert await refused() == "run_limit"  # runs.max_open

    run(test())


def test_a_run_ends_at_its_time_and_no_child_outlives_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            top = await f.open(expires="0.3s")
            below = await f.open(parent=top["id"], expires="1h")
            assert below["expires_at"] == top["expires_at"]
            assert (await f.ask(CHAT, path=f.in_run(top))).status == 200
            desk = f.runs.desk
            desk._wall_us = lambda: 2**60  # time passes
            answer = await f.ask(CHAT, path=f.in_run(top))
            assert answer.status == 410 and "expired" in answer.error["message"]

            async def ended() -> bool:
                f.runs._expire_at_s = 0.0
                await f.tick()
                return bool(
                    (await f.ask(path=f"/v1/runs/{top['id']}", method="GET")).json["state"] == "closed"
                )

            async with asyncio.timeout(5):
                while not await ended():
                    await asyncio.sleep(0.02)

    run(test())


def test_a_step_has_a_node_of_its_own_below_the_run(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            opened = await f.open(budget="1 USD")
            baggage = [("baggage", f"wattmill.run={opened['id']}, wattmill.step=plan%20it")]
            for _ in range(2):
                assert (await f.ask(CHAT, headers=baggage)).status == 200
            header = [("x-wattmill-step", "act")]
            assert (await f.ask(CHAT, headers=header, path=f.in_run(opened))).status == 200
            one, two, three = f.r.journal.intents
            assert one.path == two.path and one.path[:-1] == three.path[:-1] and one.path != three.path
            assert one.path[-2] == opened["node"] and one.below == 2
            assert f.control.nodes()[one.path[-1]].name == "plan it"
            answer = await f.ask(CHAT, headers=header)
            assert (answer.status, answer.error["code"]) == (400, "bad_header")
            answer = await f.ask(CHAT, headers=[*header, *baggage])
            assert answer.error["code"] == "run_mismatch"
            made = await f.ask({"name": "cheap", "budget": "0 USD"}, path=f"/v1/runs/{opened['id']}/steps")
            assert made.status == 201 and made.json["kind"] == "step"
            answer = await f.ask(CHAT, path=f.in_run(opened), headers=[("x-wattmill-step", "cheap")])
            assert (answer.status, answer.error["code"]) == (429, "budget_exceeded")

    run(test())


@pytest.mark.parametrize("end", ["paused", "stopped"])
@pytest.mark.parametrize("where", ["at its worker", "at another one"])
def test_a_step_that_a_person_holds_is_held_and_the_rest_of_its_run_is_not(
    tmp_path: Path, end: str, where: str
) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f, second_worker(f) as g:
            opened = await f.open(budget="1 USD")
            step = [("x-wattmill-step", "search")]
            assert (await f.ask(CHAT, path=f.in_run(opened), headers=step)).status == 200
            node = f.r.journal.intents[-1].path[-1]
            (stop if end == "stopped" else pause)(f.control, find_run(f.control, str(node)), "enough")
            worker = f if where == "at its worker" else g
            await worker.tick()
            held = await worker.ask(CHAT, path=f.in_run(opened), headers=step)
            assert held.error["code"] == ("run_ended" if end == "stopped" else "run_paused"), held.body
            assert "step 'search' is " + end in held.error["message"]
            assert held.headers["x-should-retry"] == "false"
            assert (await worker.ask(CHAT, path=f.in_run(opened))).status == 200

    run(test())


def test_a_held_agent_opens_no_run_and_its_level_counts(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path, settings=Declared(RunSettings(max_depth=2))) as f:
            opened = await f.open(agent="finder")
            assert opened["depth"] == 2
            deeper = await f.ask({"parent": opened["id"]}, path="/v1/runs")
            assert deeper.error["code"] == "run_limit"
            agent = find_run(f.control, "finder")
            pause(f.control, agent, "lunch")
            await f.tick()
            told = await f.ask({"agent": "finder"}, path="/v1/runs")
            assert (told.error["code"], told.headers["x-should-retry"]) == ("run_paused", "false")
            assert "agent 'finder' is paused: lunch" in told.error["message"]
            resume(f.control, agent)
            await f.tick()
            assert (await f.ask({"agent": "finder"}, path="/v1/runs")).status == 201
            beside = await f.ask({"agent": "finder", "parent": opened["id"]}, path="/v1/runs")
            assert beside.error["code"] == "run_limit"

    run(test())


def test_steps_beyond_their_number_count_at_the_run(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            opened = await f.open()
            for n in range(70):
                headers = [("x-wattmill-step", f"step {n}")]
                assert (await f.ask(CHAT, path=f.in_run(opened), headers=headers)).status == 200
            belows = [intent.below for intent in f.r.journal.intents]
            assert belows == [2] * 64 + [1] * 6

    run(test())


def test_what_cannot_be_asked_is_told_with_the_way_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            for asked, word in (
                ({"budget": "a lot"}, "0.05 USD"),
                ({"budget": 0.05}, "str"),
                ({"budget": ["1 USD", "2 USD"]}, "one"),
                ({"budgets": "1 USD"}, "budgets"),
                ({"expires": "soon"}, "15m"),
                ({"name": "a/b"}, "letters"),
            ):
                answer = await f.ask(asked, path="/v1/runs")
                assert answer.status == 400 and word in answer.error["message"], answer.body
            assert (await f.ask(b"[", path="/v1/runs")).error["code"] == "bad_json"
            deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
            assert (await f.ask(deep, path="/v1/runs")).error["code"] == "bad_json"
            assert (await f.ask(b"{}", path="/v1/runs/x/y/z")).status == 404
            assert (await f.ask(b"{}", path="/v1/runs", key="other")).status == 201
            assert (await f.r.ask(b"{}", path="/v1/runs", key=None)).status == 401

    run(test())


def test_limits_in_other_units_hold_for_a_run(tmp_path: Path) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            opened = await f.open(budget=["1 USD", "3 requests"])
            answers = [await f.ask(CHAT, path=f.in_run(opened)) for _ in range(5)]
            assert [a.status for a in answers] == [200] * 3 + [429] * 2
            listed = (await f.ask(path="/v1/runs", method="GET")).json["data"]
            assert [one["node"] for one in listed] == [opened["node"]] and listed[0]["id"] is None

    run(test())


# --- runaways --------------------------------------------------------------------------------------------

LOOP = CHAT | {"messages": [{"role": "user", "content": "look again"}]}


@pytest.mark.parametrize("inside", [False, True])
def test_a_loop_is_warned_of_in_the_answer_and_in_the_journal(tmp_path: Path, inside: bool) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            more = {"path": f.in_run(await f.open())} if inside else {}
            told = [(await f.ask(LOOP, **more)).headers.get("x-wattmill-runaway") for _ in range(6)]
            assert told[:3] == [None] * 3
            assert told[3] == "warn; rule=repeats; calls=3" and all(told[3:])
            facts = f.r.journal.of(RunawaySeen)
            assert [fact.seq for fact in facts] == [i.seq for i in f.r.journal.intents[3:]]
            assert facts[0].kind == "near_identical" and facts[0].below == int(inside)
            other = await f.ask(CHAT | {"messages": [{"role": "user", "content": "something else"}]}, **more)
            assert "x-wattmill-runaway" not in other.headers

    run(test())


def test_a_loop_in_a_run_pauses_it_until_a_person_says_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        settings = Declared(runaway=RunawaySettings(near_identical="pause"))
        async with runs_rig(tmp_path, settings=settings) as f:
            opened = await f.open(budget="1 USD")
            answers = [await f.ask(LOOP, path=f.in_run(opened)) for _ in range(5)]
            assert [a.status for a in answers] == [200] * 3 + [429] * 2
            assert answers[3].error["code"] == answers[4].error["code"] == "run_paused"
            assert "top-up" in answers[3].error["message"] and answers[3].headers["x-should-retry"] == "false"
            assert (await f.ask(LOOP)).status == 200  # outside of it the key goes on
            await asyncio.gather(*f.runs.desk._tasks)
            found = find_run(f.control, str(opened["node"]))
            assert found.state == "paused" and "runaway" in (found.reason or "")
            resume(f.control, found)
            await f.tick()
            assert (await f.ask(LOOP, path=f.in_run(opened))).status == 200

    run(test())


def test_a_loop_outside_of_runs_is_held_for_a_while_and_other_talk_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        settings = Declared(runaway=RunawaySettings(near_identical="stop", pause_s=30))
        async with runs_rig(tmp_path, settings=settings) as f:
            answers = [await f.ask(LOOP) for _ in range(5)]
            assert [a.status for a in answers] == [200] * 3 + [429] * 2
            assert answers[4].error["code"] == "runaway"
            for refused in answers[3:]:
                assert '[runaway] near_identical = "stop"' in refused.error["message"]
                assert "[runaway.rules] " in refused.error["message"]
            assert 25 <= int(answers[4].headers["retry-after"]) <= 30
            assert (await f.ask(LOOP, key="other")).status == 200
            assert (await f.ask(CHAT)).status == 200
            gate = f.runs.runaway_gate(settings)  # type: ignore[arg-type]
            assert gate is not None
            gate._held = {subject: (0.0, why) for subject, (_, why) in gate._held.items()}  # its time passes
            assert (await f.ask(LOOP)).status == 200

    run(test())


def test_a_slowed_call_waits_and_a_client_that_leaves_meanwhile_sends_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        settings = Declared(runaway=RunawaySettings(near_identical="slow", slow_s=0.3))
        async with runs_rig(tmp_path, settings=settings) as f:
            for _ in range(3):
                await f.ask(LOOP)
            began = f.r.clock.now()
            assert (await f.ask(LOOP)).headers["x-wattmill-runaway"].startswith("slow")
            assert f.r.clock.now() - began >= 0.3
            client = await f.r.connect()
            await client.send(LOOP, key=f.secrets["mine"])
            gate = f.runs.runaway_gate(settings)  # type: ignore[arg-type]
            assert gate is not None
            await until(lambda: gate._waiting)
            intents = len(f.r.journal.intents)
            client.abort()
            await until(lambda: not gate._waiting and not gate._inside)
            assert len(f.r.journal.intents) == intents and f.r.gateway.in_flight == 0

    run(test())


def test_a_failed_call_that_is_repeated_at_once_is_a_storm(tmp_path: Path) -> None:
    async def test() -> None:
        async def failing(wire: Wire) -> None:
            await wire.json({"error": {"message": "no"}}, status=400)

        async with runs_rig(tmp_path, failing) as f:
            told = [(await f.ask(LOOP)).headers.get("x-wattmill-runaway") for _ in range(6)]
            assert told[:4] == [None] * 4 and told[4] == "warn; rule=retries; calls=4"

    run(test())


def test_sub_runs_that_open_sub_runs_are_a_storm(tmp_path: Path) -> None:
    async def test() -> None:
        settings = Declared(runaway=RunawaySettings(fan_out="stop"))
        async with runs_rig(tmp_path, settings=settings) as f:
            top = await f.open()
            alive, generation = [top], 0
            refused = None
            while refused is None and generation < 6:
                generation += 1
                born = []
                for one in alive:
                    for _ in range(3):
                        answer = await f.ask(b"{}", path=f"/run/{one['id']}/v1/runs")
                        if answer.status != 201:
                            refused = answer
                            break
                        born.append(answer.json)
                    if refused is not None:
                        break
                alive = born
            assert refused is not None and generation <= 5 and refused.error["code"] == "run_ended"
            (fact,) = f.r.journal.of(RunawaySeen)
            assert fact.kind == "fan_out" and fact.action == "stop" and fact.count == 32
            await asyncio.gather(*f.runs.desk._tasks)
            await f.tick()
            assert (await f.ask(CHAT, path=f.in_run(alive[0] if alive else top))).status == 410

    run(test())


class Lock:
    """A gate that keeps each request waiting, as a queue does."""

    name = "lock"

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def enter(self, x: Any) -> Any:
        self.waiting.append(x)
        return WAIT

    def left(self, x: Any) -> None: ...


ENDS = {"stopped": 410, "paused": 429, "revoked": 401}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("door", ["/v1/chat/completions", "/v1/messages"])
def test_what_ends_while_a_request_waits_at_a_later_gate_keeps_it_from_being_served(
    tmp_path: Path, end: str, door: str
) -> None:
    async def test() -> None:
        async with runs_rig(tmp_path) as f:
            opened, lock = await f.open(), Lock()
            f.r.gateway.use(dataclasses.replace(f.r.gateway.services, gates=(*f.runs.run_gates(), lock)))
            asking = asyncio.create_task(f.ask(CHAT, path=f.in_run(opened, door)))
            await until(lambda: bool(lock.waiting))
            if end == "revoked":
                f.control.revoke_key(f.control.keys()[0].id)
            else:
                found = find_run(f.control, str(opened["node"]))
                (stop if end == "stopped" else pause)(f.control, found, "enough")
            await f.tick()
            lock.waiting[0].go_on()
            answer = await asking
            assert not f.r.engines[0].seen and not f.r.journal.intents, "nothing may be asked for it"
            assert answer.status == ENDS[end], answer.body

    run(test())


@pytest.mark.parametrize("when", ["leased", "failed over", "answered by a gate"])
def test_a_run_that_was_stopped_is_asked_for_at_no_further_place(tmp_path: Path, when: str) -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def fails_late(wire: Wire) -> None:
            await go.wait()
            await wire.json({"error": {"message": "no"}}, status=503)

        async with runs_rig(tmp_path, fails_late, well) as f:
            opened, lock = await f.open(), Lock()
            if when == "answered by a gate":
                f.r.gateway.use(dataclasses.replace(f.r.gateway.services, gates=(*f.runs.run_gates(), lock)))
            elif when == "leased":
                lease = f.purse.lease

                async def later(*args: Any) -> Any:
                    grant = await lease(*args)
                    lock.waiting.append(grant)
                    await go.wait()
                    return grant

                f.purse.lease = later  # type: ignore[method-assign]
            asking = asyncio.create_task(f.ask(CHAT, path=f.in_run(opened)))
            await until(lambda: bool(lock.waiting or f.r.engines[0].seen))
            stop(f.control, find_run(f.control, str(opened["node"])), "enough")
            await f.tick()
            go.set()
            if when == "answered by a gate":
                lock.waiting[0].answer_with(b"HTTP/1.1 200 OK\r\n", b"{}")
            answer = await asking
            assert answer.error["code"] == "run_ended" and not f.r.engines[1].seen
            assert len(f.r.journal.intents) == (1 if when == "failed over" else 0)
            assert not any(f.purse.reserved().values())

    run(test())
