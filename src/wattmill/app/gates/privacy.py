"""The privacy guard: what class a request's data is of, where it may go, and in which form.

It runs before anything is kept, routed or sent, so that a class holds for the cache, for every attempt and
for what is written down. A class is only ever raised, regions and operators are only ever narrowed.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from wattmill.app.declared.privacy_settings import GuardHook, PrivacySettings
from wattmill.app.gates.guard_service import GuardFailed, ask_service
from wattmill.distribution.gate import WAIT, Waiting
from wattmill.distribution.privacy.output import OutputGuard
from wattmill.distribution.privacy.patterns import BUILT_IN, Pattern
from wattmill.distribution.privacy.policy import Examined, examine
from wattmill.distribution.privacy.restore import Restorer
from wattmill.distribution.privacy.scan import Scanner, TooManyMatchesError
from wattmill.distribution.privacy.spec import Rule
from wattmill.distribution.privacy.texts import changed, plain, strings_of, unreadable, values_of
from wattmill.models.bound import input_bound_tok
from wattmill.models.spec import TokenizerBound
from wattmill.vocab.caller import PRIVACY_CLASSES, Caller
from wattmill.vocab.guard import Shown, Verdict
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request

if TYPE_CHECKING:
    from wattmill.distribution.exchange import Exchange

WITHHELD = "(withheld)"
"""Stands where a refused request's words would be written down."""

_MAY_BE_TOKENS = ("prompt", "input")
_PLAIN = TokenizerBound()
_RANK = {name: rank for rank, name in enumerate(PRIVACY_CLASSES)}
_encoder = msgspec.json.Encoder()

Function = Callable[[Shown], Verdict]


class Hook(msgspec.Struct, frozen=True):
    """A declared hook, ready to be asked; `function` is None for a service."""

    declared: GuardHook
    function: Function | None


class Guard(msgspec.Struct, frozen=True):
    """What holds for one team."""

    rules: tuple[Rule, ...]
    scanner: Scanner | None
    inputs: tuple[Hook, ...]
    outputs: tuple[Hook, ...]


class PrivacyGate:
    """Implements `distribution.gate.Gate`. Making one imports hooks and, where rules are declared, RE2.

    A gateway without classes, rules and hooks needs none: what caller and header say holds anyway."""

    name = "privacy"

    def __init__(self, settings: PrivacySettings, bound: Mapping[str, TokenizerBound]) -> None:
        self._settings = settings
        self._bound = bound
        self._rules = tuple(_rule(settings, rule) for rule in settings.rules)
        self._hooks = tuple((h, Hook(h, _function(h))) for h in settings.hooks)
        self._guards: dict[str, Guard | None] = {}  # by "org/team"
        self._scanners: dict[tuple[Rule, ...], Scanner] = {}
        self._places = {name: _places_of(settings, name) for name in PRIVACY_CLASSES}
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by id of an exchange that waits for a service
        if self._rules:
            self._scanner(self._rules)  # a pattern that does not compile fails here, not with a request

    @property
    def waiting(self) -> int:
        """How many requests wait for a service."""
        return len(self._tasks)

    # ---- a gate

    def enter(self, x: Exchange) -> Refusal | Waiting | None:
        assert x.caller is not None
        guard = self.guard_of(x.caller)
        if guard is not None:
            if x.door is not None:
                # Not as it came, even to an engine that speaks the door's protocol: there is text in it that
                # the chat does not hold, and events that no tap knows. It goes translated.
                x.draft = msgspec.structs.replace(x.draft, body=dict(x.draft.body))
            refusal = self._examine(x, guard)
            if refusal is not None:
                return refusal
            for at, hook in enumerate(guard.inputs):
                if hook.function is None:
                    task = asyncio.get_running_loop().create_task(self._ask_services(x, guard, at))
                    self._tasks[id(x)] = task
                    return WAIT
                refusal = self._ask_function(x, hook)
                if refusal is not None:
                    return refusal
        return self._bind(x, guard)

    def left(self, x: Exchange) -> None:
        task = self._tasks.pop(id(x), None)
        if task is not None:
            task.cancel()

    def for_counting(self, ask: Request, caller: Caller) -> Request | None:
        """Return a question for the length of a prompt, bound by its class; None where rules or hooks would
        have to read the text first: then no place is asked."""
        return None if self.guard_of(caller) is not None else self._placed(ask)

    # ---- who

    def guard_of(self, caller: Caller) -> Guard | None:
        """Return what holds for the caller's team; None: nothing does."""
        team = team_of(caller)
        try:
            return self._guards[team]
        except KeyError:
            if len(self._guards) > 10_000:  # teams come and go in a long life
                self._guards.clear()
            org = team.partition("/")[0]
            rules = tuple(r for r in self._rules if r.teams is None or not r.teams.isdisjoint((team, org)))
            hooks = [h for d, h in self._hooks if d.teams is None or not {team, org}.isdisjoint(d.teams)]
            made = Guard(
                rules,
                self._scanner(rules) if rules else None,
                tuple(h for h in hooks if h.declared.stage == "input"),
                tuple(h for h in hooks if h.declared.stage == "output"),
            )
            self._guards[team] = made if rules or hooks else None
            return self._guards[team]

    def _scanner(self, rules: tuple[Rule, ...]) -> Scanner:
        found = self._scanners.get(rules)
        if found is None:
            found = self._scanners[rules] = Scanner([rule.pattern for rule in rules])
        return found

    # ---- patterns

    def _examine(self, x: Exchange, guard: Guard) -> Refusal | None:
        draft = x.draft
        if (guard.rules or guard.inputs) and self._settings.unreadable == "refuse":
            refusal = _readable(x)
            if refusal is not None:
                return refusal
        if guard.scanner is None:
            return None
        label = x.http.label
        if label is not None and guard.scanner.kinds(label.encode()):
            del x.http.headers[b"x-request-id"]  # it would be written down
        raw = x.http.body if x.door is None else None  # a door has translated it
        try:
            done = examine(draft.body, raw, guard.rules, guard.scanner)
        except TooManyMatchesError as error:
            done = Refusal(code="content_refused", message=f"{error}; send less at once")
        except (msgspec.MsgspecError, RecursionError) as error:
            done = Refusal(code="bad_value", message=f"the body cannot be read: {type(error).__name__}")
        if isinstance(done, Refusal):
            x.draft = msgspec.structs.replace(draft, model=WITHHELD)
            return done
        if done.evidence:
            self._found(x, done)
        return None

    def _found(self, x: Exchange, done: Examined) -> None:
        for found in done.evidence:
            x.gateway.metrics.count(
                "wattmill_privacy_found_total", found.pattern, found.deed, by=found.matches
            )
        fields: dict[str, Any] = {"evidence": tuple(map(str, done.evidence))}
        if done.privacy is not None:
            fields["privacy"] = max(x.ask.privacy, done.privacy, key=_RANK.__getitem__)
        if done.redaction is not None:
            fields["keep"] = False
            x.tap(Restorer(done.redaction.originals))
            self._replace_body(x, done.body)
        x.ask = msgspec.structs.replace(x.ask, **fields)

    def _replace_body(self, x: Exchange, body: Any) -> None:
        """Send `body` instead, and bound its tokens anew: a placeholder may be longer than what it hides."""
        x.draft = msgspec.structs.replace(x.draft, body=body)
        bound = input_bound_tok(x.endpoint, body, self._bound.get(x.ask.model, _PLAIN))
        if not isinstance(bound, Refusal):
            x.ask = msgspec.structs.replace(x.ask, input_bound_tok=max(bound, x.ask.input_bound_tok))

    # ---- guardrails on what goes in

    def _ask_function(self, x: Exchange, hook: Hook) -> Refusal | None:
        assert hook.function is not None
        shown = _shown(x)
        try:
            verdict = msgspec.convert(hook.function(shown), Verdict, from_attributes=True)
            return self._apply(x, hook, shown, verdict)
        except Exception as error:  # noqa: BLE001 - whatever a guardrail does wrong has one declared answer
            return self._failed(x, hook, type(error).__name__)

    async def _ask_services(self, x: Exchange, guard: Guard, first: int) -> None:
        """Ask the hooks from `first` on, then let the exchange go on."""
        refusal: Refusal | None = None
        try:
            for hook in guard.inputs[first:]:
                if hook.function is not None:
                    refusal = self._ask_function(x, hook)
                else:
                    refusal = await self._ask_service(x, hook)
                if refusal is not None:
                    break
            if refusal is None:
                refusal = self._bind(x, guard)
        except Exception as error:  # noqa: BLE001 - the exchange waits: it must hear of a defect of ours
            x.gateway.defect(x.id, error)
            refusal = Refusal(code="internal", message=f"a defect in wattmill, logged under {x.id}")
        self._tasks.pop(id(x), None)
        x.go_on(refusal)

    async def _ask_service(self, x: Exchange, hook: Hook) -> Refusal | None:
        declared = hook.declared
        if _RANK[x.ask.privacy] > _RANK[declared.privacy]:
            return self._failed(x, hook, f"may not see data of class {x.ask.privacy!r}")
        shown = _shown(x)
        try:
            verdict = await ask_service(declared.call, shown, timeout_s=declared.timeout_s)
            return self._apply(x, hook, shown, verdict)
        except (GuardFailed, ValueError) as error:
            return self._failed(x, hook, str(error))

    def _apply(self, x: Exchange, hook: Hook, shown: Shown, verdict: Verdict) -> Refusal | None:
        """Do what a guardrail wants. Raises `ValueError` if that cannot be done."""
        name, privacy = hook.declared.name, verdict.privacy
        if privacy is not None and privacy not in _RANK:
            raise ValueError(f"answered an unknown class {privacy[:32]!r}")
        if verdict.texts is not None and len(verdict.texts) != len(shown.texts):
            raise ValueError(f"answered {len(verdict.texts)} texts for {len(shown.texts)}")
        if verdict.refuse is not None:
            return Refusal(code="content_refused", message=f"guardrail {name!r}: {verdict.refuse[:512]}")
        evidence = list(x.ask.evidence)
        if privacy is not None and _RANK[privacy] > _RANK[x.ask.privacy]:
            x.ask = msgspec.structs.replace(x.ask, privacy=privacy)
            evidence.append(f"hook {name}: raise")
        if verdict.texts is not None and verdict.texts != shown.texts:
            texts = iter(verdict.texts)
            values = values_of(x.draft.body)
            # What a hook left as it was shown stays as it was written.
            new = changed(values, lambda text: text if (to := next(texts)) == plain(text) else to)
            fresh = {k: msgspec.Raw(_encoder.encode(v)) for k, v in new.items() if v != values[k]}
            self._replace_body(x, {**x.draft.body, **fresh})
            evidence.append(f"hook {name}: change")
        if len(evidence) != len(x.ask.evidence):
            x.ask = msgspec.structs.replace(x.ask, evidence=tuple(evidence))
        return None

    def _failed(self, x: Exchange, hook: Hook, why: str) -> Refusal | None:
        declared = hook.declared
        if declared.on_error == "pass":
            x.ask = msgspec.structs.replace(
                x.ask, evidence=(*x.ask.evidence, f"hook {declared.name}: failed, passed")
            )
            return None
        return Refusal(
            code="guard_unavailable",
            message=f"guardrail {declared.name!r} {why}, and without it nothing passes",
            retry_after_s=2.0,
        )

    # ---- where to

    def _bind(self, x: Exchange, guard: Guard | None) -> Refusal | None:
        """Narrow where the request may go by its final class; put guardrails on its answer."""
        x.ask = ask = self._placed(x.ask)
        if guard is not None and guard.outputs and ask.endpoint != "embeddings":
            # They see placeholders: the tap that puts originals back comes after them.
            assert x.caller is not None
            x.taps = [*(self._output(ask, x.caller, hook) for hook in guard.outputs), *x.taps]
        return None

    def _placed(self, ask: Request) -> Request:
        residency, operators = self._places[ask.privacy]
        if residency is None and operators is None:
            return ask
        return msgspec.structs.replace(
            ask, residency=_both(ask.residency, residency), operators=_both(ask.operators, operators)
        )

    def _output(self, ask: Request, caller: Caller, hook: Hook) -> OutputGuard:
        declared, function = hook.declared, hook.function
        assert function is not None

        def look(text: str) -> Verdict | None:
            shown = Shown(
                stage="output",
                texts=(text,),
                privacy=ask.privacy,
                team=team_of(caller),
                endpoint=ask.endpoint,
                model=ask.model,
            )
            try:
                return msgspec.convert(function(shown), Verdict, from_attributes=True)
            except Exception:  # noqa: BLE001 - whatever a guardrail does wrong has one declared answer
                return None if declared.on_error == "pass" else Verdict(refuse="the guardrail failed")

        return OutputGuard(declared.name, look, window_chars=declared.window_chars)


def team_of(caller: Caller) -> str:
    """Return "org/team" of a key called "org/team/key"."""
    return caller.name.rpartition("/")[0]


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """Return what both rules allow; None is no rule."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _shown(x: Exchange) -> Shown:
    assert x.caller is not None
    return Shown(
        stage="input",
        texts=tuple(strings_of(values_of(x.draft.body))),
        privacy=x.ask.privacy,
        team=team_of(x.caller),
        endpoint=x.ask.endpoint,
        model=x.ask.model,
    )


def _readable(x: Exchange) -> Refusal | None:
    body = x.draft.body
    asked = {k: body[k] for k in _MAY_BE_TOKENS if k in body and bytes(memoryview(body[k])[:1]) == b"["}
    messages = bytes(body.get("messages", b""))
    if b"[" in messages[1:] and (b'"type"' in messages or b"\\u" in messages):  # there may be parts
        asked["messages"] = body["messages"]
    what = unreadable(values_of(asked)) if asked else None
    if what is None:
        return None
    return Refusal(
        code="content_refused",
        message=f"{what}, which no rule of this team can read; send text "
        '(privacy.unreadable = "pass" lets it through unread)',
    )


def _rule(settings: PrivacySettings, declared: Any) -> Rule:
    own = settings.patterns.get(declared.pattern)
    pattern = (
        BUILT_IN[declared.pattern]
        if own is None
        else Pattern(name=declared.pattern, find=own.regex, meaning=own.meaning)
    )
    deed, _, rest = declared.action.partition(":")
    if deed == "redact,raise":
        deed = "redact"
    return Rule(
        pattern=pattern,
        deed=deed,
        privacy=rest or None,
        teams=None if declared.teams is None else frozenset(declared.teams),
    )


def _function(hook: GuardHook) -> Function | None:
    if hook.call.startswith(("http://", "https://")):
        return None
    module, _, name = hook.call.partition(":")
    found: Function = getattr(importlib.import_module(module), name)
    return found


def _places_of(
    settings: PrivacySettings, privacy: str
) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """Return regions and operators for data of a class: its own rules, and those of less sensitive ones."""
    residency: frozenset[str] | None = None
    operators: frozenset[str] | None = None
    for name in PRIVACY_CLASSES[: _RANK[privacy] + 1]:
        rule = settings.classes.get(name)  # type: ignore[call-overload]
        if rule is not None:
            residency = _both(residency, None if rule.residency is None else frozenset(rule.residency))
            operators = _both(operators, None if rule.operators is None else frozenset(rule.operators))
    return residency, operators
