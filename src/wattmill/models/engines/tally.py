"""What one attempt has said so far: fed with each event of its stream, it counts, and hides what is ours.

The engine's own final usage is the truth ("measured"). Until it comes, and if it never comes, the engine's
counts in each chunk are the best knowledge ("estimated"), else the number of chunks that had content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from wattmill.models.engines.contract import Adapter
from wattmill.models.engines.known_event import KnownEvent, learn
from wattmill.models.engines.odd_answer import A_WEB_PAGE, begins_otherwise
from wattmill.models.engines.usage import MOST_TOK, OpenAIUsage, Timings, from_openai, from_timings, us_of
from wattmill.vocab.fact import UsageSource
from wattmill.vocab.request import Endpoint
from wattmill.vocab.usage import ImpossibleUsage, Usage

_TRIES = 3  # to know an event by the bytes around its text


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    delta: _Delta | None = None
    text: str | None = None


class _Event(msgspec.Struct, gc=False):
    id: str | None = None
    choices: list[_Choice] | None = None
    usage: OpenAIUsage | None = None
    timings: Timings | None = None
    prompt_progress: Any = None
    error: Any = None


_NO_TEXT = frozenset({"index", "finish_reason", "delta"})

_event = msgspec.json.Decoder(_Event).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Tally:
    """The running account of one attempt's stream.

    `failure` says what was wrong (an error object, malformed SSE or JSON, impossible usage with its numbers);
    then `feed` gives nothing more to send on. It may quote the engine: redact provider keys.
    """

    __slots__ = (
        "_adapter",
        "_chunks",
        "_counted",
        "_final",
        "_finished",
        "_like",
        "_n",
        "_open",
        "_several",
        "_show_timings",
        "_show_usage",
        "_timings",
        "_told",
        "_unlike",
        "_usage",
        "_whole_prompt_tok",
        "done",
        "engine_id",
        "failure",
        "finish_reason",
        "has_content",
        "output_tok_so_far",
    )

    def __init__(
        self,
        adapter: Adapter,
        endpoint: Endpoint,
        *,
        show_usage: bool,
        show_timings: bool = False,
        n: int = 1,
        prompts: int = 1,
    ) -> None:
        """`n` choices were asked for of each of `prompts` prompts."""
        self._adapter = adapter
        self._n = n
        self._several = n * prompts > 1
        self._counted: dict[int, Usage] = {}  # by choice, where the engine counts each by itself
        self._show_usage = show_usage
        self._show_timings = show_timings
        self._usage: Usage | None = None
        self._told: Usage | None = None  # the last one that was final when it came
        self._final = False
        self._open: set[int] = set()  # choices that began and have not finished
        self._finished: set[int] = set()
        self._timings: Timings | None = None
        self._whole_prompt_tok = 0  # of which the engine tells how far it is
        self._chunks = 0
        self._like: KnownEvent | None = None  # events around whose text nothing else is said
        self._unlike = _TRIES  # so often such a one is looked for
        self.has_content = False
        self.done = False
        self.failure: str | None = None
        self.output_tok_so_far = 0
        self.finish_reason: str | None = None
        self.engine_id: str | None = None

    def feed(self, event: bytes) -> bytes | None:
        """Take one event without its blank line; return the bytes to send on with it, or None to hide it.

        `data: [DONE]` sets `done` and is returned too: send what must come before it first.
        """
        if self.failure is not None or self.done:
            return None
        if event.startswith(b"data: {") and b"\n" not in event:
            return self._take(event, event[6:])
        return self._odd(event)

    def again(self, data: bytes) -> bytes | None:
        """Take what is one whole event with its blank line, and like one before it but for its text; return
        the bytes to send on. None: it was not looked at, and has to be split and fed."""
        like = self._like
        if like is None or self.failure is not None or self.done:
            return None
        out = like.read(data)
        if out is None:
            return None
        self._chunks += 1
        self._final = False
        if self._adapter.counts_in is None and self._chunks > self.output_tok_so_far:
            self.output_tok_so_far = self._chunks
        return out

    def _odd(self, event: bytes) -> bytes | None:
        """Everything that is not one `data: {...}` line: [DONE], comments, CRLF, several lines, `error:`."""
        data: list[bytes] = []
        for line in event.splitlines():
            name, colon, value = line.partition(b":")
            if name == b"data" and colon:
                data.append(value.removeprefix(b" "))
            elif name == b"error" and colon:
                self.failure = f"the engine sent an error: {_message_of(value)}"
                return None
            elif (name and name not in (b"event", b"id", b"retry")) or not colon:
                odd = f"the engine sent a line that is no server-sent event ({len(line)} bytes)"
                self.failure = A_WEB_PAGE if line.startswith(b"<") else odd
                return None
        if not data:
            return event + b"\n\n" if event else None
        payload = b"\n".join(data)
        if payload.strip() == b"[DONE]":
            self.done = True
            return b"data: [DONE]\n\n"
        joined = b"data: " + payload if len(data) == 1 else b"data: " + _compact(payload)
        return self._take(joined, payload)

    def _take(self, event: bytes, payload: bytes) -> bytes | None:
        try:
            said = _event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            self.failure = f"the engine sent an event that is not a chunk of an answer: {e}"
            return None
        if said.error is not None:
            self.failure = f"the engine sent an error: {_message_of(_encode(said.error))}"
            return None
        if self.engine_id is None:
            self.engine_id = said.id
        content = finish = False
        if said.choices:
            for choice in said.choices:
                if _has_content(choice):
                    content = True
                if choice.finish_reason is not None:
                    finish = True
                    self.finish_reason = choice.finish_reason
                    self._open.discard(choice.index)
                    self._finished.add(choice.index)
                elif choice.index not in self._finished:
                    self._open.add(choice.index)
        if content:
            self.has_content = True
            self._chunks += 1
            self._final = False
            if self._adapter.counts_in is None and self._chunks > self.output_tok_so_far:
                self.output_tok_so_far = self._chunks
        if said.timings is not None:
            self._timings = said.timings
            if said.timings.predicted_n > self.output_tok_so_far:
                self.output_tok_so_far = said.timings.predicted_n
            if said.prompt_progress is not None:
                self._whole_prompt_tok = _whole_of(said.prompt_progress)
                return None  # ours: it makes the engine see a client that leaves during prefill
            if not self._show_timings:
                event = _without(event, b"timings")
        if said.usage is not None:
            return self._take_usage(event, said.usage, said.choices or (), finish)
        if content and self._unlike and self._chunks > 1:
            self._learn(event, said)
        return self._plain(event)

    def _plain(self, event: bytes) -> bytes:
        """Return what is sent on of an event without numbers of its own."""
        if not self._show_usage and b',"usage":null' in event:
            event = event.replace(b',"usage":null', b"", 1)
        return event + b"\n\n"

    def _learn(self, event: bytes, said: _Event) -> None:
        """Know events like this one by the bytes around their text, if it says nothing but one text."""
        self._unlike -= 1
        if said.timings is not None or said.prompt_progress is not None or b"\n" in event:
            return
        text = _take_text(said)

        def same(other: bytes, its_text: str) -> bytes | None:
            read = _event(other[len(b"data: ") :])
            return self._plain(other) if _take_text(read) == its_text and read == said else None

        if text is not None:
            self._like = learn(event, text, same)

    def _take_usage(
        self, event: bytes, wire: OpenAIUsage, choices: Sequence[_Choice], finish: bool
    ) -> bytes | None:
        try:
            usage = from_openai(wire)
        except ImpossibleUsage as e:
            self.failure = str(e)
            return None
        in_content = bool(choices)
        if self._adapter.counts_in == "usage":
            final = not in_content  # what comes with each chunk leaves cached tokens out
            if in_content and self._several:
                for choice in choices:
                    self._counted[choice.index] = usage
                usage = self._sum_of_choices()
        else:
            final = not in_content or (not self._open and (finish or self.finish_reason is not None))
        if final and self.has_content and usage.output_tok == 0:
            self.failure = f"invalid usage: 0 output tokens after {self._chunks} chunks with content"
            return None
        if final:
            # Some engines tell it twice. What was told once was used: a lower count takes nothing back.
            told = self._told
            if told is not None and _total(usage) < _total(told):
                usage = told
            self._told = usage
        self._usage = usage
        self._final = final
        # A count beside content may not take back what was seen to come: the clamp is held against it.
        self.output_tok_so_far = usage.output_tok if final else max(self.output_tok_so_far, usage.output_tok)
        if not in_content:
            return event + b"\n\n" if self._show_usage else None
        if not self._show_usage or not final or self._adapter.counts_in == "usage":
            event = _without(event, b"usage")
        return event + b"\n\n"

    def _sum_of_choices(self) -> Usage:
        """Add up what was counted of each choice by itself; `n` of them share one prompt."""
        prompts = {index // self._n: usage.prompt_tok for index, usage in self._counted.items()}
        return Usage(sum(prompts.values()), sum(usage.output_tok for usage in self._counted.values()))

    @property
    def prompt_tok(self) -> int | None:
        """The engine's count of the prompt, once it has told it."""
        if self._usage is not None:
            return self._usage.prompt_tok
        if self._timings is not None:
            return self._timings.prompt_n + self._timings.cache_n
        return None

    @property
    def queue_us(self) -> int | None:
        return None  # no engine tells it in its stream; time to first content minus `prefill_us` bounds it

    @property
    def prefill_us(self) -> int | None:
        return None if self._timings is None else us_of(self._timings.prompt_ms)

    @property
    def decode_us(self) -> int | None:
        return None if self._timings is None else us_of(self._timings.predicted_ms)

    def reading(
        self, prompt_tok: int | None = None, *, batch_tok: int = 0
    ) -> tuple[Usage | None, UsageSource]:
        """Return what is known now.

        ("measured") the engine's final usage; ("estimated") its counts so far, or the chunks that came;
        (None, "unmetered") if something was produced and the prompt was never counted; (None, "none") if
        nothing was. `prompt_tok` stands in for a prompt that the engine worked on and did not count: give it
        if the request reached the engine (its bound, or its tokenised length). `batch_tok`: so much of a
        prompt the engine computes to its end, once begun, whoever leaves.
        """
        if self._usage is not None and self._final:
            return self._usage, "measured"
        if self._usage is not None and self._adapter.counts_in == "usage":
            return self._usage, "estimated"
        if self._timings is not None:
            try:
                usage = from_timings(self._timings)
                begun = min(self._whole_prompt_tok, usage.prompt_tok + batch_tok)
                if begun > usage.prompt_tok:
                    usage = msgspec.structs.replace(usage, prompt_tok=begun)
                return usage, "estimated"
            except ImpossibleUsage:
                pass
        known = self.prompt_tok if self.prompt_tok is not None else prompt_tok
        if known is not None:
            return Usage(known, self.output_tok_so_far), "estimated"
        return None, "unmetered" if self.has_content else "none"


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What a whole, not streamed answer says."""

    usage: Usage | None
    source: UsageSource
    finish_reason: str | None = None
    engine_id: str | None = None
    prefill_us: int | None = None
    decode_us: int | None = None
    failure: str | None = None


class _AnswerChoice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Answer(msgspec.Struct, gc=False):
    id: str | None = None
    choices: list[_AnswerChoice] | None = None
    usage: OpenAIUsage | None = None
    timings: Timings | None = None
    error: Any = None


_answer = msgspec.json.Decoder(_Answer).decode


def read_answer(adapter: Adapter, endpoint: Endpoint, body: bytes) -> Reading:
    """Read a whole answer of status 200. One without usage is "unmetered": produced, counted by nobody."""
    try:
        said = _answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        why = begins_otherwise(body) or f"the engine's answer cannot be read: {e}"
        return Reading(None, "unmetered", failure=why)
    if said.error is not None:
        return Reading(
            None, "unmetered", failure=f"the engine sent an error: {_message_of(_encode(said.error))}"
        )
    finish = said.choices[-1].finish_reason if said.choices else None
    usage: Usage | None = None
    failure: str | None = None
    if said.usage is not None:
        try:
            usage = from_openai(said.usage)
        except ImpossibleUsage as e:
            failure = str(e)
    times = said.timings
    return Reading(
        usage,
        "unmetered" if usage is None else "measured",
        finish,
        said.id,
        None if times is None else us_of(times.prompt_ms),
        None if times is None else us_of(times.predicted_ms),
        failure,
    )


def _whole_of(progress: Any) -> int:
    total = progress.get("total") if isinstance(progress, dict) else None
    return total if type(total) is int and 0 < total < MOST_TOK else 0


def _total(usage: Usage) -> int:
    return usage.prompt_tok + usage.output_tok


def _has_content(choice: _Choice) -> bool:
    delta = choice.delta
    if delta is None:
        return bool(choice.text)
    return bool(
        delta.content
        or delta.reasoning_content
        or delta.tool_calls
        or delta.reasoning
        or delta.refusal
        or delta.function_call
        or delta.audio
    )


def _take_text(said: _Event) -> str | None:
    """Take its text out of an event with one choice that says nothing else, and goes on; None: not so."""
    if said.choices is None or len(said.choices) != 1 or said.choices[0].finish_reason is not None:
        return None
    choice = said.choices[0]
    holder: _Choice | _Delta = choice if choice.delta is None else choice.delta
    told = [name for name in holder.__struct_fields__ if name not in _NO_TEXT and getattr(holder, name)]
    text = getattr(holder, told[0]) if len(told) == 1 else None
    if type(text) is not str:
        return None
    setattr(holder, told[0], None)
    return text


def _without(event: bytes, name: bytes) -> bytes:
    """Return the event without a top-level field whose value is an object.

    The usual case is cut out of the bytes: quotes inside JSON strings are escaped, so `,"name":{` can only be
    a key, and if it is the last one and its object is flat, it is this one. Anything else is decoded.
    """
    start = event.rfind(b',"' + name + b'":{')
    if start >= 0:
        inner = start + len(name) + 5
        end = event.find(b"}", inner)
        if event.find(b"{", inner, end) < 0 and event[end + 1 :] == b"}":
            return event[:start] + b"}"
    fields = _fields(event[6:])
    fields.pop(name.decode(), None)
    return b"data: " + _encode(fields)


def _compact(payload: bytes) -> bytes:
    return payload.replace(b"\n", b" ")


def _message_of(error: bytes) -> str:
    """Return the engine's own words about an error, shortened."""
    try:
        said = msgspec.json.decode(error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = error.decode("utf-8", "replace")
    if isinstance(said, dict):
        said = said.get("error", said)
    if isinstance(said, dict):
        said = said.get("message") or said.get("code") or said
    return str(said).strip()[:300]
