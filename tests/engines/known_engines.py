"""What each engine is known to do, where engines differ. A row that is wrong fails: engines learn, too."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """One engine's habits and faults. The defaults are what a client would expect."""

    ignore_eos: bool = True  # it can be asked to go on to the clamp
    ends_with_done: bool = True  # its streams end with `data: [DONE]`
    stop_text_is_cut: bool = True
    bad_value_status: int = 400  # `temperature: "hot"`
    bad_messages_status: int = 400
    unknown_model_status: int = 404
    refuses_beyond_context: bool = True
    counts_prompts_exactly: bool = True  # class by class, also of those that left in prefill
    counts_each_choice_in_chunks: bool = False  # by itself, which the tally adds up
    prompt_counted_per_choice: bool = False  # by its counters, not by its usage
    unread_tok: int = 300  # most that it makes after the last chunk that a leaving client read
    forced_call: bool = True  # `tool_choice: required` gives a call
    forced_arguments_fit: bool = True  # to the function's parameters without `strict`
    stops_unstreamed: bool = True  # when the client leaves
    fuzz_reaches: int = 20  # fields of the fuzz that are served, at least


KNOWN = {
    "embedded": Known(
        unknown_model_status=200,
        forced_call=False,
        forced_arguments_fit=False,
        stops_unstreamed=False,
    ),
    "vllm": Known(
        counts_prompts_exactly=False,
        counts_each_choice_in_chunks=True,
        prompt_counted_per_choice=True,
        unread_tok=3,
        forced_arguments_fit=False,
    ),
    "transformers": Known(
        ignore_eos=False,
        ends_with_done=False,
        stop_text_is_cut=False,
        bad_value_status=500,
        bad_messages_status=500,
        unknown_model_status=500,
        refuses_beyond_context=False,
        forced_call=False,
        forced_arguments_fit=False,
        stops_unstreamed=False,
        fuzz_reaches=10,
    ),
}
