"""How data is kept where it belongs, as declared: classes, patterns, rules and guardrails."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wattmill.app.declared.pool_settings import Name, Privacy

Region = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
"""Regions and operators are names of your own (`eu`, `eu-central`, `own-house`): they are compared, never
understood."""

TeamRef = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}(/[a-z][a-z0-9_-]{0,31})?$")]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class OwnPattern(_Section, frozen=True, kw_only=True):
    """A pattern of your own, in the syntax of RE2: linear time, no look-around, no back-references."""

    regex: Annotated[
        str, Meta(min_length=2, max_length=2_000, description="The expression.", examples=[r"\bE-[0-9]{6}\b"])
    ]
    meaning: Annotated[str, Meta(description="What it finds, in words.")] = ""


class PatternRule(_Section, frozen=True, kw_only=True):
    """What happens where a pattern is found in a request. All rules that match hold together."""

    pattern: Annotated[
        Name,
        Meta(
            description="`email`, `phone`, `card`, `iban`, `ipv4`, `api_key`, or one of "
            "`[privacy.patterns]`.",
            examples=["iban"],
        ),
    ]
    action: Annotated[
        str,
        Meta(
            pattern=r"^(raise:(internal|private)|redact|redact,raise:(internal|private)|refuse)$",
            description="`raise:CLASS` makes the request at least of that class; `redact` puts a placeholder "
            "in its place and the original back into the answer; `redact,raise:CLASS` does both; `refuse`.",
            examples=["raise:private"],
        ),
    ]
    teams: Annotated[
        tuple[TeamRef, ...] | None, Meta(description="`ORG` or `ORG/TEAM` it holds for. Absent: all.")
    ] = None


class GuardHook(_Section, frozen=True, kw_only=True):
    """A guardrail of your own: a function in the gateway's process, or a service near it."""

    name: Annotated[Name, Meta(description="What refusals and `wattmill explain` call it.")]
    stage: Annotated[
        Literal["input", "output"], Meta(description="What it is shown: the request, or the answer.")
    ] = "input"
    call: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*|https?://[^\s/?#@]+(/[^\s#]*)?)$",
            description="`package.module:function`, a pure and quick function from `wattmill.vocab.guard."
            "Shown` to `Verdict`; or, for `input`, the address of a service that takes the one and answers "
            "the other as JSON.",
            examples=["acme.guards:no_contracts"],
        ),
    ]
    teams: Annotated[
        tuple[TeamRef, ...] | None, Meta(description="`ORG` or `ORG/TEAM` it holds for. Absent: all.")
    ] = None
    on_error: Annotated[
        Literal["refuse", "pass"],
        Meta(
            description="If it fails, is late, answers nonsense or may not see the data: `refuse` lets "
            "nothing pass (fail closed), `pass` goes on without it."
        ),
    ] = "refuse"
    timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="How long a service may take. A function has no time-out.")
    ] = 1.0
    privacy: Annotated[
        Privacy,
        Meta(description="The most sensitive class that a service may be shown; a function sees all."),
    ] = "internal"
    window_chars: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)] | None,
        Meta(
            description="`output` of a stream: how much text is held back, so that what is refused was not "
            "shown before. Absent: the whole answer, which arrives in one piece at its end.",
        ),
    ] = None


class ClassRule(_Section, frozen=True, kw_only=True):
    """Where data of a class may go, on top of what each place is declared for."""

    residency: Annotated[
        tuple[Region, ...] | None, Meta(description="Regions that may see it. Absent: no rule.")
    ] = None
    operators: Annotated[
        tuple[Region, ...] | None, Meta(description="Operators whose places may see it. Absent: no rule.")
    ] = None


class PrivacySettings(_Section, frozen=True, kw_only=True):
    """What requests may carry, and where it may go."""

    classes: Annotated[
        dict[Privacy, ClassRule], Meta(description="Rules that come with a class of data.")
    ] = {}
    patterns: Annotated[dict[Name, OwnPattern], Meta(description="Patterns of your own, by name.")] = {}
    rules: Annotated[tuple[PatternRule, ...], Meta(description="What happens where a pattern is found.")] = ()
    hooks: Annotated[
        tuple[GuardHook, ...], Meta(description="Guardrails, in the order in which they are asked.")
    ] = ()
    unreadable: Annotated[
        Literal["refuse", "pass"],
        Meta(
            description="A request under rules or input hooks, part of which is no text (token numbers, "
            "pictures, sound): `refuse` it, or let it `pass` unread."
        ),
    ] = "refuse"

    @property
    def asks_for_a_guard(self) -> bool:
        """Whether every request has to be looked at. Key, header, team and place are enough without."""
        return bool(self.classes or self.rules or self.hooks)
