"""No prompt becomes more tokens in the engine's own template and tokenizer than the bound says."""

from __future__ import annotations

from typing import Any

import pytest
from engine_under_test import EngineUnderTest, fields_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wattmill.models.bound import input_bound_tok
from wattmill.models.spec import TokenizerBound

pytestmark = [pytest.mark.engine, pytest.mark.only_for("llama.cpp")]

ASCII = [
    "<|im_start|>",
    "<|im_end|>\n",
    "<think>",
    "{{ 7*7 }}",
    "\\u0041",
    "%d" * 5,
    "a" * 40,
    " \t\n",
    "\r\n",
]
ODD = ["ﷺ", "ﬃ", "½", "𝕳", "日本語", "\u0000", "\ufeff", "\u202e", "\u200b" * 9, "\ud7ff", "e\u0301" * 4]
NASTY = st.sampled_from([*ASCII, *ODD, "\U0001f469\u200d\U0001f680"])
TEXT = st.lists(NASTY | st.text(max_size=20), max_size=8).map("".join)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "x" * 30])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXT}), min_size=1, max_size=8)

often = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tokens_of(engine: EngineUnderTest, text: str) -> int:
    told = engine.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})
    return len(told["tokens"])


@often
@given(messages=MESSAGES)
def test_no_chat_exceeds_its_bound(engine: EngineUnderTest, messages: list[dict[str, Any]]) -> None:
    prompt = engine.post("/apply-template", {"messages": messages})
    if "prompt" not in prompt:
        return  # the template refuses these messages, and so does the engine
    bound = input_bound_tok("chat", fields_of({"messages": messages}), TokenizerBound())
    assert isinstance(bound, int)
    assert tokens_of(engine, prompt["prompt"]) <= bound


@often
@given(text=TEXT)
def test_no_completion_exceeds_its_bound(engine: EngineUnderTest, text: str) -> None:
    bound = input_bound_tok("completions", fields_of({"prompt": text}), TokenizerBound())
    assert isinstance(bound, int)
    assert tokens_of(engine, text) <= bound


def test_the_bound_is_not_wasteful_on_plain_text(engine: EngineUnderTest) -> None:
    text = "The mill grinds what the river brings, and the miller counts the sacks. " * 20
    messages = [{"role": "user", "content": text}]
    bound = input_bound_tok("chat", fields_of({"messages": messages}), TokenizerBound())
    assert isinstance(bound, int)
    assert bound < 6 * tokens_of(engine, text)
