"""`transformers serve`.

What its release 5.19 does, found by experiment and pinned by `tests/engines`, and our remedy:

- A stream ends without `data: [DONE]`, and its usage comes with the finish: that is taken for the end.
- A stream is stopped within a token or two when its client leaves, other answers go on to their end:
  `always_stream`.
- It keeps no counters and counts at the end only. A chunk may be several tokens, so what was cut off is
  "estimated" from below.
- `n`, `best_of`, `echo` and `tool_choice` are accepted and ignored: refused. So are `logprobs` and
  `response_format`: it has no such capability. `max_completion_tokens` too: `max_tokens` is sent.
- `chat_template_kwargs` may bring another template, which makes any number of tokens of a message, and other
  names break the request: `enable_thinking` only.
- Values of a wrong type or range, and every `logit_bias`, are answered with 500, which would count against
  the engine: refused before.
- Names that it does not know (`ignore_eos` among them) are answered with 422; a missing model with 500.
- The text of a `stop` stays in the answer. Any length of prompt is accepted: the pool's `context_tok` holds.
- One request is worked on at a time (without `--continuous-batching`): declare `slots = 1`.
"""

from __future__ import annotations

import dataclasses

from wattmill.models.engines.contract import checked_by, free_choice, number, only, refuse
from wattmill.models.engines.openai_http import OPENAI_COMPATIBLE


def _thinking_only(value: object) -> str | None:
    if value is None or (isinstance(value, dict) and set(value) <= {"enable_thinking"}):
        return None
    return "may hold 'enable_thinking' only: this engine hands all else to its own functions"


def _one_text(value: object) -> str | None:
    return "must be one text: this engine takes no other" if not isinstance(value, str) else None


def _texts(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return None
    return "must be a text or a list of texts"


TRANSFORMERS = dataclasses.replace(
    OPENAI_COMPATIBLE,
    name="transformers",
    always_stream=True,
    capabilities=frozenset({"chat", "completions"}),
    rules={
        **OPENAI_COMPATIBLE.rules,
        "n": only(1, why="this engine ignores it"),
        "echo": only(False, why="this engine ignores it"),
        "tool_choice": checked_by(free_choice),
        "prompt": checked_by(_one_text),
        "chat_template_kwargs": checked_by(_thinking_only),
        "temperature": number(0, 100),
        "top_p": number(0, 1),
        "frequency_penalty": number(-0.9, 2),
        "seed": number(0, 2**63 - 1),
        "stop": checked_by(_texts),
        "logit_bias": refuse("is answered by this engine with an internal error"),
    },
)
