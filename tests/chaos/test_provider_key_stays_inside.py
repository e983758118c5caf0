"""A provider's key goes to the provider and nowhere else, even if the provider repeats it in its errors."""

from __future__ import annotations

import http.server
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from factory import Factory, declaration, free_port, running, wattmill
from factory import http as fetch

SECRET = "sk-planted-0123456789abcdef"
ANSWERS = {"bad": 400, "auth": 401, "limit": 429, "broken": 500}


class Indiscreet(http.server.BaseHTTPRequestHandler):
    """A provider that quotes the key it was sent, in errors and in the middle of a stream."""

    seen: set[str] = set()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        sent = self.headers["authorization"]
        self.seen.add(sent)
        what = body["messages"][0]["content"]
        if what == "stream":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            piece = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
            self.wfile.write(f"data: {json.dumps({'error': {'message': f'you sent {sent}'}})}\n\n".encode())
            return
        text = json.dumps({"error": {"message": f"wrong key {sent}", "type": "x", "code": "y"}}).encode()
        self.send_response(ANSWERS[what])
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Indiscreet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_planted_key_is_in_no_answer_file_log_figure_or_other_process(
    tmp_path: Path, provider: int
) -> None:
    port, admin_port = free_port(), free_port()
    toml = declaration(
        {"mock": f"http://127.0.0.1:{provider}/v1"}, model="mock", port=port, admin_port=admin_port
    ).replace('adapter = "openai"', 'adapter = "openai"\napi_key_env = "PLANTED_KEY"')
    factory = Factory(tmp_path / "home", toml, port=port)
    factory.env = {"PLANTED_KEY": SECRET}
    said: dict[str, bytes] = {}
    with running(factory):
        ids = []
        for what in (*ANSWERS, "stream"):
            ask = {"model": "mock", "max_tokens": 5, "messages": [{"role": "user", "content": what}]}
            ask["stream"] = what == "stream"
            headers = {"authorization": f"Bearer {factory.key}"}
            _, told, body = fetch(factory.url + "/v1/chat/completions", body=ask, headers=headers)
            said[f"answer to {what}"] = repr(told).encode() + body
            ids.append(told["x-request-id"])
        assert Indiscreet.seen == {f"Bearer {SECRET}"}  # the provider itself got it
        token = (factory.home / "admin.token").read_text().strip()
        admin = f"http://127.0.0.1:{admin_port}"
        for path in ("/metrics", "/api/figures", "/api/requests", "/api/places", "/api/prices"):
            said[path] = fetch(admin + path, headers={"authorization": f"Bearer {token}"})[2]
        for one in ids:
            said[f"explain {one}"] = wattmill("explain", one, "--home", str(factory.home)).stdout.encode()
        for role, pid in factory.pids().items():
            if role != "supervisor" and not role.startswith("gateway"):
                said[f"environment of {role}"] = Path(f"/proc/{pid}/environ").read_bytes()
            said[f"command line of {role}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
    said["what up printed"] = factory.log.read_bytes()
    said |= {str(p): p.read_bytes() for p in factory.home.rglob("*") if p.is_file()}
    assert len(said) > 20
    leaks = [where for where, text in said.items() if re.search(SECRET.encode(), text)]
    assert leaks == []
