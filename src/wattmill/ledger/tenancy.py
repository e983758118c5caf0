"""Organisation -> team -> key -> agent, run, step: the tree of spenders, its names, and what a secret is."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping

import msgspec

SECRET_MARK = "wm-"
PREFIX_LEN = 7
"""Characters of a secret that are kept for people to recognise it: the mark and 24 of its 256 bits."""

CAP_MAX_NUSD = 4 * 10**18  # 4 billion dollars; sums of it still fit SQLite's 64-bit integers
NAME_MAX = 64


def new_secret(mark: str = SECRET_MARK) -> str:
    """Return a secret with 256 random bits."""
    return mark + secrets.token_urlsafe(32)


def secret_hash(secret: str | bytes) -> bytes:
    """Return what is stored and looked up instead of a secret.

    A fast hash is right here: slow ones protect what people choose, by making guesses dear. 256 random bits
    cannot be guessed at any speed, and the gateway computes this for every request.
    """
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def checked_name(name: str) -> str:
    """Return `name`, or raise: 1 to 64 letters, digits and a few signs (no "/": it parts "org/team"), so that
    it needs no care wherever it is shown."""
    if len(name) > NAME_MAX or re.fullmatch(r"\w(?:[\w.@+ -]*[\w.@+-])?", name) is None:
        raise ControlError(
            f"name is {name!r}, must be 1 to {NAME_MAX} letters, digits and . _ @ + - or inner spaces"
        )
    return name


def checked_cap(cap_nusd: int | None) -> int | None:
    if cap_nusd is not None and not 0 <= cap_nusd <= CAP_MAX_NUSD:
        raise ControlError(f"cap is {cap_nusd} nano-dollars, must be 0 to {CAP_MAX_NUSD}, or None for no cap")
    return cap_nusd


class ControlError(ValueError):
    """An administrative request that cannot be done; the message names value, rule and way out."""


class NoSuch(ControlError):
    """The named thing does not exist."""


class Taken(ControlError):
    """The name is in use."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One spender in the tree organisation -> team -> key -> agent, run, step. Ids are never reused."""

    id: int
    parent: int | None
    kind: str  # "org", "team", "key", "agent", "run", "step"
    name: str  # unique under its parent
    cap_nusd: int | None  # None: no cap of its own
    created_us: int


def path_of(tree: Mapping[int, Node], id: int) -> tuple[int, ...]:
    """Return the ids from the organisation down to `id`."""
    path: list[int] = []
    at: int | None = id
    while at is not None:
        path.append(at)
        at = tree[at].parent
    return tuple(reversed(path))


def name_of(tree: Mapping[int, Node], id: int) -> str:
    """Return "org/team/key"."""
    return "/".join(tree[at].name for at in path_of(tree, id))


def find(tree: Mapping[int, Node], text: str) -> Node:
    """Return the node called "org", "org/team" or "org/team/key", or raise `NoSuch` with the near names."""
    by_name = {name_of(tree, id): found for id, found in tree.items()}
    if text in by_name:
        return by_name[text]
    import difflib  # only for a mistake: each worker reads this module at its start

    lasting = sorted(name for name, found in by_name.items() if found.kind not in ("run", "step"))
    holding = [name for name in lasting if text and text.rsplit("/", 1)[-1] in name.rsplit("/", 1)[-1]]
    near = holding[:5] or difflib.get_close_matches(text, lasting, n=5)
    more = f" and {len(lasting) - 5} more" if not near and len(lasting) > 5 else ""
    there = ", ".join(near or lasting[:5]) or "nothing yet"
    raise NoSuch(f"no {text!r} in the budget tree; there is: {there}{more}")
