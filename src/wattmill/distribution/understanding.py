"""Who asks, and what: the caller, the body and what it asks for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from wattmill.distribution.doors.door import Visit
from wattmill.distribution.doors.entrance import Entrance
from wattmill.distribution.exchange_state import ExchangeState
from wattmill.distribution.known_body import learn
from wattmill.distribution.known_head import Asked
from wattmill.distribution.wire import Draft, draft_of, parse, read_body
from wattmill.models.bound import input_bound_tok
from wattmill.models.spec import TokenizerBound
from wattmill.units import US_PER_S
from wattmill.vocab.caller import PRIVACY_CLASSES, Caller, out_of_scope
from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Request

if TYPE_CHECKING:
    pass

_PLAIN = TokenizerBound()


def rules_of(headers: Mapping[bytes, bytes], caller: Caller) -> tuple[str, frozenset[str] | None] | Refusal:
    """Return the class of a request's data and the regions it may go to. A header may say more than the key,
    never less."""
    privacy, residency = caller.privacy, caller.residency
    said = headers.get(b"x-wattmill-privacy")
    if said is not None:
        asked = said.decode("latin-1").strip().lower()
        if asked not in PRIVACY_CLASSES:
            return Refusal(
                code="bad_header",
                message="header 'x-wattmill-privacy' must be one of "
                f"{', '.join(PRIVACY_CLASSES)}, got {asked[:64]!r}",
                param="x-wattmill-privacy",
            )
        privacy = max(privacy, asked, key=PRIVACY_CLASSES.index)
    regions = headers.get(b"x-wattmill-residency")
    if regions is not None:
        named = frozenset(region.strip() for region in regions.decode("latin-1").lower().split(","))
        if "" in named:
            return Refusal(
                code="bad_header",
                message="header 'x-wattmill-residency' must be names of regions, such as 'eu,ch'",
                param="x-wattmill-residency",
            )
        residency = named if residency is None else residency & named
    return privacy, residency


class Understanding(ExchangeState):
    """The steps of an exchange before its first gate."""

    __slots__ = ()

    def _understand(self) -> Refusal | None:
        """Fill caller, draft and ask; or say why not."""
        services, http = self.services, self.http
        key = http.headers.get(b"authorization") if self.door is None else self.door.door.key_of(http.headers)
        if isinstance(key, Refusal):
            return key
        caller = services.identify(key, services.clock.wall_us())
        if isinstance(caller, Refusal):
            return caller
        self.caller = caller
        self.path = caller.path
        if caller.endpoints is not None:
            refusal = out_of_scope(caller, endpoint=self.entry)
            if refusal is not None:
                return refusal
        refusal = services.admit()
        if refusal is not None:
            return refusal
        if self.gateway.in_flight > services.limits.in_flight:
            most = services.limits.in_flight
            return Refusal(
                code="overloaded",
                message=f"{most} requests are in flight already (limits.in_flight)",
                retry_after_s=1,
            )
        known = http.known
        like = None if known is None or self.door is not None else known.body
        if like is not None:
            read = like.read(http.body, services.bound.get(like.model, _PLAIN))
            if read is not None:
                self.like = like
                self.draft = self.as_read = read[0]
                return self._ask(like.model, None, read[1], caller)
        draft = parse(self.endpoint, http.body) if self.door is None else self._visit(self.door)
        if isinstance(draft, Refusal):
            return draft
        self.draft = draft
        asked = self._asked(caller)
        if isinstance(asked, Refusal):
            return asked
        model, pool = draft.model, None
        if "/" in model:
            place, _, rest = model.partition("/")
            if place in services.backends:
                model, pool = rest, place
        try:
            bound = input_bound_tok(self.endpoint, draft.body, services.bound.get(model, _PLAIN))
        except (msgspec.MsgspecError, RecursionError) as error:
            return Refusal(code="bad_value", message=f"the prompt cannot be read: {error}")
        if isinstance(bound, Refusal):
            return bound
        if self.door is not None:
            bound += self._beside_tok(self.door.visit, model)
        elif known is not None and known.unlike and self.endpoint == "chat":
            known.unlike -= 1
            known.body = learn(http.body, draft)
        return self._ask(model, pool, bound, caller)

    def _ask(self, model: str, pool: str | None, bound: int, caller: Caller) -> Refusal | None:
        draft, known = self.draft, self.http.known
        if known is not None and known.said is not None and known.said[0] is caller:
            privacy, residency, steps = known.said[1]
        else:
            asked = self._asked(caller)
            if isinstance(asked, Refusal):
                return asked
            privacy, residency, steps = asked
        self.ask = Request(
            id=self.id,
            endpoint=self.endpoint,
            model=model,
            pool=pool,
            stream=draft.stream,
            input_bound_tok=bound,
            max_output_tok=draft.max_output_tok,
            choices=draft.choices,
            needs=draft.needs,
            privacy=privacy,
            residency=residency,
            operators=caller.operators,
            steps=steps,
        )
        return None

    def _asked(self, caller: Caller) -> Asked | Refusal:
        """Return what the headers ask for beside the body; of a known head it is remembered."""
        known, headers = self.http.known, self.http.headers
        rules = rules_of(headers, caller)
        if isinstance(rules, Refusal):
            return rules
        steps = headers.get(b"x-wattmill-escalate", b"0").strip()
        if len(steps) != 1 or not steps.isdigit():
            return Refusal(
                code="bad_header",
                message="header 'x-wattmill-escalate' must be a digit: how many of the smaller models' "
                f"answers were not good enough, got {steps[:64].decode('latin-1')!r}",
                param="x-wattmill-escalate",
            )
        asked = (*rules, int(steps))
        if known is not None:
            known.said = caller, asked
        return asked

    def let_in_still(self) -> Refusal | None:
        """Look again, after a wait, at what can end meanwhile: the caller's key, and its run."""
        services, http = self.services, self.http
        key = http.headers.get(b"authorization") if self.door is None else self.door.door.key_of(http.headers)
        caller = key if isinstance(key, Refusal) else services.identify(key, services.clock.wall_us())
        if isinstance(caller, Refusal):
            return caller
        return None if self.holds is None else self.holds()

    # ---- through a door

    def _kept_waiting(self) -> bool:
        """Let whoever keeps answers look at a request that came through a door; True: it goes on later."""
        stored = self.services.stored
        told = stored.enter(self) if stored is not None else None  # type: ignore[arg-type]
        if isinstance(told, Refusal):
            self.refuse(told)
        return told is not None

    def _visit(self, entrance: Entrance) -> Draft | Refusal:
        body = read_body(self.http.body)
        if isinstance(body, Refusal):
            return body
        now_s = self.services.clock.wall_us() // US_PER_S
        visit = entrance.door.read(body, suffix=secrets.token_hex(20), now_s=now_s)
        if isinstance(visit, Refusal):
            return visit
        entrance.visit = visit
        entrance.pending = visit.pending
        return draft_of(visit.chat)

    def revisit(self, visit: Visit) -> Refusal | None:
        """Take `visit` in place of what the door had read; or say why not. Rules that gates have set stay."""
        entrance, ask = self.door, self.ask
        assert entrance is not None
        draft = draft_of(visit.chat)
        if isinstance(draft, Refusal):
            return draft
        try:
            bound = input_bound_tok("chat", draft.body, self.services.bound.get(ask.model, _PLAIN))
        except (msgspec.MsgspecError, RecursionError) as error:
            return Refusal(code="bad_value", message=f"the prompt cannot be read: {error}")
        if isinstance(bound, Refusal):
            return bound
        bound += self._beside_tok(visit, ask.model)
        entrance.visit, entrance.pending = visit, False
        self.draft = draft
        self.ask = msgspec.structs.replace(ask, input_bound_tok=bound, needs=draft.needs)
        return None

    def _beside_tok(self, visit: Visit, model: str) -> int:
        """What only an engine of the door's own protocol is sent."""
        if not visit.beside_bytes:
            return 0
        return int(visit.beside_bytes * self.services.bound.get(model, _PLAIN).expansion) + 1
