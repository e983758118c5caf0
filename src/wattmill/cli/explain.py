"""`wattmill explain`: the whole story of one request."""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wattmill.app.seeing.explain import (
    Story,
    Try,
    UnknownRequest,
    as_builtins,
    explain,
    settled_against_told,
)
from wattmill.app.seeing.request_words import why_ended, why_excluded
from wattmill.app.seeing.tier_story import TierStory
from wattmill.cli.application import application
from wattmill.cli.control_door import DEFAULT_HOME, HomeOption, JsonOption, factory_in, fail, show_json
from wattmill.units import UJ_PER_J, US_PER_S, usd_text

_usd = partial(usd_text, digits=9)  # exact: small models cost fractions of a millionth

explain_app = application()


@explain_app.command()
def main(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="As in the header x-request-id.")],
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Tell what was asked, by whom, where it went and why, and what it took. Reads what is not booked
    yet too."""
    try:
        story = explain(factory_in(home), request_id)
    except UnknownRequest as error:
        fail(str(error))
    if json:
        show_json(as_builtins(story))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines(story):
        table.add_row(name, text)
    Console(highlight=False, markup=False, soft_wrap=False).print(table)


def lines(story: Story) -> list[tuple[str, str]]:
    """Return the story as labelled lines for people, units in every one."""
    when = dt.datetime.fromtimestamp(story.at_us / US_PER_S, dt.UTC)
    mode = "" if story.stream is None else ", streamed" if story.stream else ", not streamed"
    out = [
        ("request", f"{story.request_id}  {when:%Y-%m-%d %H:%M:%S} UTC  {story.endpoint}{mode}"),
        ("spender", story.spender + (f"  (own id {story.label!r})" if story.label else "")),
        ("model", story.model + (f"  data {story.privacy}" if story.privacy else "")),
    ]
    if story.residency is not None:
        out.append(("stays in", ", ".join(story.residency) or "no region at all"))
    if story.operators is not None:
        out.append(("stays with", ", ".join(story.operators) or "no operator at all"))
    out += [("found" if i == 0 else "", text) for i, text in enumerate(story.evidence)]
    if story.input_bound_tok is not None:
        asked = "no limit" if story.asked_output_tok is None else f"{story.asked_output_tok} tok"
        out.append(
            (
                "asked",
                f"at most {story.input_bound_tok} tok in; {asked} out asked, clamped to "
                f"{story.output_clamp_tok} tok",
            )
        )
    if story.tier is not None:
        out += _tier(story.tier)
    if story.refusal:
        out.append(("refused", f"{story.refusal}: {story.message}"))
        out.append(("charge", "0 USD: nothing left, nothing is owed"))
    if story.replay_of is not None:
        out.append(("again", f"the answer of {story.replay_of} was told once more, by its idempotency key"))
        out.append(("charge", "0 USD: no place was asked"))
    if story.reason and not story.refusal:
        out.append(("route", story.reason))
    if story.policy is not None:
        length = story.expected_output_tok
        learned = "" if length is None else f"; such answers have about {length} tok (learned)"
        out.append(("policy", f"{story.policy}{learned}"))
    for number, one in enumerate(story.candidates):
        word = "first choice" if number == 0 else "runner-up"
        out.append(
            (
                "" if number else "expected",
                f"{one.pool}: {_usd(one.expected_nusd)} USD, first token {one.expected_ttft_s:.2f} s, "
                f"all {one.expected_s:.2f} s  ({word})",
            )
        )
    out += [
        ("excluded" if i == 0 else "", f"{pool}: {why_excluded(rule)}")
        for i, (pool, rule) in enumerate(story.excluded.items())
    ]
    for number, attempt in enumerate(story.tries, start=1):
        out += _attempt(number, attempt)
    if story.tries:
        out += _totals(story)
    out += [("runaway" if i == 0 else "", text) for i, text in enumerate(story.runaway)]
    out += [("budget" if i == 0 else "", text) for i, text in enumerate(story.budget)]
    if not story.journal_kept:
        out.append(("note", "the journal of that time is gone (retention): the decision's facts with it"))
    return out


def _tier(tier: TierStory) -> list[tuple[str, str]]:
    waited = f"  waited {tier.waited_us / US_PER_S:.3f} s at the gate" if tier.waited_us else ""
    verdict = {True: "  kept", False: "  not kept", None: ""}[tier.kept]
    return [("tier", tier.name + waited), ("promise", (tier.promise or "none") + verdict)]


def _attempt(number: int, one: Try) -> list[tuple[str, str]]:
    how = one.status + (f" ({one.finish_reason})" if one.finish_reason else "")
    cause = why_ended(one)
    why = f": {cause}" if cause else ""
    booked = "" if one.booked or one.status == "running" else "  not booked yet"
    out = [(f"attempt {number}", f"{one.pool}  {how}{why}{booked}")]
    times = [
        f"{value / US_PER_S:.3f} s {word}"
        for value, word in (
            (one.queue_us, "queued"), (one.prefill_us, "prefill"), (one.decode_us, "decode"),
            (one.ttft_us, "to first token"), (one.duration_us, "in all"),
        )
        if value is not None
    ]  # fmt: skip
    if times:
        out.append(("  time", ", ".join(times)))
    if one.tokens or one.source:
        nothing = "unknown: nobody counted them" if one.source == "unmetered" else "0"
        counts = (
            ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in one.tokens.items()) or nothing
        )
        out.append(("  tokens", f"{counts}  ({one.source})"))
    if one.charge_nusd is not None and one.cost_nusd is not None:
        over = f", overrun {_usd(one.overrun_nusd)} (operator's)" if one.overrun_nusd else ""
        held = f", reserved {_usd(one.reserved_nusd)}" if one.reserved_nusd is not None else ""
        out.append(("  money", f"charge {_usd(one.charge_nusd)}, cost {_usd(one.cost_nusd)}{over}{held} USD"))
        if one.saved_nusd is not None:
            by = "the engine's prefix cache" if one.answer_of is None else f"telling {one.answer_of} again"
            out.append(("  saved", f"{_usd(one.saved_nusd)} USD by {by}"))
        if one.charge_price:
            out.append(("  price", one.charge_price))
    elif one.reserved_nusd is not None:
        out.append(("  money", f"reserved {_usd(one.reserved_nusd)} USD, not ended yet"))
    return out


def _totals(story: Story) -> list[tuple[str, str]]:
    output = sum(sum(n for name, n in one.tokens.items() if name in _OUT) for one in story.tries)
    told = "" if story.told_uj is None else f"{story.told_uj / UJ_PER_J:.2f} J told with the answer ({_TOLD})"
    if story.energy_uj is None:
        energy = "unknown: no meter window is settled for it yet, or its place tells no joules"
        energy += f"; {told}" if told else ""
    else:
        joules = story.energy_uj / UJ_PER_J
        each = f", {joules / output:.3f} J per output token" if output else ""
        energy = f"{joules:.2f} J{each}  ({story.energy_provenance}; {story.energy_source})"
        against = settled_against_told(story.energy_uj, story.told_uj)
        if against is not None:
            energy += f"; {told}, {against}"
    if story.charge_nusd is None or story.cost_nusd is None:
        return [("energy", energy), ("charge", "not known before its end")]
    margin = _usd(story.charge_nusd - story.cost_nusd)
    return [
        ("energy", energy),
        ("charge", f"{_usd(story.charge_nusd)} USD"),
        ("cost", f"{_usd(story.cost_nusd)} USD, margin {margin} USD"),
    ]


_TOLD = "modelled: declared power over declared speeds"
_OUT = ("output", "reasoning", "audio_output")
