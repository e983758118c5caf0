"""A model on an engine on accelerators: how it is split, and what fits into memory beside the weights."""

from __future__ import annotations

import msgspec

from wattmill.compute.spec import Accelerator
from wattmill.models import graphs
from wattmill.models.architecture import Architecture

_BITS_PER_BYTE = 8.0


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One replica. It runs on `tp` x `attn_dp` x `pp` devices.

    Attention and dense layers are split `tp` ways inside each of the `attn_dp` ranks, which hold different
    sequences; routed experts are spread over all devices of a pipeline stage, whole ones over `ep` of them.
    """

    architecture: Architecture
    accelerator: Accelerator
    engine: str  # vllm, sglang, trtllm, llama.cpp ...
    weight_bits: float  # of the routed experts, or of all matrices where there are none
    kv_bits: float
    weight_only: bool = False  # weights are unpacked to 16 bits before they are multiplied
    tp: int = 1
    pp: int = 1
    ep: int = 1
    attn_dp: int = 1
    stage_link_bytes_per_s: float | None = None  # from one stage to the next, a device; None: takes no time
    graph_sizes: tuple[int, ...] = ()  # tokens of a step that are recorded as graphs; (): nothing is padded

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "ep", "attn_dp"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; 1 means: not split")
        for name in ("weight_bits", "kv_bits"):
            if not 1.0 <= getattr(self, name) <= 32.0:
                raise ValueError(f"{name} must be between 1 and 32 bits, got {getattr(self, name)}")
        graphs.check(self.graph_sizes)

    @property
    def gpus(self) -> int:
        """Return the devices of one replica."""
        return self.tp * self.attn_dp * self.pp

    @property
    def stage_gpus(self) -> int:
        """Return the devices that share one layer."""
        return self.tp * self.attn_dp

    @property
    def dense_bits(self) -> float:
        """Return the bits of what every token reads: published checkpoints with experts in 4 bits leave
        attention and shared layers in 16; the output head has 16 in all of them (`head_bytes`)."""
        return 16.0 if self.architecture.experts and self.weight_bits < 8.0 else self.weight_bits

    @property
    def flop_bits(self) -> float:
        """Return the width in which expert or feed-forward products are computed: 4-bit weights on a part
        without a unit for them are unpacked."""
        unpacked = self.weight_only or (self.weight_bits < 8.0 and self.accelerator.fp4_flop_per_s is None)
        return 16.0 if unpacked else self.weight_bits

    @property
    def dense_bytes(self) -> float:
        """Return bytes of the matrices that every token reads, without embeddings."""
        a = self.architecture
        tables = 2.0 * a.vocab * a.hidden
        return max(a.dense_params - tables, 0.0) * self.dense_bits / _BITS_PER_BYTE

    @property
    def head_bytes(self) -> float:
        """Return bytes of the output head, in 16 bits."""
        return 2.0 * self.architecture.vocab * self.architecture.hidden

    @property
    def kv_split(self) -> int:
        """Return over how many devices of an attention rank a sequence's cache is spread.

        A latent cache is one vector without heads: each of the `tp` devices holds all of it. Grouped heads
        are split until each device has one, then repeated.
        """
        if self.architecture.kv_lora_rank:
            return 1
        return min(self.tp, max(self.architecture.kv_heads, 1))

    @property
    def weight_bytes_per_gpu(self) -> float:
        """Return bytes of weights that one device holds."""
        experts = self.architecture.expert_params * self.weight_bits / _BITS_PER_BYTE
        # The input table is as large as the head.
        dense = self.dense_bytes + 2.0 * self.head_bytes
        return (dense / self.tp + experts / self.stage_gpus) / self.pp

    @property
    def kv_bytes_per_tok_per_gpu(self) -> float:
        """Return bytes that one more token of a sequence takes on a device that holds the sequence."""
        elements = self.architecture.kv_elements_per_tok() / self.pp / self.kv_split
        return elements * self.kv_bits / _BITS_PER_BYTE

    @property
    def distinct_kv_bytes_per_tok(self) -> float:
        """Return bytes of one token's cache, each element once: a hand-over sends no copies."""
        return self.architecture.kv_elements_per_tok() * self.kv_bits / _BITS_PER_BYTE

    def kv_bytes_per_tok(self) -> float:
        """Return bytes that one more token takes in the whole replica, copies included."""
        return self.kv_bytes_per_tok_per_gpu * self.tp * self.pp

    def kv_tokens(self, *, memory_share: float = 0.9, other_bytes: float = 2e9) -> int:
        """Return the tokens of cache for which one replica has room; 0 if the weights do not fit.

        `memory_share` of the device is the engine's (0.9: the default of vLLM); `other_bytes` per device go
        to captured graphs and activations before the cache gets the rest.
        """
        room = self.accelerator.memory_bytes * memory_share - other_bytes - self.weight_bytes_per_gpu
        if room <= 0.0:
            return 0
        per_tok = self.kv_bytes_per_tok_per_gpu
        if per_tok <= 0.0:  # every layer's state has a fixed size: the context length is the bound
            return self.architecture.max_context_tok * self.attn_dp
        return int(room / per_tok) * self.attn_dp
