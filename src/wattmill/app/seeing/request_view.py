"""One request drawn: the story of `explain` with every figure as people read it."""

from __future__ import annotations

import msgspec

from wattmill.app.seeing.explain import Story, Try, settled_against_told
from wattmill.app.seeing.figure import Figure, figure
from wattmill.app.seeing.request_words import why_ended
from wattmill.app.seeing.tower import as_provenance


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the time line. `share` is 0..1 of the attempt."""

    label: str
    tone: str
    share: float
    figure: Figure


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    figure: Figure


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A place that could have served it, or that a rule excluded."""

    pool: str
    verdict: str  # "chosen", "runner-up" or the rule
    excluded: bool
    charge: Figure
    ttft: Figure
    total: Figure


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    pool: str
    status: str
    booked: bool
    spans: tuple[Span, ...]
    tokens: tuple[Tokens, ...]
    reserved: Figure
    charge: Figure
    cost: Figure
    overrun: Figure
    energy: Figure
    told: Figure  # joules that were told with the answer
    ttft: Figure
    duration: Figure
    price: str | None
    finish_reason: str | None
    cause: str | None


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    at_us: int
    label: str | None
    spender: str
    model: str
    asked: str
    refusal: str | None
    message: str | None
    reason: str | None
    candidates: tuple[Candidate, ...]
    attempts: tuple[AttemptView, ...]
    charge: Figure
    cost: Figure
    margin: Figure
    energy: Figure
    told: Figure
    budget: tuple[str, ...]
    note: str | None


def request_view(story: Story) -> RequestView:
    """Return what the board draws of a story."""
    known = story.charge_nusd is not None and story.cost_nusd is not None
    margin = (story.charge_nusd or 0) - (story.cost_nusd or 0) if known else None
    gone = "The journal of that time is gone (retention): why it went there is no longer known."
    return RequestView(
        id=story.request_id,
        at_us=story.at_us,
        label=story.label,
        spender=story.spender,
        model=story.model,
        asked=_asked(story),
        refusal=story.refusal,
        message=story.message,
        reason=story.reason,
        candidates=_candidates(story),
        attempts=tuple(_attempt(one, story) for one in story.tries),
        charge=figure(story.charge_nusd, "nusd"),
        cost=figure(story.cost_nusd, "nusd"),
        margin=figure(margin, "nusd", note="charge less cost"),
        energy=_joules(story.energy_uj, story.told_uj, story),
        told=_told(story.told_uj),
        budget=story.budget,
        note=None if story.journal_kept else gone,
    )


def _asked(story: Story) -> str:
    words = [story.endpoint]
    if story.stream is not None:
        words.append("streamed" if story.stream else "not streamed")
    if story.privacy:
        words.append(f"{story.privacy} data")
    if story.input_bound_tok is not None:
        words.append(f"at most {story.input_bound_tok:,} tok in")
    if story.output_clamp_tok is not None:
        words.append(f"at most {story.output_clamp_tok:,} tok out")
    return ", ".join(words)


def _candidates(story: Story) -> tuple[Candidate, ...]:
    served = story.tries[-1].pool if story.tries else None
    fit = [
        Candidate(
            pool=c.pool,
            verdict="chosen" if c.pool == served else "first choice" if i == 0 else "runner-up",
            excluded=False,
            charge=figure(c.expected_nusd, "nusd", provenance="estimated"),
            ttft=figure(c.expected_ttft_s, "s", provenance="estimated"),
            total=figure(c.expected_s, "s", provenance="estimated"),
        )
        for i, c in enumerate(story.candidates)
    ]
    out = [
        Candidate(
            pool=pool,
            verdict=f"ruled out: {rule}",
            excluded=True,
            charge=figure(None, "nusd"),
            ttft=figure(None, "s"),
            total=figure(None, "s"),
        )
        for pool, rule in story.excluded.items()
    ]
    return (*fit, *out)


def _attempt(one: Try, story: Story) -> AttemptView:
    counted = as_provenance(one.source)
    return AttemptView(
        pool=one.pool,
        status=one.status,
        booked=one.booked,
        spans=spans(one),
        tokens=tuple(
            Tokens(label=name.replace("_", " "), figure=figure(n, "tok", provenance=counted))
            for name, n in one.tokens.items()
        ),
        reserved=figure(one.reserved_nusd, "nusd", note="worst case, set aside before it left"),
        charge=figure(one.charge_nusd, "nusd"),
        cost=figure(one.cost_nusd, "nusd"),
        overrun=figure(one.overrun_nusd, "nusd"),
        energy=_joules(one.energy_uj, one.told_uj, story),
        told=_told(one.told_uj),
        ttft=figure(one.ttft_us, "us"),
        duration=figure(one.duration_us, "us"),
        price=one.charge_price,
        finish_reason=one.finish_reason,
        cause=why_ended(one),
    )


def spans(one: Try) -> tuple[Span, ...]:
    """Return the time line: waiting, queue, prefill, decode. They sum to the attempt's duration exactly.

    Queue and prefill are the engine's own figures where it gives them; the rest until the first token is
    waiting: the gateway, the network, and attempts before this one.
    """
    if not one.duration_us:
        return ()
    first_us = min(one.ttft_us if one.ttft_us is not None else one.duration_us, one.duration_us)
    queue_us = min(one.queue_us or 0, first_us)
    prefill_us = min(one.prefill_us or 0, first_us - queue_us)
    stretches = (
        ("waiting", "idle", first_us - queue_us - prefill_us),
        ("queue", "other", queue_us),
        ("prefill", "sky", prefill_us),
        ("decode", "blue", one.duration_us - first_us),
    )
    return tuple(
        Span(label=label, tone=tone, share=us / one.duration_us, figure=figure(us, "us"))
        for label, tone, us in stretches
        if us
    )


def _joules(uj: int | None, told_uj: int | None, story: Story) -> Figure:
    note = story.energy_source or "no meter window is settled for it yet, or its place tells no joules"
    against = settled_against_told(uj, told_uj)
    if against is not None:
        note = f"{against}; {note}"
    return figure(uj, "uj", provenance=as_provenance(story.energy_provenance), note=note)


def _told(uj: int | None) -> Figure:
    note = "as the client was told with the answer: declared power over declared speeds"
    return figure(uj, "uj", provenance="modelled", note=note)
