"""`transformers serve`: ignores n, logprobs, schemas and tool_choice, and keeps no token totals."""

from __future__ import annotations

import dataclasses

from wattmill.models.engines.contract import checked_by, free_choice, only
from wattmill.models.engines.openai_http import OPENAI_COMPATIBLE

TRANSFORMERS = dataclasses.replace(
    OPENAI_COMPATIBLE,
    name="transformers",
    always_stream=True,
    capabilities=frozenset({"chat"}),
    rules={
        **OPENAI_COMPATIBLE.rules,
        "n": only(1, why="this engine ignores it"),
        "tool_choice": checked_by(free_choice),
    },
)
