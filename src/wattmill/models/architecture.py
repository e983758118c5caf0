"""What a model's weights and attention cost: bytes, and multiply-adds counted as two FLOPs."""

from __future__ import annotations

import msgspec


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of one model. Serving names that share weights' shapes share one architecture."""

    name: str
    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int  # 0: dense
    active_experts: int  # of them, per token
    expert_params: float  # all routed experts together
    moe_layers: int
    window_tok: int  # 0: no layer slides
    window_layers: int
    linear_layers: int  # layers with a state of fixed size instead of a cache that grows
    kv_lora_rank: int  # 0: no latent attention
    qk_nope_dim: int
    qk_rope_dim: int
    v_head_dim: int
    vocab: int
    max_context_tok: int
    params: float
    active_params: float  # per token
    source: str
    as_of: str
    verified: bool  # False: from memory, held against no published configuration
    ffn_dense: int = 0  # width of the feed-forward of layers without experts; 0: not recorded
    ffn_expert: int = 0  # width of one expert
    expert_width: int = 0  # of what goes into one: the hidden size, or a projection of it
    shared_experts: int = 0  # of a layer, used by every token
    caveat: str = ""  # what the figures leave out

    @property
    def kv_law(self) -> str:
        """Return `latent`, `hybrid`, `sliding`, `grouped` or `full`."""
        if self.kv_lora_rank:
            return "latent"
        if self.linear_layers:
            return "hybrid"
        if self.window_layers:
            return "sliding"
        return "grouped" if self.kv_heads < self.heads else "full"

    @property
    def dense_params(self) -> float:
        """Return the parameters that every token reads: attention, dense and shared layers, embeddings."""
        return max(self.params - self.expert_params, 0.0)

    @property
    def growing_layers(self) -> int:
        """Return the layers whose cache grows with every token."""
        return self.layers - self.window_layers - self.linear_layers

    @property
    def kv_elements_per_layer(self) -> int:
        """Return cache elements of one token in one layer: keys and values, or the one latent vector."""
        if self.kv_lora_rank:
            return self.kv_lora_rank + self.qk_rope_dim
        return 2 * self.kv_heads * self.head_dim

    def kv_elements(self, context_tok: float) -> float:
        """Return cache elements that one sequence of `context_tok` reads in a decode step.

        Sliding layers hold `window_tok` at most; linear layers read a state of heads x head_dim x head_dim.
        """
        growing = self.growing_layers * context_tok
        sliding = self.window_layers * min(context_tok, self.window_tok) if self.window_layers else 0.0
        state = self.linear_layers * self.heads * self.head_dim * min(self.head_dim, 128)
        return (growing + sliding) * self.kv_elements_per_layer + state

    def kv_elements_per_tok(self) -> int:
        """Return cache elements that one more token adds once windows are full."""
        return self.growing_layers * self.kv_elements_per_layer

    @property
    def attention_flop_per_tok2(self) -> float:
        """Return FLOPs of one query token against one cached token over the layers that grow, in prefill."""
        return 2.0 * self.heads * self._attended_dims * self.growing_layers

    def window_attention_flop(self, tok: float) -> float:
        """Return attention FLOPs of `tok` prompt tokens in the sliding layers, each seeing a full window."""
        if not self.window_layers:
            return 0.0
        return 2.0 * self.heads * self._attended_dims * self.window_layers * self.window_tok * tok

    @property
    def linear_flop_per_tok(self) -> float:
        """Return FLOPs of one token in all matrix products (experts it uses, no attention)."""
        return 2.0 * self.active_params

    def experts_touched(self, tok: float) -> float:
        """Return how many of a layer's experts at least one of `tok` tokens uses, if routing is even.

        E (1 - (1 - k/E)^tok): each token draws k of E without preference. Even routing touches the most;
        real routers are skewed, which the fitted exponent of the step-time law takes up.
        """
        if not self.experts:
            return 0.0
        missed: float = (1.0 - self.active_experts / self.experts) ** tok
        return self.experts * (1.0 - missed)

    @property
    def _attended_dims(self) -> int:
        if self.kv_lora_rank:  # not absorbed, as engines prefill
            return self.qk_nope_dim + self.qk_rope_dim + self.v_head_dim
        return 2 * self.head_dim
