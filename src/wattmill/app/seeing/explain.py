"""The whole story of one request: from the books, and from the journal for what is not booked (yet)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from wattmill.app.declared.kept_checks import CACHE_PLACE
from wattmill.app.home import Home
from wattmill.app.seeing.tier_story import TierStory, tier_story
from wattmill.ledger.refusing import amount_text
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import LimitState
from wattmill.ledger.stores.sqlite_read import AttemptRow, Books, RefusedRow
from wattmill.ledger.stores.sqlite_tiers import tiers_of
from wattmill.ledger.story import Told, told
from wattmill.units import TOK_PER_MTOK
from wattmill.vocab.fact import End, Intent, Refused, Replayed
from wattmill.vocab.ids import split_request_id
from wattmill.vocab.price import Price
from wattmill.vocab.refusal import CODES
from wattmill.vocab.usage import TOKEN_CLASSES


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """A place that could have served it."""

    pool: str
    expected_nusd: int
    expected_ttft_s: float
    expected_s: float


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. What only the journal knows is None once the journal is gone."""

    pool: str
    status: str  # vocab.fact.Status, "in_doubt", or "running"
    booked: bool
    source: str | None  # of the token counts
    tokens: dict[str, int]  # by class
    started_us: int
    ended_us: int | None
    ttft_us: int | None  # from the request's arrival
    duration_us: int | None  # from the request's arrival
    queue_us: int | None
    prefill_us: int | None
    decode_us: int | None
    reserved_nusd: int | None
    charge_nusd: int | None
    cost_nusd: int | None
    overrun_nusd: int
    energy_uj: int | None  # settled
    told_uj: int | None  # the estimate that was told with the answer; None: none was, or the journal is gone
    charge_price: str | None  # version in words
    finish_reason: str | None
    cause: str | None
    http_status: int | None = None  # of the place's answer; 0: there was none
    saved_nusd: int | None = None  # charge that its cached prompt tokens saved; None: none were cached
    answer_of: str | None = None  # the request whose answer the exact cache told again; None: a place's own


class Story(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    label: str | None  # the client's own id
    spender: str  # "org/team/key"
    model: str
    endpoint: str
    stream: bool | None
    privacy: str | None
    at_us: int
    input_bound_tok: int | None
    output_clamp_tok: int | None
    asked_output_tok: int | None
    refusal: str | None  # code
    message: str | None
    reason: str | None  # of the route
    candidates: tuple[Expected, ...]
    excluded: dict[str, str]  # pool -> rule
    tries: tuple[Try, ...]
    charge_nusd: int | None  # None: nothing of it has ended yet
    cost_nusd: int | None
    energy_uj: int | None
    told_uj: int | None
    energy_provenance: str
    energy_source: str
    budget: tuple[str, ...]  # in words, organisation first
    journal_kept: bool
    tier: TierStory | None = None  # None: it had no tier
    policy: str | None = None  # that chose the place
    expected_output_tok: int | None = None  # learned of earlier answers; None: as declared
    runaway: tuple[str, ...] = ()  # what it looked like, and what was done, in words
    evidence: tuple[str, ...] = ()  # which privacy rules matched and how often, never what
    residency: tuple[str, ...] | None = None  # regions that its data was bound to; None: none
    operators: tuple[str, ...] | None = None  # operators that its data was bound to; None: none
    replay_of: str | None = None  # id of the request whose answer was told again under its idempotency key


class UnknownRequest(LookupError):
    """No such request; the message says where it was looked for."""


def explain(home: Home, request_id: str) -> Story:
    """Return the story of a request. Raises `UnknownRequest`."""
    parts = split_request_id(request_id)
    if parts is None:
        raise UnknownRequest(
            f"{request_id!r} is no request id: it looks like req_5f0c1e2d3a4b_1f, see the header "
            f"x-request-id of an answer"
        )
    epoch, seq = parts
    rows: list[AttemptRow] = []
    refused: RefusedRow | None = None
    energy = ("unknown", "")
    segment = 0
    tiered: dict[int, tuple[str, int]] = {}
    if home.ledger_db.exists():
        with Books(home.ledger_db) as books:
            rows = books.request(epoch, seq)
            refused = books.refused(epoch, seq)
            tokens = {row.id: books.tokens(row.id) for row in rows}
            tiered = tiers_of(books.db, list(tokens))
            sums = books.energy()
            energy = (sums.provenance, sums.source)
            segment = _segment(books, epoch, seq)
    else:
        tokens = {}
    journal = told(home.journal, epoch, seq, first_segment=segment)
    if not rows and not journal and refused is None:
        raise UnknownRequest(
            f"no request {request_id} in {home.root}: neither in the books nor in a journal that is "
            f"still kept; "
            "is it from another factory (--home)?"
        )
    names, prices, budget = _control(
        home, _path(journal), rows[0].key if rows else refused.key if refused else 0
    )
    story = _story(request_id, rows, tokens, refused, journal, energy, names, prices, budget)
    again = journal.replayed
    return msgspec.structs.replace(
        story, tier=tier_story(journal, tiered), replay_of=None if again is None else again.of
    )


def settled_against_told(settled_uj: int | None, told_uj: int | None) -> str | None:
    """Say how settled joules lie to those that were told with the answer; None where one is not known."""
    if settled_uj is None or not told_uj:
        return None
    off = settled_uj / told_uj - 1.0
    if abs(off) < 0.0005:
        return "settled as told"
    return f"settled {abs(off):.1%} {'above' if off > 0 else 'below'} what was told"


def as_builtins(story: Story) -> dict[str, Any]:
    return msgspec.to_builtins(story)  # type: ignore[no-any-return]


def _segment(books: Books, epoch: str, seq: int) -> int:
    row = books.db.execute(
        "SELECT max(segment) FROM segment WHERE epoch = (SELECT id FROM epoch WHERE name = ?) AND "
        "first_seq <= ?",
        (epoch, seq),
    ).fetchone()
    # Attempts that overlap make the order of their numbers a little loose: one segment earlier is safe.
    return max(0, (row[0] or 0) - 1)


def _path(journal: Told) -> tuple[int, ...]:
    if journal.intents:
        return journal.intents[0].path
    fact = journal.refused or journal.replayed
    return fact.path if fact else ()


def _control(
    home: Home, path: tuple[int, ...], key: int
) -> tuple[dict[int, str], Mapping[int, Price], dict[int, str]]:
    """Return (full names of nodes, prices, budgets in words), empty where the control database is gone."""
    if not home.control_db.exists():
        return {}, {}, {}
    with Control(home.control_db) as control:
        nodes = control.nodes()
        if not path:
            chain: list[int] = []
            node = nodes.get(key)
            while node is not None:
                chain.insert(0, node.id)
                node = nodes.get(node.parent) if node.parent is not None else None
            path = tuple(chain)
        budgets = {budget.node: budget for budget in control.summaries()}
        words = {}
        for id in path:
            if id in budgets:
                found = budgets[id]
                words[id] = f"{found.kind} {found.name} {_share(found.used_nusd, found.cap_nusd)}" + "".join(
                    f"; {_limit(state)}" for state in found.limits
                )
        return {id: budget.name for id, budget in budgets.items()}, control.prices(), words


def _share(used_nusd: int, cap_nusd: int | None) -> str:
    if cap_nusd is None:
        return "no cap"
    if not cap_nusd:
        return "cap of 0: nothing is admitted"
    share = used_nusd / cap_nusd
    return "less than 1% used" if 0 < share < 0.01 else f"{share:.0%} used"


def _limit(state: LimitState) -> str:
    per = "" if state.period == "life" else f" per {state.period}"
    held = f", {amount_text(state.unit, state.reserved)} reserved" if state.reserved else ""
    return (
        f"{amount_text(state.unit, state.used)} of {amount_text(state.unit, state.amount)}{per} used{held}, "
        f"{amount_text(state.unit, state.left)} left"
    )


def _sum(parts: list[int | None]) -> int | None:
    """Return the sum of what is known; None if there are parts and none is, 0 if there are no parts."""
    known = [part for part in parts if part is not None]
    return sum(known) if known or not parts else None


def _story(
    request_id: str,
    rows: list[AttemptRow],
    tokens: dict[int, dict[str, int]],
    refused: RefusedRow | None,
    journal: Told,
    energy: tuple[str, str],
    names: Mapping[int, str],
    prices: Mapping[int, Price],
    budget: Mapping[int, str],
) -> Story:
    by_seq = {row.seq: row for row in rows}
    intents = {intent.seq: intent for intent in journal.intents}
    ends = {end.seq: end for end in journal.ends}
    tries = tuple(
        _try(by_seq.get(seq), tokens, intents.get(seq), ends.get(seq), prices)
        for seq in sorted(by_seq.keys() | intents.keys())
    )
    first = intents[min(intents)] if intents else None
    row = rows[0] if rows else None
    no, again = journal.refused, journal.replayed
    route = first.route if first is not None else no.route if no is not None else None
    key = first.key if first else no.key if no else row.key if row else refused.key if refused else 0
    key = key or (again.key if again else 0)
    settled = [one.energy_uj for one in tries if one.energy_uj is not None]
    estimates = [one.told_uj for one in tries if one.told_uj is not None]
    code = no.code if no else refused.code if refused else None
    return Story(
        request_id=request_id,
        label=first.label if first else no.label if no else again.label if again else None,
        spender=names.get(key, f"node {key}"),
        model=(first or no or row or refused or again).model,  # type: ignore[union-attr]
        endpoint=(first or no or row or refused or again).endpoint,  # type: ignore[union-attr]
        stream=first.stream if first else row.stream if row else None,
        privacy=first.privacy if first else row.privacy if row else None,
        evidence=first.evidence if first else (),
        residency=_names(first.terms.residency) if first and first.terms else None,
        operators=_names(first.terms.operators) if first and first.terms else None,
        at_us=_began_us(first, no or again, row, refused),
        input_bound_tok=first.input_bound_tok if first else None,
        output_clamp_tok=first.output_clamp_tok if first else None,
        asked_output_tok=first.asked_output_tok if first else None,
        refusal=code,
        message=no.message if no else refused.message if refused else None,
        reason=route.reason if route and route.reason else CODES[code].meaning if code in CODES else None,
        candidates=tuple(
            Expected(
                pool=c.pool, expected_nusd=c.expected_nusd, expected_ttft_s=c.expected_ttft_s,
                expected_s=c.expected_s
            )
            for c in (route.candidates if route else ())
        ),
        excluded={e.pool: e.rule for e in route.excluded} if route else {},
        tries=tries,
        charge_nusd=_sum([one.charge_nusd for one in tries]),
        cost_nusd=_sum([one.cost_nusd for one in tries]),
        energy_uj=sum(settled) if settled else None,
        told_uj=sum(estimates) if estimates else None,
        energy_provenance=energy[0] if settled else "unknown",
        energy_source=energy[1] if settled else "",
        budget=tuple(budget.values()),
        journal_kept=bool(journal),
        policy=route.policy or None if route else None,
        expected_output_tok=route.hints.output_tok if route else None,
        runaway=tuple(f"{seen.kind} ({seen.rule}): {seen.reason}; {seen.action}" for seen in journal.runaway),
    )  # fmt: skip


def _began_us(
    first: Intent | None, noted: Refused | Replayed | None, row: AttemptRow | None, refused: RefusedRow | None
) -> int:
    known = first or noted or refused
    return known.at_us if known is not None else row.started_us if row is not None else 0


def _try(
    row: AttemptRow | None,
    tokens: Mapping[int, dict[str, int]],
    intent: Intent | None,
    end: End | None,
    prices: Mapping[int, Price],
) -> Try:
    seen = row or intent
    assert seen is not None
    price = prices.get(seen.charge_price)
    used: dict[str, int] = {}
    if row is not None:
        used = tokens[row.id]
    elif end is not None and end.usage is not None:
        used = {name: n for name, n in zip(TOKEN_CLASSES, end.usage.by_class(), strict=True) if n}
    return Try(
        pool=seen.pool,
        status=row.status if row else end.status if end else "running",
        booked=row is not None,
        source=row.source if row else end.usage_source if end else None,
        tokens=used,
        started_us=row.started_us if row else intent.at_us if intent else 0,
        ended_us=row.ended_us if row else end.at_us if end else None,
        ttft_us=row.ttft_us if row else end.ttft_us if end else None,
        duration_us=row.duration_us if row else end.duration_us if end else None,
        queue_us=end.queue_us if end else None,
        prefill_us=end.prefill_us if end else None,
        decode_us=end.decode_us if end else None,
        reserved_nusd=intent.reserved_nusd if intent else None,
        charge_nusd=row.charge_nusd if row else end.charge_nusd if end else None,
        cost_nusd=row.cost_nusd if row else end.cost_nusd if end else None,
        overrun_nusd=row.overrun_nusd if row else end.overrun_nusd if end else 0,
        energy_uj=row.energy_uj if row else None,
        told_uj=end.told_uj if end else None,
        charge_price=None if price is None else f"{price.book} version {price.id} ({price.model})",
        finish_reason=end.finish_reason if end else None,
        cause=(row.cause if row else None) or (end.error if end else None),
        http_status=end.http_status if end else None,
        saved_nusd=_saved_by_cache(end) if seen.pool == CACHE_PLACE else _saved(used, price),
        answer_of=end.engine_id if end is not None and seen.pool == CACHE_PLACE else None,
    )


def _saved_by_cache(end: End | None) -> int | None:
    return None if end is None else end.saved_nusd


def _saved(used: Mapping[str, int], price: Price | None) -> int | None:
    """Return what the prompt tokens that were in the engine's cache would have been charged beyond what they
    were, at the price that was charged."""
    cached_tok = used.get("cached_input", 0)
    if not cached_tok or price is None:
        return None
    computed, cached = (price.rates_nusd_per_mtok[TOKEN_CLASSES.index(n)] for n in ("input", "cached_input"))
    if computed is None or cached is None:
        return None
    return round(cached_tok * (computed - cached) / TOK_PER_MTOK)


def _names(names: frozenset[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(sorted(names))
