"""What every engine adapter is: a table of governed fields and the few names in which engines differ.

An adapter is pure: bytes and values in, bytes and values out. The gateway owns the connection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from wattmill.models.engines.speech import Speech
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body, Endpoint


class Rule(msgspec.Struct, frozen=True):
    """What happens to one governed field.

    `refuses(value)` says what is wrong with a value, or None. `drop`: the field is not sent on (whatever it
    says would be obeyed beyond our control, or wattmill sets it itself). `cap`: an integer that is
    sent on, but never above the output clamp.
    """

    refuses: Callable[[bytes], str | None] | None = None
    drop: bool = False
    cap: bool = False


BEFORE_WORK = frozenset(
    {*range(300, 309), *range(400, 408), *range(409, 424), 425, 426, 428, 429, 431, 451, 501, 505}
)
"""Statuses that are given instead of work. Not among them: 408 and 499 (who gave up on whom?), 424 (TGI's
word for a generation that broke off), 500, 502, 504 and the rest (something was asked to work, and does not
say what it did), and answers of 2xx other than 200."""

BUSY = frozenset({503})
"""A refusal before work if the engine itself says it, in its own form. From what stands before an engine the
same status can mean a connection that broke while it worked."""


class Counters(msgspec.Struct, frozen=True):
    """An engine's own totals since it started. Token totals are None where the engine keeps none."""

    prompt_tok: int | None  # computed, not taken from a cache
    output_tok: int | None
    running: int  # requests it works on now
    waiting: int = 0
    cached_tok: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One kind of engine: how a request is put to it, and what it can and cannot do.

    `always_stream`: chat and completions are streamed from the engine even if the client wants one answer
    (`assemble.Assembler` makes it), because the engine does not stop a non-streamed request when its caller
    leaves. `capabilities` is what the adapter can carry rightly, whatever the engine claims.
    `closes_after_stream`: it ends the connection after each streamed answer, whatever its headers say.
    `counts_in`: the field of each chunk in which the engine counts what it has produced so far, if it does.
    """

    name: str
    always_stream: bool
    capabilities: frozenset[str]
    rules: Mapping[str, Rule]
    clamp_field: Mapping[Endpoint, str]
    stream_fields: Mapping[str, msgspec.Raw]  # sent with every streamed request
    closes_after_stream: bool = False
    counts_in: Literal["usage", "timings"] | None = None
    counters_path: str | None = None  # from the root of the server; None: the engine keeps no counters
    counter_names: Mapping[str, str] = dataclasses.field(default_factory=dict)  # series -> field of Counters
    prompt_counter_holds_cached: bool = False  # its prompt series counts tokens that were not computed too
    keeps_stream_options: frozenset[str] = frozenset()  # of the client's, beside ours
    extra_check: Callable[[Endpoint, Body], Refusal | None] | None = None
    chat_as: Speech | None = None  # the protocol in which a chat is put to it; None: as a chat
    natives: Mapping[str, Speech] = dataclasses.field(default_factory=dict)  # doors whose protocol it speaks
    continues: Callable[[Endpoint, Body, str], Body | None] | None = None  # asks it to go on after a text
    count_path: str | None = None  # below the pool's base address: counts the prompt of a chat exactly
    native_count_path: str | None = None  # the same for a request in its own protocol
    before_work: frozenset[int] = BEFORE_WORK  # statuses by which it says that it has made nothing
    busy: frozenset[int] = BUSY  # the same, if the body is its own

    def check(self, endpoint: Endpoint, body: Body) -> Refusal | None:
        """Return why this engine may not be sent `body`, or None. `endpoint` is where it would go."""
        rules = self.rules
        for name in body:
            rule = rules.get(name)
            if rule is None:
                if "." in name and (rule := rules.get(name[: name.index(".") + 1])) is not None:
                    return _refused(self.name, name, "is a setting of the engine")
                continue
            if rule.refuses is not None and (why := rule.refuses(bytes(body[name]))) is not None:
                return _refused(self.name, name, why)
        if self.extra_check is not None:
            return self.extra_check(endpoint, body)
        return None

    def render(
        self,
        endpoint: Endpoint,
        body: Body,
        *,
        model: str,
        stream: bool,
        max_output_tok: int,
        choices: int,
    ) -> bytes:
        """Return the bytes to send: the engine's model name, the clamp where it is obeyed, usage asked for.

        Values that are not governed keep their original bytes. `max_output_tok` (>= 1) is per choice and is
        ignored for embeddings. The caller has passed `check` before.
        """
        rules = self.rules
        out: dict[str, object] = {}
        for name, value in body.items():
            rule = rules.get(name)
            if rule is None:
                out[name] = value
            elif rule.cap:
                out[name] = _capped(value, max_output_tok)
            elif not rule.drop:
                out[name] = value
        out["model"] = model
        if endpoint == "embeddings":
            out.pop("stream", None)
            out.pop("stream_options", None)
            return _encode(out)
        out[self.clamp_field[endpoint]] = max_output_tok
        if choices != 1 or "n" in body:
            out["n"] = choices
        if stream:
            out.update(self.stream_fields)
            if self.keeps_stream_options and "stream_options" in body:
                out["stream_options"] = self._merged_stream_options(body["stream_options"])
        else:
            out["stream"] = False
            out.pop("stream_options", None)
        return _encode(out)

    def made_nothing(self, status: int, body: bytes) -> bool:
        """Say whether an answer other than 200 proves that no token was computed for the request. If not, it
        may have been worked on to its end: nobody knows. A filter of content may have read an answer before
        it refused, so its words prove nothing."""
        if b"content_filter" in body:
            return False
        return status in self.before_work or (status in self.busy and _is_own_words(body))

    def counters(self, text: bytes) -> Counters | None:
        """Read the engine's own totals from its answer on `counters_path`; None if they are not there."""
        totals: dict[str, int] = {}
        names = self.counter_names
        for line in text.decode("utf-8", "replace").splitlines():
            if line.startswith("#"):
                continue
            series, _, value = line.rpartition(" ")
            field = names.get(series.partition("{")[0])
            if field is not None:
                try:
                    totals[field] = totals.get(field, 0) + int(float(value))
                except (ValueError, OverflowError):
                    return None
        if "running" not in totals:
            return None
        prompt_tok = totals.get("prompt_tok")
        if prompt_tok is not None and self.prompt_counter_holds_cached:
            prompt_tok -= totals.get("cached_tok", 0)
        return Counters(
            prompt_tok=prompt_tok,
            output_tok=totals.get("output_tok"),
            running=totals["running"],
            waiting=totals.get("waiting", 0),
            cached_tok=totals.get("cached_tok"),
        )

    def _merged_stream_options(self, asked: msgspec.Raw) -> dict[str, object]:
        merged: dict[str, object] = {}
        try:
            theirs = msgspec.json.decode(asked)
        except msgspec.DecodeError:
            theirs = None
        if isinstance(theirs, dict):
            merged = {k: v for k, v in theirs.items() if k in self.keeps_stream_options}
        merged.update(msgspec.json.decode(self.stream_fields["stream_options"]))
        return merged


_encode = msgspec.json.Encoder().encode


class _Words(msgspec.Struct, gc=False):
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    detail: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # of what is built on FastAPI
    message: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_words = msgspec.json.Decoder(_Words).decode


def _is_own_words(body: bytes) -> bool:
    """Whether an error's body is one that engines write: proxies send HTML, or a line of text."""
    try:
        said = _words(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return not (said.error is said.detail is said.message is msgspec.UNSET)


def _refused(engine: str, name: str, why: str) -> Refusal:
    return Refusal(code="field_refused", param=name, message=f"{name!r} {why} (adapter {engine})")


def _capped(value: msgspec.Raw, most: int) -> object:
    try:
        asked = msgspec.json.decode(value)
    except msgspec.DecodeError:
        return most
    return min(asked, most) if isinstance(asked, int) else value


# --- the vocabulary of rules -----------------------------------------------------------------------------


class _Unreadable:
    """Stands for JSON that is well formed and cannot be held: 1e999, half a surrogate pair."""


def _decoded(value: bytes) -> object:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return _Unreadable()


def _is_null(value: bytes) -> bool:
    return value.strip() == b"null"


def refuse(why: str) -> Rule:
    """Refuse the field unless it is null; a null is dropped."""
    return Rule(refuses=lambda value: None if _is_null(value) else why, drop=True)


def only(*allowed: object, why: str) -> Rule:
    """Refuse every value but `allowed` and null; these change nothing, so the field is not sent on."""

    def wrong(value: bytes) -> str | None:
        if _is_null(value):
            return None
        given = _decoded(value)
        if any(given == one and isinstance(given, bool) == isinstance(one, bool) for one in allowed):
            return None
        shown = " or ".join(msgspec.json.encode(one).decode() for one in allowed)
        return f"must be {shown}, got {_short(value)}: {why}"

    return Rule(refuses=wrong, drop=True)


def checked_by(wrong: Callable[[object], str | None]) -> Rule:
    """Send the field on if `wrong(decoded value)` is None."""
    return Rule(refuses=lambda value: wrong(_decoded(value)))


DROP = Rule(drop=True)
"""wattmill sets this itself, or it says nothing that a client may say."""

CAP = Rule(cap=True)

BOUNDED = Rule()
"""Changes length or cost, but never past the clamp and the reserved worst case: sent on as it is."""


def _short(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    return text if len(text) <= 60 else text[:57] + "..."


STREAM_FIELDS: dict[str, msgspec.Raw] = {
    "stream": msgspec.Raw(b"true"),
    "stream_options": msgspec.Raw(b'{"include_usage":true}'),
}


def free_choice(value: object) -> str | None:
    """A call that is demanded, of an engine that would answer in words all the same."""
    if value in (None, "auto", "none"):
        return None
    return 'must be "auto" or "none": this engine does not force a call; ask for a schema instead'


def number(low: float, high: float) -> Rule:
    """Refuse what is not a number from `low` to `high`, of an engine that would break on it."""

    def wrong(value: object) -> str | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return f"must be a number from {low:g} to {high:g}"
        return None

    return checked_by(wrong)


def no_template(value: object) -> str | None:
    """Arguments of the chat template that bring another template: their bytes would bound nothing."""
    if isinstance(value, dict) and "chat_template" in value:
        return "may not hold 'chat_template': it could make any number of tokens of a message"
    return None


def function_tools(value: object) -> str | None:
    """Tools that the engine or provider would run itself, at a price of its own, are not sent on."""
    if isinstance(value, _Unreadable):
        return "cannot be read"
    if not isinstance(value, list):
        return None  # the engine says what is wrong with it
    for tool in value:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in ("function", "custom"):
            return (
                f"may hold tools of type 'function' or 'custom' only, got {kind!r}: others cost extra money"
            )
    return None
