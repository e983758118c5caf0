"""Laws of redaction: nothing that a pattern finds leaves, and whatever was replaced comes back unchanged,
however the answer is cut into events."""

from __future__ import annotations

import itertools
import json
from random import Random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.distribution.privacy.patterns import BUILT_IN
from wattmill.distribution.privacy.policy import Examined, examine
from wattmill.distribution.privacy.redact import merged
from wattmill.distribution.privacy.restore import Restorer
from wattmill.distribution.privacy.scan import Scanner
from wattmill.distribution.privacy.spec import Rule

RULES = tuple(Rule(pattern=p, deed="redact") for p in BUILT_IN.values())
SCANNER = Scanner([rule.pattern for rule in RULES])
SECRETS = (
    "ann.lee@mail.example.org", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "+49 30 901820",
    "203.0.113.7", "sk-proj-abcdefghijklmnopqrstuvwx",
)  # fmt: skip

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="[]"), max_size=12)
pieces = st.lists(st.one_of(words, st.sampled_from(SECRETS)), min_size=1, max_size=8)


chances = st.integers(0, 2**32).map(Random)  # a draw of hypothesis for each character takes half a minute


def escaped(text: str, chance: Random) -> str:
    """Write `text` as JSON, each character as it is or as an escape, by chance."""
    out = []
    for char in text:
        code = ord(char)
        if code < 32 or char in '"\\' or (code < 0x10000 and chance.random() < 0.25):
            out.append(f"\\u{code:04x}" if code < 0x10000 else char)
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


@settings(max_examples=150, deadline=None)
@given(chances, st.lists(pieces, min_size=1, max_size=3))
def test_nothing_that_a_pattern_finds_leaves_however_it_is_escaped(
    chance: Random, texts: list[list[str]]
) -> None:
    contents = [" ".join(parts) for parts in texts]
    messages = ",".join(f'{{"role":"user","content":{escaped(text, chance)}}}' for text in contents)
    raw = b'{"model":"m","messages":[%b]}' % messages.encode()
    body = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    done = examine(body, raw, RULES, SCANNER)
    assert isinstance(done, Examined)
    sent = [message["content"] for message in json.loads(bytes(done.body["messages"]))]
    for text, before in zip(sent, contents, strict=True):
        clean = text.encode()
        assert not any(SCANNER.spans(kind, clean) for kind in SCANNER.kinds(clean)), (text, before)
    if done.redaction is None:
        assert sent == contents
    else:
        back = Restorer(done.redaction.originals)
        whole = back.whole(json.dumps({"choices": [{"message": {"content": sent}}]}).encode())
        assert json.loads(whole)["choices"][0]["message"]["content"] == contents


ORIGINALS = {"[EMAIL_1]": 'a "quoted"\\ [EMAIL_2] one', "[EMAIL_2]": "b@c.example", "[IBAN_1]": "DE89"}
answers = st.lists(
    st.one_of(
        st.sampled_from(sorted(ORIGINALS)), st.sampled_from(["[", "]", "[EMAIL_", "x", "[[", "ä", "\n"])
    ),
    max_size=12,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(chances, st.lists(answers, min_size=1, max_size=3))
def test_originals_come_back_however_the_answer_is_cut(chance: Random, texts: list[str]) -> None:
    """Three choices, cut at random and interleaved, one of them a tool call's arguments."""
    events: list[bytes] = []
    left = dict(enumerate(texts))
    while left:
        index = chance.choice(sorted(left))
        size = chance.randint(0, 5)
        part, left[index] = left[index][:size], left[index][size:]
        ends = not left[index]
        delta: dict[str, Any] = (
            {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}
            if index == 1
            else {"content": part}
        )
        if ends:
            del left[index]
            if chance.random() < 0.5:  # an end without a text of its own
                events.append(sse({"choices": [{"index": index, "delta": delta, "finish_reason": None}]}))
                delta = {}
        choice = {"index": index, "delta": delta, "finish_reason": "stop" if ends else None}
        events.append(sse({"id": "e", "choices": [choice]}))
    events.append(b"data: [DONE]\n\n")
    tap = Restorer(ORIGINALS)
    seen = b"".join(map(tap.event, events)) + tap.ended(True)
    assert seen.endswith(b"data: [DONE]\n\n")
    got = dict.fromkeys(range(len(texts)), "")
    for event in seen.split(b"\n\n")[:-2]:
        for choice in json.loads(event.removeprefix(b"data: "))["choices"]:
            delta = choice["delta"]
            for call in delta.get("tool_calls", ()):
                got[choice["index"]] += call["function"]["arguments"]
            got[choice["index"]] += delta.get("content") or ""
    assert got == {i: expected(text, escaped=i == 1) for i, text in enumerate(texts)}


def expected(text: str, *, escaped: bool) -> str:
    out, at = "", 0
    while at < len(text):
        for placeholder, original in ORIGINALS.items():
            if text.startswith(placeholder, at):
                out += json.dumps(original)[1:-1] if escaped else original
                at += len(placeholder)
                break
        else:
            out += text[at]
            at += 1
    return out


def sse(event: Any) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.sampled_from("ab"))))
def test_merged_spans_cover_the_same_bytes_and_never_overlap(raw: list[tuple[int, int, str]]) -> None:
    spans = [(start, start + size, name) for start, size, name in raw]
    out = merged(spans)
    assert {i for s, e, _ in spans for i in range(s, e)} == {i for s, e, _ in out for i in range(s, e)}
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(out))
