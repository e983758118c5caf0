"""Small places and pieces of work for the twin's tests."""

from __future__ import annotations

from hypothesis import strategies as st

from wattmill.scheduling.spec import Pool
from wattmill.twin.spec import Place, StepLaw, StreamLaw, Work

MODEL = "m"
MS_PS = 1_000_000_000


def pool(
    name: str, *, slots: int = 4, queue: int = 1_000, usd_out: float = 1.0, privacy: str = "private"
) -> Pool:
    return Pool(
        name=name,
        models=frozenset([MODEL]),
        capabilities=frozenset(["chat"]),
        context_tok=4_096,
        privacy=privacy,
        slots=slots,
        queue=queue,
        charge_in_nusd_per_mtok={MODEL: round(usd_out * 250_000_000)},
        charge_out_nusd_per_mtok={MODEL: round(usd_out * 1_000_000_000)},
        prefill_tok_per_s=5_000.0,
        decode_tok_per_s=100.0,
    )


def batch(
    name: str = "batch",
    *,
    slots: int = 4,
    queue: int = 1_000,
    usd_out: float = 1.0,
    cache_blocks: int = 0,
    kv_tok: int = 8_192,
    budget_tok: int = 512,
    overhead_ps: int = 0,
    step_ps: int = 8 * MS_PS,
    decode_ps: int = MS_PS,
    kv_ps_per_tok: int = 700,
    prefill_ps_per_tok: int = 200_000_000,
    attention_ps_per_ktok: int = 3_000_000,
) -> Place:
    law = StepLaw(
        step_ps=step_ps,
        decode_ps=decode_ps,
        kv_ps_per_tok=kv_ps_per_tok,
        prefill_ps_per_tok=prefill_ps_per_tok,
        attention_ps_per_ktok=attention_ps_per_ktok,
        budget_tok=budget_tok,
        kv_tok=kv_tok,
        cache_blocks=cache_blocks,
    )
    return Place(pool=pool(name, slots=slots, queue=queue, usd_out=usd_out), law=law, overhead_ps=overhead_ps)


def stream(name: str = "stream", *, slots: int = 2, queue: int = 1_000, usd_out: float = 4.0) -> Place:
    law = StreamLaw(prefill_ps_per_tok=100_000_000, decode_ps=5 * MS_PS)
    return Place(pool=pool(name, slots=slots, queue=queue, usd_out=usd_out), law=law, overhead_ps=20 * MS_PS)


@st.composite
def works(
    draw: st.DrawFn, *, most: int = 14, within_us: int = 2_000_000, prefixes: bool = False
) -> list[Work]:
    """Some work in order of arrival; arrivals of one instant, one-token answers and long prompts included."""
    count = draw(st.integers(1, most))
    made = []
    for at_us in sorted(draw(st.lists(st.integers(0, within_us), min_size=count, max_size=count))):
        input_tok = draw(st.sampled_from([1, 2, 100, 511, 512, 513, 1_500, 2_900]))
        output_tok = draw(st.sampled_from([1, 2, 3, 20, 60]))
        blocks: tuple[int, ...] = ()
        if prefixes:
            first = draw(st.integers(0, 3))
            blocks = tuple(first + 10 * i for i in range(-(-input_tok // 512)))
        made.append(
            Work(at_us=at_us, input_tok=input_tok, output_tok=output_tok, max_output_tok=64, blocks=blocks)
        )
    return made
