"""Stored responses: found by whom they belong to and by every worker, continued, deleted; and with
`store: false` nothing of a request is on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_rig import Answer, Rig, rig, run
from polyglot import PROMPT_TOK, polyglot

from wattmill.app.doors.side import side_doors
from wattmill.app.doors.spec import ResponseLimits
from wattmill.app.doors.stored import StoredResponses
from wattmill.app.gates.stored_responses import StoredResponsesGate
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.spec import KeptLimits
from wattmill.app.kept.store import KeptStore
from wattmill.distribution.exchange import Exchange
from wattmill.distribution.gate import Waiting
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal

ASK = {"model": "m", "max_output_tokens": 10}


class Raises:
    """A gate that raises the class, or forbids keeping, as the privacy guard does."""

    def __init__(self, privacy: str | None = None, *, keep: bool = True) -> None:
        self.privacy = privacy
        self.keep = keep
        self.seen: list[tuple[str, str]] = []

    def enter(self, x: Exchange) -> Refusal | Waiting | None:
        self.seen.append((x.ask.privacy, bytes(x.draft.body["messages"]).decode()))
        x.ask = msgspec.structs.replace(x.ask, privacy=self.privacy or x.ask.privacy, keep=self.keep)
        return None

    def left(self, x: Exchange) -> None: ...


@contextlib.asynccontextmanager
async def keeping(
    home: Path,
    *scripts: Any,
    limits: ResponseLimits | None = None,
    room: KeptLimits | None = None,
    gates: tuple[Any, ...] = (),
    **backend: Any,
) -> AsyncIterator[Rig]:
    """Run a worker that stores responses in the kept store of `home`."""
    shelf = Shelf(KeptStore(home / "kept.db", limits=room))
    async with rig(*(scripts or (polyglot(),)), **backend) as r:
        stored = StoredResponses(shelf, limits or ResponseLimits(), wall_us=r.clock.wall_us)
        r.more = {
            "stored": StoredResponsesGate(stored),
            "gates": gates,
            "side_doors": side_doors(r.gateway, stored),
        }
        r.gateway.use(r.services())
        yield r
    await asyncio.to_thread(shelf.close)


async def ask(r: Rig, text: Any, *, key: str = "wm-test-key", **more: Any) -> Answer:
    return await r.ask(ASK | {"input": text} | more, path="/v1/responses", key=key)


def final(answer: Answer) -> Any:
    """The response object, of a stream its last one."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.json
    last = answer.body.decode().rstrip("\n").split("\n\n")[-1]
    return json.loads(last.partition("data: ")[2])["response"]


async def get(r: Rig, path: str, *, method: str = "GET", key: str = "wm-test-key") -> Answer:
    return await r.ask(path=f"/v1/responses/{path}", method=method, key=key)


ADAPTERS = ("openai-compatible", "llama.cpp", "openai")


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_stored_found_and_deleted_by_any_worker(
    tmp_path: Path, adapter: str, stream: bool
) -> None:
    async def test() -> None:
        async with keeping(tmp_path, adapter=adapter) as one, keeping(tmp_path, adapter=adapter) as two:
            made = await ask(one, "my secret", stream=stream, metadata={"a": "b"})
            response = final(made)
            assert response["store"] is True and response["status"] == "completed"
            assert response["metadata"] == {"a": "b"}
            found = await get(two, response["id"])
            assert (found.status, found.json) == (200, response)
            items = (await get(two, f"{response['id']}/input_items")).json
            assert [i["content"][0]["text"] for i in items["data"]] == ["my secret"]
            assert items["has_more"] is False and items["first_id"] == items["data"][0]["id"]
            gone = await get(two, response["id"], method="DELETE")
            assert gone.json == {"id": response["id"], "object": "response", "deleted": True}
            for worker in (one, two):
                again = await get(worker, response["id"])
                assert (again.status, again.error["code"]) == (404, "not_found")
            assert (await get(one, response["id"], method="DELETE")).status == 404
        left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert b"my secret" not in left

    run(test())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_conversation_goes_on_at_any_worker_with_all_that_was_said(tmp_path: Path, adapter: str) -> None:
    async def test() -> None:
        async with keeping(tmp_path, adapter=adapter) as one, keeping(tmp_path, adapter=adapter) as two:
            first = final(await ask(one, "first", instructions="only now"))
            second = final(await ask(two, "second", previous_response_id=first["id"], stream=True))
            assert second["previous_response_id"] == first["id"]
            third = await ask(one, "third", previous_response_id=second["id"])
            assert third.status == 200, third.body
            body = one.engines[0].seen[-1].body
            if adapter == "openai":
                assert "previous_response_id" not in body and body["store"] is False
                texts = [p["text"] for item in body["input"] for p in item["content"]]
            else:
                texts = [message["content"] for message in body["messages"]]
            assert texts == ["first", "hello", "second", "hello", "third"]
            last = one.journal.intents[-1]
            assert last.input_bound_tok > one.journal.intents[0].input_bound_tok  # all of it is reserved for
            one.assert_balanced()
            two.assert_balanced()

    run(test())


def test_a_conversation_with_a_tool_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        tools = [{"type": "function", "name": "w", "parameters": {"type": "object"}}]
        async with keeping(tmp_path, polyglot(tool=True)) as r:
            first = final(await ask(r, "Oslo?", tools=tools))
            (call,) = [item for item in first["output"] if item["type"] == "function_call"]
            result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
            answer = await ask(r, [result], tools=tools, previous_response_id=first["id"])
            assert answer.status == 200, answer.body
            messages = r.engines[0].seen[-1].body["messages"]
            assert [m["role"] for m in messages] == ["user", "assistant", "tool"]
            assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == "c1"

    run(test())


@pytest.mark.parametrize(("scope", "status"), [("key", 404), ("team", 200)])
def test_a_response_belongs_to_its_key_or_to_its_team(tmp_path: Path, scope: Any, status: int) -> None:
    """The other key of the rig stands in the same team."""

    async def test() -> None:
        async with keeping(tmp_path, limits=ResponseLimits(scope=scope)) as r:
            response = final(await ask(r, "hi"))
            services = r.services()
            identify = services.identify

            def other(header: bytes | None, wall_us: int) -> Any:
                caller = identify(b"Bearer narrow" if header == b"Bearer other" else header, wall_us)
                return (
                    msgspec.structs.replace(caller, endpoints=None)
                    if not isinstance(caller, Refusal)
                    else caller
                )

            services.identify = other
            r.gateway.use(services)
            assert (await get(r, response["id"], key="other")).status == status
            continued = await ask(r, "more", key="other", previous_response_id=response["id"])
            assert continued.status == status
            if status == 404:
                assert continued.error["param"] == "previous_response_id"
                assert (await get(r, response["id"], method="DELETE", key="other")).status == 404
                assert (await get(r, response["id"])).status == 200

    run(test())


@pytest.mark.parametrize(("privacy", "status"), [("internal", 404), ("private", 200)])
def test_a_key_of_a_lower_class_does_not_see_what_its_team_has_stored_of_a_higher_one(
    tmp_path: Path, privacy: str, status: int
) -> None:
    """The other key stands in the same team; the maker sees its own, whatever class a guard found."""

    async def test() -> None:
        async with keeping(tmp_path, gates=(Raises("private"),), limits=ResponseLimits(scope="team")) as r:
            response = final(await ask(r, "a secret"))
            services = r.services()
            identify = services.identify

            def other(header: bytes | None, wall_us: int) -> Any:
                if header != b"Bearer other":
                    return identify(header, wall_us)
                caller = identify(b"Bearer narrow", wall_us)
                assert isinstance(caller, Caller)
                return msgspec.structs.replace(caller, endpoints=None, privacy=privacy)

            services.identify = other
            r.gateway.use(services)
            id = response["id"]
            assert (await get(r, id, key="other")).status == status
            assert (await get(r, f"{id}/input_items", key="other")).status == status
            assert (await ask(r, "more", key="other", previous_response_id=id)).status == status
            assert (await get(r, id, method="DELETE", key="other")).status == status
            mine = await get(r, id)
            assert mine.status == (200 if status == 404 else 404), "it was deleted by who may see it"

    run(test())


def test_the_class_of_what_is_continued_holds_for_what_continues_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path, gates=(Raises("private"),)) as r:
            first = final(await ask(r, "a secret"))
        watch = Raises()
        async with keeping(tmp_path, gates=(watch,)) as r:
            await ask(r, "and now", previous_response_id=first["id"])
            (seen,) = watch.seen
            assert seen[0] == "private" and "a secret" in seen[1]  # a guard after it sees all of the prompt
            assert r.journal.intents[0].privacy == "private"
            mine = await ask(r, "other")
            assert mine.status == 200 and r.journal.intents[1].privacy == "internal"

    run(test())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_with_store_false_nothing_is_on_the_disk(tmp_path: Path, adapter: str, stream: bool) -> None:
    async def test() -> None:
        async with keeping(tmp_path, adapter=adapter) as r:
            answer = await ask(r, "canary-7f3a", store=False, stream=stream)
            assert final(answer)["store"] is False
            gone = await get(r, final(answer)["id"])
            assert gone.status == 404
        assert not list(tmp_path.rglob("*")), "nothing was ever kept, so there is no file"

    run(test())


def test_data_that_must_not_be_kept_is_not_and_the_client_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path, gates=(Raises(keep=False),)) as r:
            for stream in (False, True):
                assert final(await ask(r, "canary-7f3a", stream=stream))["store"] is False
        assert not list(tmp_path.rglob("*"))

    run(test())


def test_what_does_not_fit_is_answered_and_the_client_is_told_that_it_is_not_stored(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path, room=KeptLimits(item_mib=1, scope_mib=1, total_mib=1)) as r:
            for stream in (False, True):
                big = final(await ask(r, "x" * 1_100_000, stream=stream))
                assert big["status"] == "completed" and big["store"] is False
            small = final(await ask(r, "hi"))
            assert small["store"] is True
            r.assert_balanced()

    run(test())


def test_stored_responses_expire(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path, limits=ResponseLimits(keep_s=0)) as r:
            assert final(await ask(r, "hi"))["store"] is False  # 0: none is ever stored
        now = [1_000_000_000]
        shelf = Shelf(KeptStore(tmp_path / "kept.db", wall_us=lambda: now[0]))
        stored = StoredResponses(shelf, ResponseLimits(keep_s=60), wall_us=lambda: now[0])
        async with rig(polyglot()) as r:
            r.more = {"stored": StoredResponsesGate(stored), "side_doors": side_doors(r.gateway, stored)}
            r.gateway.use(r.services())
            response = final(await ask(r, "hi"))
            assert (await get(r, response["id"])).status == 200
            now[0] += 61_000_000
            assert (await get(r, response["id"])).status == 404
            continued = await ask(r, "more", previous_response_id=response["id"])
            assert (continued.status, continued.error["code"]) == (404, "not_found")
            assert await shelf.sweep() == 1
        await asyncio.to_thread(shelf.close)

    run(test())


def test_a_deleted_part_ends_what_followed_it_and_a_chain_has_a_longest(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path, limits=ResponseLimits(chain=2)) as r:
            one = final(await ask(r, "1"))
            two = final(await ask(r, "2", previous_response_id=one["id"]))
            three = final(await ask(r, "3", previous_response_id=two["id"]))
            late = await ask(r, "4", previous_response_id=three["id"])
            assert (late.status, late.error["param"]) == (400, "previous_response_id")
            await get(r, one["id"], method="DELETE")
            broken = await ask(r, "3b", previous_response_id=two["id"])
            assert broken.status == 404 and one["id"][:20] in broken.error["message"]
            r.assert_balanced()

    run(test())


def test_a_client_that_leaves_while_its_past_is_looked_up_leaves_nothing_behind(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path) as r:
            first = final(await ask(r, "1"))
            client = await r.connect()
            await client.send(ASK | {"input": "2", "previous_response_id": first["id"]}, path="/v1/responses")
            client.abort()
            from gateway_rig import until

            await until(lambda: not r.gateway.in_flight)
            await asyncio.sleep(0.05)
            r.assert_balanced()
            assert not r.logged

    run(test())


def test_an_aborted_response_is_not_stored(tmp_path: Path) -> None:
    async def test() -> None:
        from gateway_rig import until

        async with keeping(tmp_path, polyglot(fault="stall")) as r:
            client = await r.connect()
            await client.send(ASK | {"input": "canary-7f3a", "stream": True}, path="/v1/responses")
            await client.head()
            client.abort()
            await until(lambda: r.journal.ends)
        assert not list(tmp_path.rglob("*"))

    run(test())


# --- the paths beside the doors -----------------------------------------------------------------------------


def test_pages_of_input_items(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path) as r:
            items = [{"role": "user", "content": str(n)} for n in range(5)]
            response = final(await ask(r, items))
            page = (await get(r, f"{response['id']}/input_items?limit=2")).json
            assert [i["content"] for i in page["data"]] == ["4", "3"] and page["has_more"] is True
            rest = (await get(r, f"{response['id']}/input_items?limit=9&after={page['last_id']}")).json
            assert [i["content"] for i in rest["data"]] == ["2", "1", "0"] and rest["has_more"] is False
            up = (await get(r, f"{response['id']}/input_items?order=asc&limit=1")).json
            assert [i["content"] for i in up["data"]] == ["0"]
            assert (await get(r, f"{response['id']}/input_items?limit=0")).status == 400
            assert (await get(r, f"{response['id']}/input_items?after=nothing")).status == 400

    run(test())


def test_paths_beside_the_doors_say_what_there_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with keeping(tmp_path) as r:
            cancel = await r.ask(ASK, path="/v1/responses/resp_1/cancel")
            assert (cancel.status, cancel.error["code"]) == (400, "bad_value")
            assert (await get(r, "a/b/c")).status == 404
            assert (await r.ask(ASK, path="/v1/responses/resp_1")).status == 405
            assert (await get(r, "resp_1", key="narrow")).error["code"] == "out_of_scope"
            lost = await r.ask(ASK, path="/v1/messages/poems")
            assert lost.json["type"] == "error" and lost.json["error"]["type"] == "not_found_error"
            stream = await get(r, "resp_1?stream=true")
            assert stream.error["code"] == "field_refused"

    run(test())


MESSAGES = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "system": "be brief"}


@pytest.mark.parametrize(("adapter", "exact"), [("llama.cpp", True), ("anthropic", True), ("vllm", False)])
def test_tokens_are_counted_by_the_place_or_bounded_and_the_answer_says_which(
    tmp_path: Path, adapter: str, exact: bool
) -> None:
    async def test() -> None:
        async with keeping(tmp_path, adapter=adapter) as r:
            told = await r.ask(
                MESSAGES, path="/v1/messages/count_tokens", headers=[("x-api-key", "wm-test-key")]
            )
            assert told.status == 200, told.body
            if exact:
                assert told.json == {"input_tokens": PROMPT_TOK, "counted_by": "place:p0"}
                assert told.headers["x-wattmill-count"] == "measured;place:p0"
                body = r.engines[0].seen[0].body
                assert "max_tokens" not in body and "stream" not in body and body["model"] == "up"
            else:
                assert told.json["counted_by"] == "bound" and told.json["input_tokens"] > 10
                assert told.headers["x-wattmill-count"] == "declared;bound"
            assert not r.journal.facts, "counting is no request and costs nothing"
            responses = await r.ask({"model": "m", "input": "hi"}, path="/v1/responses/input_tokens")
            assert responses.json["object"] == "response.input_tokens"
            wrong = await r.ask({"model": "nobody", "input": "hi"}, path="/v1/responses/input_tokens")
            assert wrong.error["code"] == "unknown_model"
            bad = await r.ask({"model": "m"}, path="/v1/messages/count_tokens")
            assert bad.json["type"] == "error" and bad.status == 400

    run(test())


def test_a_place_that_cannot_count_now_leaves_the_bound(tmp_path: Path) -> None:
    async def test() -> None:
        async def broken(wire: Any) -> None:
            await wire.json({"error": "no"}, status=500)

        for script in (broken, polyglot(fault="reset")):
            async with keeping(tmp_path, script, adapter="llama.cpp") as r:
                told = await r.ask(MESSAGES, path="/v1/messages/count_tokens")
                assert told.json["counted_by"] == "bound"

    run(test())
