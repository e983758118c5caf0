"""A small client that talks to an engine as the gateway would: rendered by the adapter, read by the tally."""

from __future__ import annotations

import dataclasses
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from known_engines import KNOWN, Known

from wattmill.models.engines.assemble import Assembler
from wattmill.models.engines.contract import Adapter, Counters
from wattmill.models.engines.tally import Reading, Tally, read_answer
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Endpoint

PATHS: dict[Endpoint, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}


class RefusedByEngine(Exception):
    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:300]!r}")
        self.status = status
        self.body = body


def fields_of(body: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(msgspec.json.encode(body), type=dict[str, msgspec.Raw])


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineUnderTest:
    name: str
    adapter: Adapter
    host: str
    port: int
    model: str
    key: str
    slots: int
    batch: int

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=120)

    @property
    def known(self) -> Known:
        return KNOWN[self.name]

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}", "content-type": "application/json"}

    def get(self, path: str) -> bytes:
        link = self._connect()
        try:
            link.request("GET", path, headers=self.headers)
            return link.getresponse().read()
        finally:
            link.close()

    def post(self, path: str, body: Any) -> Any:
        return json.loads(self.post_bare(path, body)[1])

    def post_bare(self, path: str, body: Any) -> tuple[int, bytes]:
        """Send a body past the adapter; return (status, answer)."""
        link = self._connect()
        try:
            link.request("POST", path, json.dumps(body), self.headers)
            answer = link.getresponse()
            return answer.status, answer.read()
        finally:
            link.close()

    def counters(self) -> Counters:
        assert self.adapter.counters_path is not None
        found = self.adapter.counters(self.get(self.adapter.counters_path))
        assert found is not None, "the engine's counters cannot be read"
        return found

    def at_rest(self, within_s: float = 20.0) -> Counters:
        """Return the counters once nothing runs or waits, and they say the same twice."""
        end = time.monotonic() + within_s
        last = None
        while (now := self.counters()).running or now.waiting or now != last:
            assert time.monotonic() < end, f"still busy after {within_s} s: {now}"
            last = now
            time.sleep(0.02)
        return now

    def check(self, endpoint: Endpoint, body: dict[str, Any]) -> Refusal | None:
        return self.adapter.check(endpoint, fields_of(body))

    def open(
        self, endpoint: Endpoint, body: dict[str, Any], *, clamp: int, stream: bool, n: int = 1
    ) -> Answering:
        sent = self.adapter.render(
            endpoint, fields_of(body), model=self.model, stream=stream, max_output_tok=clamp, choices=n
        )
        link = self._connect()
        link.request("POST", PATHS[endpoint], sent, self.headers)
        return Answering(link)

    def streamed(
        self, endpoint: Endpoint, body: dict[str, Any], *, clamp: int, n: int = 1, show_usage: bool = True
    ) -> tuple[Tally, dict[str, Any], list[bytes]]:
        """Return (tally, the assembled answer, what a client would have got)."""
        prompts = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
        tally = Tally(self.adapter, endpoint, show_usage=show_usage, n=n, prompts=prompts)
        whole = Assembler(endpoint)
        got: list[bytes] = []
        with self.open(endpoint, body, clamp=clamp, stream=True, n=n) as answering:
            for event in answering.events():
                sent_on = tally.feed(event)
                if sent_on is not None:
                    got.append(sent_on)
                    whole.add(sent_on)
        if not tally.done and tally.finish_reason is not None:
            got.append(b"data: [DONE]\n\n")  # the gateway's
        return tally, json.loads(whole.answer()), got

    def whole(
        self, endpoint: Endpoint, body: dict[str, Any], *, clamp: int, n: int = 1
    ) -> tuple[Reading, dict[str, Any]]:
        with self.open(endpoint, body, clamp=clamp, stream=False, n=n) as answering:
            answer = answering.body()
        return read_answer(self.adapter, endpoint, answer), json.loads(answer)


class Answering:
    """One request under way. Leaving the block closes the connection, finished or not."""

    def __init__(self, link: http.client.HTTPConnection) -> None:
        self._link = link
        self._socket = link.sock
        self._response: http.client.HTTPResponse | None = None

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        if self._response is not None:
            self._response.close()
        self._link.close()
        if self._socket is not None:
            self._socket.close()

    def _begin(self) -> http.client.HTTPResponse:
        response = self._response = self._link.getresponse()
        if response.status != 200:
            raise RefusedByEngine(response.status, response.read())
        return response

    def body(self) -> bytes:
        return self._begin().read()

    def events(self) -> Iterator[bytes]:
        response = self._begin()
        lines: list[bytes] = []
        for line in response:
            line = line.rstrip(b"\r\n")
            if line:
                lines.append(line)
            elif lines:
                yield b"\n".join(lines)
                lines = []
