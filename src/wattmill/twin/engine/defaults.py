"""How engines are shipped: limits that hold where nobody sets others. Each has its source; read 2026-11.

Memory is not a default: `kv_tok` is what is left beside the weights (`wattmill.models.deployment`).
"""

from __future__ import annotations

from wattmill.twin.engine.spec import EngineLimits, SchedulerKind


def limits(
    engine: SchedulerKind,
    *,
    kv_tok: int,
    max_num_seqs: int | None = None,
    budget_tok: int | None = None,
    prefix_cache: bool | None = None,
    prefix_tok: int | None = None,
) -> EngineLimits:
    """Return the shipped limits of `engine` for `kv_tok` tokens of memory; arguments given replace them.

    - vLLM V1, `vllm/engine/arg_utils.py`: on devices of 70 GiB and more the API server takes 1,024 requests
      and 8,192 tokens a step (smaller ones 256 and 2,048); blocks of 16 tokens; prefix cache on.
    - SGLang, `python/sglang/srt/server_args.py`: prompts in steps of 8,192 tokens (`chunked_prefill_size`,
      less on small devices), pages of one token, radix cache on; requests at once are bounded by memory:
      2,048 here.
    - TensorRT-LLM, `tensorrt_llm/llmapi/llm_args.py` and `trtllm-serve`: 2,048 requests, 8,192 tokens a step,
      GUARANTEED_NO_EVICT, blocks of 32 tokens, block reuse on, chunked context off.
    - llama.cpp, `llama-server --help`: 4 slots where `-np` is left to it, 2,048 tokens a batch (`-b`; the
      cost of its pieces of 512, `-ub`, is the cost's business), the prompt of a slot's last request is kept.
      Each slot has its own part of the context.
    """
    seqs, budget, block, chunked = {
        "vllm": (1_024, 8_192, 16, True),
        "sglang": (2_048, 8_192, 1, True),
        "trtllm": (2_048, 8_192, 32, False),
        "llamacpp": (4, 2_048, 1, True),
    }[engine]
    return EngineLimits(
        scheduler=engine,
        max_num_seqs=seqs if max_num_seqs is None else max_num_seqs,
        budget_tok=budget if budget_tok is None else budget_tok,
        kv_blocks=kv_tok // block,
        block_tok=block,
        chunked_prefill=chunked,
        prefix_cache=True if prefix_cache is None else prefix_cache,
        prefix_tok=512 if prefix_tok is None else prefix_tok,
    )
