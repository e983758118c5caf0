"""What declared patterns say of one request: a pure function of its body and the rules of its team."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wattmill.distribution.privacy.redact import Redaction, Span
from wattmill.distribution.privacy.scan import Scanner
from wattmill.distribution.privacy.spec import Found, Rule
from wattmill.distribution.privacy.texts import as_written, changed, plain, strings_of, values_of
from wattmill.vocab.caller import PRIVACY_CLASSES
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body

_encoder = msgspec.json.Encoder()
_SHORTEST = len("a@b.cc")  # that any built-in pattern finds


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with a request. `body` is the one that may leave."""

    body: Body
    privacy: str | None = None  # class that its content asks for; None: says nothing
    redaction: Redaction | None = None  # None: nothing was replaced
    evidence: tuple[Found, ...] = ()


def examine(body: Body, raw: bytes | None, rules: Sequence[Rule], scanner: Scanner) -> Examined | Refusal:
    """Look for the patterns of `rules`, of which `scanner` was made in the same order.

    Args:
        raw: the bytes that `body` was read from, if it still is all that they said: without a backslash in
            them nothing is escaped, and one pass over them answers most requests.
    """
    kinds: list[int] | None = None
    if raw is not None and scanner.raw_safe and b"\\" not in raw:
        kinds = scanner.kinds(raw)
        if not kinds:
            return Examined(body=body)
    values = values_of(body)
    strings = strings_of(values)
    names = _names(body)
    if kinds is None:
        kinds = scanner.kinds("\n".join([names, *strings]).encode())
        if not kinds:
            return Examined(body=body)
    if scanner.kinds(names.encode()):
        # The name of a field or a model cannot be replaced, and nobody chooses such a one by accident.
        for kind in kinds:
            if scanner.spans(kind, names.encode()):
                return _refusal(rules[kind], 1, "the name of a field or model")
    counts = dict.fromkeys(kinds, 0)
    found: dict[str, list[Span]] = {}
    for text in dict.fromkeys(strings):
        if len(text) < _SHORTEST and scanner.raw_safe:
            continue
        data = text.encode()
        for kind in kinds:
            spans = scanner.spans(kind, data)
            counts[kind] += len(spans)
            if spans and rules[kind].deed == "redact":
                name = rules[kind].pattern.name
                found.setdefault(text, []).extend((start, end, name) for start, end in spans)
    evidence = tuple(Found(rules[k].pattern.name, rules[k].deed, n) for k, n in counts.items() if n)
    hit = [rules[kind] for kind, matches in counts.items() if matches]
    for rule in hit:
        if rule.deed == "refuse":
            return _refusal(
                rule, sum(f.matches for f in evidence if f.pattern == rule.pattern.name), "the request"
            )
    privacy = max((r.privacy for r in hit if r.privacy), key=PRIVACY_CLASSES.index, default=None)
    if not found:
        return Examined(body=body, privacy=privacy, evidence=evidence)
    redaction = Redaction(strings)

    def redacted(text: str) -> str:
        spans = found.get(plain(text))
        return text if spans is None else redaction.apply(text, as_written(text, spans))

    new = changed(values, redacted)
    rendered = {k: msgspec.Raw(_encoder.encode(new[k])) for k in new if new[k] != values[k]}
    return Examined(body={**body, **rendered}, privacy=privacy, redaction=redaction, evidence=evidence)


def _names(body: Body) -> str:
    """Return what stands outside the strings that `strings_of` sees: names of fields, and of the model."""
    try:
        model = msgspec.json.decode(body["model"], type=str) if "model" in body else ""
    except msgspec.MsgspecError:
        model = bytes(body["model"]).decode()
    return "\n".join([*body, model])


def _refusal(rule: Rule, matches: int, where: str) -> Refusal:
    times = "once" if matches == 1 else f"{matches} times"
    return Refusal(
        code="content_refused",
        message=f"data of kind {rule.pattern.name!r} was found in {where} ({times}), and this team's rules "
        "do not let it out; take it out, or send it under a key whose team may",
    )
