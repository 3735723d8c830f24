"""The choices that tell one decoder-only family from another, as data.

Module names are those of transformers 5.23.
"""

from dataclasses import dataclass, field
from typing import Literal

EXPERT_NAMES = ("experts.{e}.gate_proj", "experts.{e}.up_proj", "experts.{e}.down_proj")
NormLayout = Literal["pre", "sandwich", "post", "parallel", "parallel_two"]


@dataclass(frozen=True, slots=True)
class Names:
    """What a family calls its modules; a name that is empty is not there."""

    root: str = "model"
    embed: str = "embed_tokens"
    positions: str = ""
    layers: str = "layers"
    final_norm: str = "norm"
    head: str = "lm_head"
    attention: str = "self_attn"
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    fused_qkv: str = "qkv_proj"
    out: str = "o_proj"
    query_norm: str = "q_norm"
    key_norm: str = "k_norm"
    feed_forward: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    fused_gate_up: str = "gate_up_proj"
    down: str = "down_proj"
    activation: str = "act_fn"
    router: str = "gate"
    shared: str = "shared_experts"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek): ranks of query and cached latent, and the width of rope."""

    query_rank: int | None
    kv_rank: int
    rope_dim: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """How a layer attends; `norm` of queries and keys is per head, of all at once, or with a weight each."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window: int | None = None
    fused: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    norm: Literal["none", "head", "all", "each"] = "none"
    norm_last: bool = False
    sinks: bool = False
    causal: bool = True
    latent: Latent | None = None


@dataclass(frozen=True, slots=True)
class FeedForward:
    """A feed-forward part of `width`: gated (two projections in), gated with both fused, or plain."""

    width: int
    kind: Literal["gated", "fused", "plain"] = "gated"
    bias: bool = False


@dataclass(frozen=True, slots=True)
class ExpertSet:
    """A routed set of gated experts of `width`, and perhaps a shared expert that every row visits.

    `stored` names the tensors that a checkpoint holds for one expert, gate and up first, as
    `experts.{e}.w1`; empty if the file holds them fused as the module does. `transposed` marks fused
    tensors that are `[E, in, out]`. `correction` is a bias per expert that only routing uses.
    """

    count: int
    per_token: int
    width: int
    stored: tuple[str, str, str] | None = EXPERT_NAMES
    stored_path: str = ""
    transposed: bool = False
    bias: bool = False
    correction: bool = False
    shared_width: int = 0
    shared_gate: bool = False
    shared_first: bool = False


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One kind of layer."""

    attention: AttentionSpec
    feed_forward: FeedForward | ExpertSet


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A decoder-only transformer, whatever its family. `positions` counts learned position rows."""

    family: str
    hidden: int
    vocab: int
    layers: tuple[LayerSpec, ...]
    tied: bool
    max_context: int | None
    stored: str
    names: Names = field(default=Names())
    layout: NormLayout = "pre"
    norm_bias: bool = False
    head_bias: bool = False
    transposed: bool = False
    positions: int = 0
    notes: tuple[str, ...] = ()
