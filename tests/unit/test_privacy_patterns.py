"""Patterns find what they say, whatever stands around it and however the client escaped it."""

from __future__ import annotations

import json

import msgspec
import pytest

from wattmill.distribution.privacy.patterns import BUILT_IN, IBAN_CHARS, Pattern, luhn, mod97
from wattmill.distribution.privacy.policy import Examined, examine
from wattmill.distribution.privacy.scan import BadPatternError, Scanner, TooManyMatchesError
from wattmill.distribution.privacy.spec import MAX_MATCHES, Rule
from wattmill.vocab.refusal import Refusal

RULES = tuple(Rule(pattern=p, deed="redact") for p in BUILT_IN.values())
SCANNER = Scanner([rule.pattern for rule in RULES])


def found(text: str) -> list[tuple[str, str]]:
    """Return (pattern, what it found) of a text."""
    data = text.encode()
    return [
        (SCANNER.patterns[kind].name, data[start:end].decode())
        for kind in SCANNER.kinds(data)
        for start, end in SCANNER.spans(kind, data)
    ]


@pytest.mark.parametrize(
    ("kind", "text", "inside"),
    [
        ("email", "ask ann.lee+x@mail.example.org, please", "ann.lee+x@mail.example.org"),
        ("email", "<jörg@bücher.example>", "jörg@bücher.example"),
        ("card", "4111 1111 1111 1111 123", "4111 1111 1111 1111"),
        ("card", "no 4111-1111-1111-1111.", "4111-1111-1111-1111"),
        ("card", "4111111111111111", "4111111111111111"),
        ("card", "3782 822463 10005", "3782 822463 10005"),
        ("card", "order 2235 4111 1111 1111 1111", "4111 1111 1111 1111"),
        ("card", "order 2234 4111 1111 1111 1111", "4111 1111 1111 1111"),  # this start is right as well
        ("card", "4111\u00a01111\u00a01111\u00a01111", "4111\u00a01111\u00a01111\u00a01111"),
        ("iban", "DE89 3704 0044 0532 0130 00 is mine", "DE89 3704 0044 0532 0130 00"),
        ("iban", "to BE68 5390 0754 7034 from me", "BE68 5390 0754 7034"),
        ("iban", "gb82west12345698765432", "gb82west12345698765432"),
        ("iban", "MT84MALT011000012345MTLCAST001S", "MT84MALT011000012345MTLCAST001S"),
        ("phone", "call +49 (0)30 901820 now", "+49 (0)30 901820"),
        ("phone", "0041 44 668 18 00", "0041 44 668 18 00"),
        ("phone", "(415) 555-2671", "(415) 555-2671"),
        ("phone", "415-555-2671", "415-555-2671"),
        ("ipv4", "from 203.0.113.7:443", "203.0.113.7"),
        ("api_key", "key=sk-proj-abcdefghijklmnopqrstuvwx", "sk-proj-abcdefghijklmnopqrstuvwx"),
        ("api_key", "AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("api_key", "ghp_" + "a1" * 18, "ghp_" + "a1" * 18),
        ("api_key", "x -----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY----- y",
         "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"),
    ],
)  # fmt: skip
def test_what_is_there_is_found_whole_and_alone(kind: str, text: str, inside: str) -> None:
    assert (kind, inside) in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # check digit
        "0000 0000 0000 0000",
        "DE88 3704 4400 0532 0130 00",  # check digits
        "DE89 3704 4400 0532 0130",  # too short for its country
        "ZZ89 3704 4400 0532 0130 00",
        "1.2.3.4.5.6 is no address, nor 300.1.1.1 nor 01.2.3.4"[37:],
        "a @ b, or me@localhost",
        "+1 23 is short",
        "sk-short",
        "version 12.34.5678",
        "the years 1914 1918 1939 1945 2001 2020",
    ],
)
def test_what_only_looks_like_it_is_not(text: str) -> None:
    assert found(text) == []


def test_the_checks_agree_with_published_examples() -> None:
    assert luhn("79927398713") and not luhn("79927398710")
    assert mod97("GB29NWBK60161331926819") and not mod97("GB28NWBK60161331926819")
    assert (IBAN_CHARS["NO"], IBAN_CHARS["DE"], IBAN_CHARS["RU"]) == (15, 22, 33)


# --- a request -------------------------------------------------------------------------------------------


def body_of(raw: bytes) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])


def looked(raw: bytes, *rules: Rule) -> Examined | Refusal:
    chosen = rules or RULES
    return examine(body_of(raw), raw, chosen, Scanner([r.pattern for r in chosen]))


@pytest.mark.parametrize(
    "written",
    [
        '"ann@example.org"',
        r'"ann\u0040example.org"',
        r'"\u0061nn\u0040example\u002eorg"',
        r'"{\"to\": \"ann\\u0040example.org\"}"',  # JSON inside a string, as the arguments of a tool call are
        '[{"type": "text", "text": "ann@example.org"}]',
    ],
)
def test_no_way_to_write_a_string_hides_what_is_in_it(written: str) -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":%s}]}' % written.encode()
    done = looked(raw)
    assert isinstance(done, Examined)
    assert [str(e) for e in done.evidence] == ["email x1: redact"]
    assert b"[EMAIL_1]" in bytes(done.body["messages"])
    assert "ann" not in json.dumps(json.loads(bytes(done.body["messages"])))


def test_what_stands_beside_a_match_stays_as_it_was_written() -> None:
    r"""An escape in a text is undone to look at it, and not in what leaves."""
    text = r'{"a\/b": "\u0041 ann\u0040example.org \u0042 \n"} ä'
    done = looked(json.dumps({"model": "m", "prompt": text}).encode())
    assert isinstance(done, Examined) and done.redaction is not None
    assert json.loads(bytes(done.body["prompt"])) == text.replace(r"ann\u0040example.org", "[EMAIL_1]")
    assert done.redaction.originals == {"[EMAIL_1]": r"ann\u0040example.org"}


def test_a_slash_that_is_escaped_hides_nothing() -> None:
    rule = Rule(pattern=Pattern(name="ticket", find="ACME/[0-9]{6}"), deed="redact")
    done = looked(rb'{"model":"m","prompt":"see ACME\/123456"}', rule)
    assert isinstance(done, Examined) and bytes(done.body["prompt"]) == b'"see [TICKET_1]"'


def test_numbers_keys_and_other_fields_are_read_too() -> None:
    raw = json.dumps(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"function": {"parameters": {"card": 4111111111111111, "ann@example.org": 1}}}],
            "user": "+49 30 901820",
        }
    ).encode()
    done = looked(raw)
    assert isinstance(done, Examined) and done.redaction is not None
    left = json.dumps({k: json.loads(bytes(v)) for k, v in done.body.items()})
    assert "4111111111111111" not in left and "ann@" not in left and "901820" not in left
    assert sorted(done.redaction.originals.values()) == [
        "+49 30 901820",
        "4111111111111111",
        "ann@example.org",
    ]


def test_a_clean_request_leaves_as_it_came() -> None:
    raw = rb'{"model":"m","messages":[{"role":"user","content":"line\nline"}],"n":1}'
    body = body_of(raw)
    done = examine(body, raw, RULES, SCANNER)
    assert isinstance(done, Examined) and done.body is body and done.evidence == ()


def test_rules_raise_refuse_and_redact_and_the_evidence_counts() -> None:
    raw = b'{"model":"m","prompt":"DE89370400440532013000 a@b.example a@b.example"}'
    raised = looked(raw, Rule(pattern=BUILT_IN["iban"], deed="raise", privacy="private"))
    assert isinstance(raised, Examined) and raised.privacy == "private" and raised.redaction is None
    both = looked(
        raw,
        Rule(pattern=BUILT_IN["iban"], deed="raise", privacy="private"),
        Rule(pattern=BUILT_IN["email"], deed="redact", privacy="internal"),
    )
    assert isinstance(both, Examined) and both.privacy == "private"
    assert [str(e) for e in both.evidence] == ["iban x1: raise", "email x2: redact"]
    refused = looked(raw, Rule(pattern=BUILT_IN["iban"], deed="refuse"))
    assert isinstance(refused, Refusal) and refused.code == "content_refused"
    assert "DE89" not in refused.message and "'iban'" in refused.message


def test_the_name_of_a_field_cannot_carry_anything_out() -> None:
    refused = looked(b'{"model":"m","prompt":"x","a@b.example":1}')
    assert isinstance(refused, Refusal) and "a@b" not in refused.message


def test_overlapping_patterns_leave_no_piece_behind() -> None:
    one = Rule(pattern=Pattern(name="one", find="abcdef"), deed="redact")
    two = Rule(pattern=Pattern(name="two", find="defghi"), deed="redact")
    done = looked(b'{"model":"m","prompt":"<abcdefghi>"}', one, two)
    assert isinstance(done, Examined) and bytes(done.body["prompt"]) in (b'"<[ONE_1]>"', b'"<[TWO_1]>"')


def test_a_placeholder_is_never_a_text_that_was_there_before() -> None:
    raw = b'{"model":"m","prompt":"[EMAIL_1] and a@b.example"}'
    done = looked(raw)
    assert isinstance(done, Examined) and bytes(done.body["prompt"]) == b'"[EMAIL_1] and [EMAIL_A_1]"'


def test_a_text_of_nothing_but_matches_is_refused_before_it_takes_a_workers_time() -> None:
    text = "a@b.example " * (MAX_MATCHES + 1)
    with pytest.raises(TooManyMatchesError):
        looked(json.dumps({"model": "m", "prompt": text}).encode())


def test_an_expression_that_the_engine_does_not_know_is_named() -> None:
    with pytest.raises(BadPatternError, match="invalid perl operator"):
        Scanner([Pattern(name="x", find="(?=a)b")])
