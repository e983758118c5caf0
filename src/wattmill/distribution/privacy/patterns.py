"""What personal data and secrets look like: a pattern that finds candidates, and a check that decides.

Patterns are in RE2's syntax and run in linear time whatever the text. They are written so that the automaton
has few states: one with long counted repetitions over digits costs 20 times as much on a table of numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Check = Callable[[str], int]
"""Return how many characters from the start of a candidate are the real thing; 0: none of it is."""


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of data. `find` may find too much; `check` (None: all of it counts) decides what holds."""

    name: str
    find: str
    check: Check | None = None
    meaning: str = ""


# --- checks ----------------------------------------------------------------------------------------------

_GROUP_ENDS = frozenset(" -\u00a0\u202f")
_NO_GAPS = str.maketrans("", "", " -\u00a0\u202f")
_PHONE_GAPS = _GROUP_ENDS | frozenset("./(")
_CARD_DIGITS = range(13, 20)
_PHONE_DIGITS = range(8, 16)  # E.164 allows 15; below 8 it is some other number
_DOUBLED = bytes.maketrans(b"0123456789", b"0246813579")


def luhn(digits: str) -> bool:
    """Return whether the last digit of `digits` is the check digit of the others (ISO/IEC 7812-1)."""
    data = digits.encode("ascii")[::-1]
    return (sum(data[::2]) + sum(data[1::2].translate(_DOUBLED)) - 48 * len(data)) % 10 == 0


def mod97(iban: str) -> bool:
    """Return whether the check digits of `iban` (upper case, without spaces) are right (ISO 13616)."""
    turned = iban[4:] + iban[:4]
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def card(candidate: str) -> int:
    """Longest start that ends at the end of a group, has 13 to 19 digits and a right check digit: a security
    code written behind the number does not hide it."""
    for length in range(len(candidate), 12, -1):
        if length == len(candidate) or candidate[length] in _GROUP_ENDS:
            digits = candidate[:length].translate(_NO_GAPS)
            if len(digits) in _CARD_DIGITS and luhn(digits) and len(set(digits)) > 1:
                return length
    return 0


def iban(candidate: str) -> int:
    """The start that is as long as the country's accounts are, if its check digits are right: a word behind
    it does not hide it."""
    length = IBAN_CHARS.get(candidate[:2].upper())
    if length is None:
        return 0
    text = ""
    for at, char in enumerate(candidate):
        if char in _GROUP_ENDS:
            continue
        text += char.upper()
        if len(text) == length:
            ends = at + 1 == len(candidate) or candidate[at + 1] in _GROUP_ENDS
            return at + 1 if ends and mod97(text) else 0
    return 0


def ipv4(candidate: str) -> int:
    octets = candidate.split(".")
    right = all(int(octet) <= 255 and (octet == "0" or octet[0] != "0") for octet in octets)
    return len(candidate) if right else 0


def phone(candidate: str) -> int:
    """Longest start that ends at the end of a group and has 8 to 15 digits: other numbers may follow."""
    for length in range(len(candidate), 7, -1):
        ends = length == len(candidate) or candidate[length] in _PHONE_GAPS
        if ends and sum(map(str.isdigit, candidate[:length])) in _PHONE_DIGITS:
            return length
    return 0


# --- the table -------------------------------------------------------------------------------------------

_GAP = r"[ \-\x{a0}\x{202f}]?"
_KEY = r"[A-Za-z0-9_\-]"

BUILT_IN: dict[str, Pattern] = {
    p.name: p
    for p in (
        Pattern(
            name="email",
            find=r"[\pL\pN._%+\-]+@(?:[\pL\pN\-]+\.)+\pL{2,}",
            meaning="An e-mail address, also of an internationalised domain.",
        ),
        Pattern(
            name="phone",
            find=r"(?:\+|\b00)[1-9]\d{0,2}(?:[ .\-/\x{a0}\x{202f}]?\(?\d{1,5}\)?){1,6}\b"
            r"|(?:\([2-9]\d\d\) ?|\b[2-9]\d\d[.\-])\d{3}[.\-]\d{4}\b",
            check=phone,
            meaning="A telephone number with `+` or `00` and the country, or in North American form; 8 to 15 "
            "digits.",
        ),
        Pattern(
            name="card",
            find=rf"\b[2-6]\d{{3}}(?:{_GAP}\d{{4}}){{2}}{_GAP}\d{{1,4}}(?:{_GAP}\d{{1,4}})?\b"
            rf"|\b3[04-8]\d\d{_GAP}\d{{6}}{_GAP}\d{{4,5}}\b",
            check=card,
            meaning="A payment card number of 13 to 19 digits whose check digit (Luhn) is right.",
        ),
        Pattern(
            name="iban",
            find=rf"\b[A-Za-z]{{2}}\d\d(?:{_GAP}[A-Za-z0-9]{{4}}){{2,7}}(?:{_GAP}[A-Za-z0-9]{{1,4}})?\b",
            check=iban,
            meaning="A bank account number (IBAN) of its country's length whose check digits (mod 97) are "
            "right.",
        ),
        Pattern(
            name="ipv4",
            find=r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b",
            check=ipv4,
            meaning="An IPv4 address.",
        ),
        Pattern(
            name="api_key",
            find=r"\b(?:"
            rf"sk-{_KEY}{{20,}}"  # OpenAI, Anthropic, DeepSeek and others
            rf"|wm-{_KEY}{{20,}}"  # ours
            r"|(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
            r"|AIza[A-Za-z0-9_\-]{35}"  # Google
            r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}"
            rf"|glpat-{_KEY}{{20,}}"
            r"|xox[abeoprs]-[A-Za-z0-9\-]{10,}"  # Slack
            r"|[rs]k_live_[A-Za-z0-9]{16,}"  # Stripe
            r"|hf_[A-Za-z0-9]{30,}"
            r"|npm_[A-Za-z0-9]{36}"
            r"|pypi-[A-Za-z0-9_\-]{50,}"
            r"|eyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]*"  # JSON web token
            r")|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[^-]*(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----)?",
            meaning="A secret of a well-known shape: keys of model providers, clouds, code hosts and payment "
            "services, JSON web tokens, private keys in PEM form.",
        ),
    )
}

_REGISTRY = """
AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BI:27 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22 DJ:27
DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FK:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HN:28 HR:21 HU:28
IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 LY:25 MC:27 MD:24 ME:22
MK:19 MN:20 MR:27 MT:31 MU:30 NI:28 NL:18 NO:15 OM:23 PK:24 PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 RU:33 SA:24
SC:31 SD:18 SE:24 SI:19 SK:24 SM:27 SO:23 ST:25 SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20 YE:30
"""
IBAN_CHARS: dict[str, int] = {part[:2]: int(part[3:]) for part in _REGISTRY.split()}
"""Length of an account number by country: SWIFT's IBAN registry, end of 2024."""
