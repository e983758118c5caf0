"""A scripted model that uses tools: `python agent_engine.py` prints `listening PORT`. No wattmill in it.

It speaks chat completions only, as most engines do. A conversation that offers tools and has no result yet
is answered with a call of the first tool; one with a result, with a sentence that repeats it; one that wants
JSON, with JSON; any other with "hello there". Tokens are words.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ARGUMENTS = ('{"city": ', '"Oslo"}')


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(p.get("text", "") for p in content or ())


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self.whole({"object": "list", "data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.path.endswith("/chat/completions"):
            self.whole({"error": {"message": f"only chat is spoken here, not {self.path}"}}, 404)
            return
        messages = body["messages"]
        prompt = sum(len(text_of(m.get("content")).split()) for m in messages) + 10
        results = [text_of(m["content"]) for m in messages if m["role"] == "tool"]
        if body.get("tools") and not results and body.get("tool_choice") != "none":
            self.answer(body, prompt, call=body["tools"][0]["function"]["name"])
        elif results:
            self.answer(body, prompt, pieces=["The", " tool", f" said {results[-1]}"])
        elif (body.get("response_format") or {}).get("type") == "json_schema":
            self.answer(body, prompt, pieces=list(ARGUMENTS))
        else:
            self.answer(body, prompt, pieces=["hello", " there"])

    def answer(
        self, body: Any, prompt: int, pieces: list[str] | None = None, call: str | None = None
    ) -> None:
        made = len(pieces or ARGUMENTS)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": made,
            "total_tokens": prompt + made,
            "prompt_tokens_details": {"cached_tokens": 4},
        }
        base = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": body["model"]}
        finish = "tool_calls" if call else "stop"
        named = {"name": call, "arguments": "".join(ARGUMENTS)}
        if not body.get("stream"):
            message: dict[str, Any] = {
                "role": "assistant",
                "content": None if call else "".join(pieces or ()),
            }
            if call:
                message["tool_calls"] = [{"id": "call_1", "type": "function", "function": named}]
            choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
            self.whole({**base, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if call:
            start = {"name": call, "arguments": ""}
            deltas.append(
                {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": start}]}
            )
            deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ARGUMENTS]
        deltas += [{"content": piece} for piece in pieces or ()]
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({"choices": [], "usage": usage})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            self.chunk(b"data: " + json.dumps({**base, "object": "chat.completion.chunk", **chunk}).encode())
        self.chunk(b"data: [DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\n\n\r\n" % (len(data) + 2, data))
        self.wfile.flush()

    def whole(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    print("listening", server.server_port, flush=True)
    server.serve_forever()
