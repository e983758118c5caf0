"""The side doors of files and batches on a real socket: who sees what, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import Answer, Rig, rig, run, until

from wattmill.app.batches.door import batch_doors
from wattmill.app.batches.inside import InsideKeys, ask
from wattmill.app.batches.lane import Lane
from wattmill.app.batches.shelf import BatchShelf
from wattmill.app.batches.spec import BatchSettings, FileMeta
from wattmill.app.identify import Entry, Keyring
from wattmill.app.kept.shelf import Shelf
from wattmill.app.kept.spec import KeptLimits
from wattmill.app.kept.store import KeptStore
from wattmill.vocab.caller import Caller

CHAT = "/v1/chat/completions"
LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": CHAT,
    "body": {"model": "m", "max_tokens": 5, "messages": []},
}


def form(content: bytes = b"{}", purpose: str = "batch", **fields: str) -> bytes:
    parts = [("purpose", purpose), *fields.items()]
    body = b"".join(
        b'--bnd\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (k.encode(), v.encode())
        for k, v in parts
    )
    return (
        body
        + b'--bnd\r\ncontent-disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
        + content
        + b"\r\n--bnd--\r\n"
    )


class Doors:
    """A rig with files, batches and, if it is started, the lane; keys are those of the rig and a few more."""

    def __init__(self, r: Rig, folder: Path, settings: BatchSettings, limits: KeptLimits) -> None:
        self.r = r
        self.store = KeptStore(folder / "kept.db", limits=limits)
        self.shelf = BatchShelf(Shelf(self.store), lambda: settings, r.clock.wall_us)
        keys = InsideKeys()
        self.keyring = Keyring(
            {
                secret: Entry(caller, None, None, False)
                for secret, caller in (
                    (b"1", Caller(key=3, name="o/t/me", path=(1, 2, 3))),
                    (b"2", Caller(key=4, name="o/t/narrow", path=(1, 2, 4), endpoints=frozenset({"chat"}))),
                )
            }
        )
        self.keyring.inside = keys.key_of

        async def inside(path: str, headers: dict[bytes, bytes], body: bytes) -> Any:
            return await ask(r.gateway, r.clock, path, headers, body)

        self.lane = Lane(self.shelf, inside, keys, lock=folder / "lock", tier=lambda: None)
        r.more = {"side_doors": batch_doors(self.shelf, self.lane.wake.set)}
        services = r.services()
        plain = services.identify

        def identify(header: bytes | None, wall_us: int) -> Any:
            if header is not None and header.startswith(b"inside "):
                return self.keyring.identify(header, wall_us)
            return plain(header, wall_us)

        services.identify = identify
        r.gateway.use(services)

    async def upload(self, content: bytes = b"{}", **more: Any) -> Any:
        return (await self.r.ask(form(content), path="/v1/files", **more)).json

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.r.ask(method="GET", path=path, **more)

    async def new(self, file: str, **fields: Any) -> Answer:
        asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h", **fields}
        return await self.r.ask(asked, path="/v1/batches")


def served(
    folder: Path,
    test: Callable[[Doors], Awaitable[None]],
    settings: BatchSettings = BatchSettings(),  # noqa: B008
    limits: KeptLimits = KeptLimits(),  # noqa: B008
) -> None:
    async def main() -> None:
        async with rig() as r:
            doors = Doors(r, folder, settings, limits)
            await test(doors)
            doors.shelf._shelf.close()
            assert not r.logged

    run(main())


def test_a_file_is_told_read_listed_and_deleted(tmp_path: Path) -> None:
    async def test(d: Doors) -> None:
        ids = [(await d.upload(b"%d" % n))["id"] for n in range(3)]
        assert (await d.get(f"/v1/files/{ids[1]}/content")).body == b"1"
        told = (await d.get(f"/v1/files/{ids[1]}")).json
        assert (told["bytes"], told["purpose"], told["filename"]) == (1, "batch", "in.jsonl")
        page = (await d.get("/v1/files?limit=2")).json
        assert [f["id"] for f in page["data"]] == [ids[2], ids[1]] and page["has_more"]
        rest = (await d.get(f"/v1/files?limit=2&after={page['last_id']}")).json
        assert [f["id"] for f in rest["data"]] == [ids[0]] and not rest["has_more"]
        gone = await d.r.ask(method="DELETE", path=f"/v1/files/{ids[1]}")
        assert gone.json == {"id": ids[1], "object": "file", "deleted": True}
        for path in (f"/v1/files/{ids[1]}", f"/v1/files/{ids[1]}/content"):
            answer = await d.get(path)
            assert answer.status == 404 and answer.error["code"] == "no_such_item"

    served(tmp_path, test)


def test_pages_of_one_purpose_are_full_whatever_lies_between(tmp_path: Path) -> None:
    async def test(d: Doors) -> None:
        ids = [(await d.upload(b"%d" % n))["id"] for n in range(2)]
        content = (await d.get(f"/v1/files/{ids[0]}")).json
        assert content["purpose"] == "batch"
        other = FileMeta(filename="answers", purpose="batch_output", size=1, key=3)
        for _ in range(3):
            await d.shelf.add_file(3, other, b"1", privacy="internal", keep_s=None)
        page = (await d.get("/v1/files?limit=1&purpose=batch")).json
        assert [f["id"] for f in page["data"]] == [ids[1]] and page["has_more"]
        rest = (await d.get(f"/v1/files?limit=1&purpose=batch&after={page['last_id']}")).json
        assert [f["id"] for f in rest["data"]] == [ids[0]] and not rest["has_more"]

    served(tmp_path, test)


def test_nobody_sees_the_files_of_another_key_or_data_more_sensitive_than_its_own(tmp_path: Path) -> None:
    async def test(d: Doors) -> None:
        mine = (await d.upload())["id"]
        private = (await d.upload(headers=[("x-wattmill-privacy", "private")]))["id"]
        assert (await d.get(f"/v1/files/{mine}", key="narrow")).status == 404
        assert (await d.get("/v1/files", key="narrow")).json["data"] == []
        assert (await d.get(f"/v1/files/{mine}", key=None)).status == 401
        assert (await d.get(f"/v1/files/{private}/content")).status == 404
        assert [f["id"] for f in (await d.get("/v1/files")).json["data"]] == [mine]
        said = [("x-wattmill-privacy", "private")]
        assert (await d.get(f"/v1/files/{private}/content", headers=said)).status == 200
        assert (await d.new(private)).status == 404
        assert (await d.get("/v1/files", headers=[("x-wattmill-privacy", "secret")])).status == 400

    served(tmp_path, test)


def test_keys_of_a_team_share_where_that_is_declared(tmp_path: Path) -> None:
    async def test(d: Doors) -> None:
        mine = (await d.upload())["id"]
        assert (await d.get(f"/v1/files/{mine}", key="narrow")).status == 200

    served(tmp_path, test, BatchSettings(scope="team"))


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"endpoint": "/v1/images"}, 400, "endpoint"),
        ({"completion_window": "soon"}, 400, "completion_window"),
        ({"completion_window": "31d"}, 400, "completion_window"),
        ({"input_file_id": "file-none"}, 404, "id"),
        ({"metadata": {"a": 1}}, 400, None),
        ({"endpoint": None}, 400, None),
    ],
)
def test_a_batch_that_cannot_be_is_refused_with_what_is_wrong(
    tmp_path: Path, fields: dict[str, Any], status: int, param: str | None
) -> None:
    async def test(d: Doors) -> None:
        answer = await d.new((await d.upload())["id"], **fields)
        assert (answer.status, answer.error["param"]) == (status, param)

    served(tmp_path, test)


def test_uploads_and_paths_that_cannot_be_are_refused(tmp_path: Path) -> None:
    async def test(d: Doors) -> None:
        assert (await d.r.ask(form(purpose="vision"), path="/v1/files")).error["param"] == "purpose"
        assert (await d.r.ask(b"{}", path="/v1/files")).error["param"] == "file"
        late = form(**{"expires_after[seconds]": "5"})
        assert (await d.r.ask(late, path="/v1/files")).error["param"] == "expires_after"
        assert (await d.r.ask(method="DELETE", path="/v1/batches")).status == 405
        assert (await d.get("/v1/files/a/b/c")).status == 404
        deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
        assert (await d.r.ask(deep, path="/v1/batches")).error["code"] == "bad_value"
        for odd in ("0", "%C2%B2", "%EF%BC%91", "9" * 5_000):  # digits that are no number, or no end of them
            assert (await d.get(f"/v1/files?limit={odd}")).error["param"] == "limit"
            assert (await d.get(f"/v1/batches?limit={odd}")).error["param"] == "limit"

    served(tmp_path, test)


def test_a_store_without_room_says_so(tmp_path: Path) -> None:
    async def test(d: Doors) -> None:
        answer = await d.r.ask(form(b"x" * 1_200_000), path="/v1/files")
        assert (answer.status, answer.error["code"]) == (413, "no_room")
        assert answer.headers["x-should-retry"] == "false"

    served(tmp_path, test, limits=KeptLimits(item_mib=1, scope_mib=1, total_mib=1))


def test_a_batch_does_not_slip_out_of_a_run(tmp_path: Path) -> None:
    async def test(d: Doors) -> None:
        file = (await d.upload(json.dumps(LINE).encode()))["id"]
        asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        for path, headers in (
            ("/run/run-1/v1/batches", []),
            ("/v1/batches", [("x-wattmill-run", "run-1")]),
            ("/v1/batches", [("baggage", "wattmill.run=run-1")]),
        ):
            told = await d.r.ask(asked, path=path, headers=headers)
            assert (told.status, told.error["code"]) == (400, "field_refused")
        others = await d.r.ask(asked, path="/v1/batches", headers=[("baggage", "a=1")])
        assert others.status == 200

    served(tmp_path, test)


def test_only_so_many_batches_of_a_key_run(tmp_path: Path) -> None:
    async def test(d: Doors) -> None:
        file = (await d.upload(json.dumps(LINE).encode()))["id"]
        assert (await d.new(file)).status == 200
        answer = await d.new(file)
        assert (answer.status, answer.error["code"]) == (429, "too_many_batches")
        assert int(answer.headers["retry-after"]) > 0

    served(tmp_path, test, BatchSettings(most_running=1))


def test_lines_pass_the_gateway_as_requests_of_the_key(tmp_path: Path) -> None:
    """Reserved, journalled and settled like any other; nobody from outside can name a key like that."""

    async def test(d: Doors) -> None:
        lines = [LINE | {"custom_id": str(n)} for n in range(3)] + [
            LINE | {"custom_id": "x", "body": {"model": "n"}}
        ]
        file = (await d.upload("\n".join(map(json.dumps, lines)).encode()))["id"]
        made = (await d.new(file, metadata={"a": "b"})).json
        running = asyncio.create_task(d.lane.run())
        told: dict[str, Any] = made
        while told["status"] != "completed":
            told = (await d.get(f"/v1/batches/{made['id']}")).json
            await asyncio.sleep(0.01)
        assert told["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
        output = (await d.get(f"/v1/files/{told['output_file_id']}/content")).body.splitlines()
        assert [json.loads(one)["custom_id"] for one in output] == ["0", "1", "2"]
        assert [i.path for i in d.r.journal.intents] == [(1, 2, 3)] * 3
        assert {i.label for i in d.r.journal.intents} == {f"{made['id']}/{n}" for n in range(3)}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await until(lambda: d.r.gateway.in_flight == 0)
        d.r.assert_balanced()
        client = await d.r.connect()
        answer = await client.ask(key=None, headers=[("authorization", "inside guess:3")])
        assert answer.status == 401

    served(tmp_path, test)
