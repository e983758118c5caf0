"""The adapters by name. What one is, and how it checks, renders and counts, stands in `contract.py`."""

from __future__ import annotations

from wattmill.models.engines.anthropic_http import ANTHROPIC
from wattmill.models.engines.contract import Adapter, Counters
from wattmill.models.engines.llama_cpp import LLAMA_CPP
from wattmill.models.engines.openai_http import OPENAI, OPENAI_COMPATIBLE
from wattmill.models.engines.transformers_serve import TRANSFORMERS
from wattmill.models.engines.vllm import VLLM

__all__ = ["ADAPTERS", "Adapter", "Counters"]

ADAPTERS: dict[str, Adapter] = {
    a.name: a for a in (LLAMA_CPP, VLLM, OPENAI, OPENAI_COMPATIBLE, ANTHROPIC, TRANSFORMERS)
}
