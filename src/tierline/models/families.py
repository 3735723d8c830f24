"""What each family of decoders calls things and leaves out: `config.json` to `DecoderConfig`, by table.

The defaults are those of the configuration classes of transformers 5.23, because a `config.json` omits
what equals them.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tierline.errors import UnknownArchitectureError
from tierline.models.decoder_config import (
    AttentionSpec,
    DecoderConfig,
    ExpertSet,
    FeedForward,
    Latent,
    LayerSpec,
    Names,
    NormLayout,
)
from tierline.models.fields import MAX_EXPERTS, MAX_LAYERS, Fields

DTYPES: Mapping[str, str] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
Switch = bool | tuple[str, bool]  # always so, or as the field of that name says, with its default


@dataclass(frozen=True, slots=True)
class Family:
    """How one `model_type` differs from Llama.

    `full_every` counts the sliding window's pattern: None without windows, 0 in every layer, n where each
    n-th layer is full.
    """

    tied: bool = False
    kv_heads: int | None = None
    head_dim: int | None = None
    qkv_bias: Switch = False
    out_bias: Switch = False
    mlp_bias: Switch = False
    head_bias: Switch = False
    mlp: Literal["gated", "fused", "plain"] = "gated"
    qk_norm: Literal["none", "head", "all", "each"] = "none"
    qk_norm_if: Switch = True
    norm_last: bool = False
    fused_qkv: bool = False
    layout: NormLayout = "pre"
    norm_bias: bool = False
    full_every: int | None = None
    window: int | None = None
    sinks: bool = False
    transposed: bool = False
    learned_positions: bool = False
    names: Names = field(default=Names())
    experts: Callable[[Fields], ExpertSet] | None = None
    adapt: Callable[[Fields, DecoderConfig], DecoderConfig] | None = None


def decoder_config(fields: Fields) -> DecoderConfig:
    """Return what a `config.json` of a decoder says; raise InputError if it is of no known family."""
    family = _family(fields)
    layers = fields.count("num_hidden_layers", "n_layer", most=MAX_LAYERS)
    windows = _windows(fields, family, layers)
    attend, dense = _attention(fields, family), _feed_forward(fields, family)
    sparse = family.experts(fields) if family.experts else None
    sparse_layers = _sparse_layers(fields, layers) if sparse else frozenset()
    specs = tuple(
        LayerSpec(replace(attend, window=w), sparse if sparse and i in sparse_layers else dense)
        for i, w in enumerate(windows)
    )
    config = DecoderConfig(
        family=fields.text("model_type"),
        hidden=fields.count("hidden_size", "n_embd"),
        vocab=fields.count("vocab_size"),
        layers=specs,
        tied=fields.flag("tie_word_embeddings", family.tied),
        max_context=fields.optional_count("max_position_embeddings", "n_positions"),
        stored=stored_format(fields),
        names=family.names,
        layout=family.layout,
        norm_bias=family.norm_bias,
        head_bias=_switch(fields, family.head_bias),
        transposed=family.transposed,
        positions=fields.count("max_position_embeddings", "n_positions") if family.learned_positions else 0,
        notes=_notes(fields),
    )
    return family.adapt(fields, config) if family.adapt else config


def stored_format(fields: Fields) -> str:
    """Return the number format that `dtype` (once `torch_dtype`) names; fp32, torch's default, if absent."""
    name = fields.text("dtype", "torch_dtype", default="float32").removeprefix("torch.")
    if name not in DTYPES:
        raise fields.error("dtype", name, "one of " + ", ".join(DTYPES))
    return DTYPES[name]


def _family(fields: Fields) -> Family:
    name = fields.text("model_type")
    if name in FAMILIES:
        return FAMILIES[name]
    near = difflib.get_close_matches(name, FAMILIES, n=3, cutoff=0.3) or sorted(FAMILIES)[:3]
    raise UnknownArchitectureError(
        f"{fields.where}: no native reader for the architecture {name[:60]!r}; the nearest known are "
        f"{', '.join(near)}; `pip install tierline[run]` lets any model of transformers be probed"
    )


def _switch(fields: Fields, switch: Switch) -> bool:
    return fields.flag(*switch) if isinstance(switch, tuple) else switch


def _attention(fields: Fields, family: Family) -> AttentionSpec:
    heads = fields.count("num_attention_heads", "n_head", most=2**16)
    kv_heads = fields.count("num_key_value_heads", default=family.kv_heads or heads, most=2**16)
    hidden = fields.count("hidden_size", "n_embd")
    width = fields.count("head_dim", default=family.head_dim or max(1, hidden // heads))
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", kv_heads, f"a divisor of the {heads} attention heads")
    return AttentionSpec(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        value_dim=width,
        fused=family.fused_qkv,
        qkv_bias=_switch(fields, family.qkv_bias),
        out_bias=_switch(fields, family.out_bias),
        norm=family.qk_norm if _switch(fields, family.qk_norm_if) else "none",
        norm_last=family.norm_last,
        sinks=family.sinks,
    )


def _feed_forward(fields: Fields, family: Family) -> FeedForward:
    default = 4 * fields.count("hidden_size", "n_embd")
    width = fields.count("intermediate_size", "n_inner", "ffn_hidden_size", default=default)
    return FeedForward(width, family.mlp, _switch(fields, family.mlp_bias))


def _windows(fields: Fields, family: Family, layers: int) -> tuple[int | None, ...]:
    """Return each layer's sliding window, None where it attends to everything."""
    kinds = fields.items("layer_types")
    stated = "sliding_window" in fields.values  # null means none, which is not what leaving it out means
    size = fields.optional_count("sliding_window") if stated else family.window
    if kinds is not None:
        if len(kinds) != layers:
            raise fields.error("layer_types", f"{len(kinds)} entries", f"one for each of {layers} layers")
        chunk = fields.optional_count("attention_chunk_size")
        sizes = {"full_attention": None, "sliding_attention": size, "chunked_attention": chunk}
        unknown = sorted({str(k)[:40] for k in kinds} - set(sizes))
        if unknown:
            raise fields.error("layer_types", unknown[0], "one of " + ", ".join(sizes))
        return tuple(sizes[str(kind)] for kind in kinds)
    if "use_sliding_window" in fields.values:  # Qwen: off, or on from layer max_window_layers
        first = fields.count("max_window_layers", default=28, least=0)
        return tuple(
            size if fields.flag("use_sliding_window", False) and i >= first else None for i in range(layers)
        )
    every = family.full_every
    every = every if every is None else fields.count("sliding_window_pattern", default=every, least=0)
    if every is None:
        return (None,) * layers
    return tuple(None if every and (i + 1) % every == 0 else size for i in range(layers))


def _sparse_layers(fields: Fields, layers: int) -> frozenset[int]:
    """Return the layers whose feed-forward is a set of experts."""
    step = fields.count("decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step", default=1)
    dense = {i for i in fields.items("mlp_only_layers") or [] if isinstance(i, int)}
    first = fields.count("first_k_dense_replace", default=0, least=0)
    chosen = fields.items("moe_layers")
    if chosen is not None:
        return frozenset(i for i in chosen if isinstance(i, int))
    return frozenset(i for i in range(first, layers) if (i + 1) % step == 0 and i not in dense)


def _notes(fields: Fields) -> tuple[str, ...]:
    quantised = fields.values.get("quantization_config")
    if not isinstance(quantised, dict):
        return ()
    method = str(quantised.get("quant_method", "an unnamed method"))[:40]
    if method == "mxfp4":  # GPT-OSS's, whose tensors are read as what they are
        return ()
    return (f"the checkpoint is quantised by {method}: its stored formats are known from its header only",)


# --- experts -------------------------------------------------------------------------------------------


def _expert_counts(fields: Fields) -> tuple[int, int]:
    count = fields.count("num_local_experts", "num_experts", "n_routed_experts", most=MAX_EXPERTS)
    return count, fields.count("num_experts_per_tok", most=count)


def _mixtral_experts(fields: Fields) -> ExpertSet:
    stored = ("experts.{e}.w1", "experts.{e}.w3", "experts.{e}.w2")
    width = fields.count("intermediate_size")
    return ExpertSet(*_expert_counts(fields), width, stored, stored_path="block_sparse_moe")


def _qwen_experts(fields: Fields) -> ExpertSet:
    width = fields.count("moe_intermediate_size")
    shared = fields.count("shared_expert_intermediate_size", default=0, least=0)
    gated = shared > 0
    return ExpertSet(
        *_expert_counts(fields), width, shared_width=shared, shared_gate=gated, shared_first=gated
    )


def _olmoe_experts(fields: Fields) -> ExpertSet:
    return ExpertSet(*_expert_counts(fields), fields.count("intermediate_size"))


def _deepseek_experts(fields: Fields) -> ExpertSet:
    width = fields.count("moe_intermediate_size")
    shared = width * fields.count("n_shared_experts", default=0, least=0)
    correction = fields.text("model_type") == "deepseek_v3"
    return ExpertSet(*_expert_counts(fields), width, shared_width=shared, correction=correction)


def _gpt_oss_experts(fields: Fields) -> ExpertSet:
    width = fields.count("intermediate_size")
    return ExpertSet(*_expert_counts(fields), width, None, transposed=True, bias=True)


def _llama4_experts(fields: Fields) -> ExpertSet:
    width = fields.count("intermediate_size")
    return ExpertSet(*_expert_counts(fields), width, None, transposed=True, shared_width=width)


# --- what a table cannot say ---------------------------------------------------------------------------


def _latent_attention(fields: Fields, config: DecoderConfig) -> DecoderConfig:
    """Give every layer DeepSeek's latent attention."""
    rope = fields.count("qk_rope_head_dim", default=64)
    width = fields.count("qk_nope_head_dim", default=128) + rope
    rank = fields.count("kv_lora_rank", default=512)
    query_rank = fields.optional_count("q_lora_rank")
    bias = fields.flag("attention_bias", False)
    latent = Latent(query_rank, rank, rope, bias)

    def adapted(spec: LayerSpec) -> LayerSpec:
        heads = spec.attention.heads
        value = fields.count("v_head_dim", default=128)
        how = AttentionSpec(heads, heads, width, value, out_bias=bias, latent=latent)
        return replace(spec, attention=how)

    return replace(config, layers=tuple(adapted(spec) for spec in config.layers))


def _falcon(fields: Fields, config: DecoderConfig) -> DecoderConfig:
    """Choose Falcon's heads and norms: multi-query 7B, grouped 40B and 180B, sequential 1B."""
    heads = config.layers[0].attention.heads
    grouped = fields.flag("new_decoder_architecture", False)
    one = 1 if fields.flag("multi_query", True) else heads
    kv_heads = fields.count("num_kv_heads", default=heads) if grouped else one
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    layout: NormLayout = "pre"
    if grouped and fields.count("num_ln_in_parallel_attn", default=2) == 2:
        norms, layout = ("ln_attn", "ln_mlp"), "parallel_two"
    elif grouped or fields.flag("parallel_attn", True):
        norms, layout = ("input_layernorm",), "parallel"
    specs = tuple(
        replace(spec, attention=replace(spec.attention, kv_heads=kv_heads)) for spec in config.layers
    )
    return replace(config, layers=specs, layout=layout, names=replace(config.names, norms=norms))


def _llama4(fields: Fields, config: DecoderConfig) -> DecoderConfig:
    """Give the dense layers their own width and let every n-th layer attend to all chunks."""
    width = fields.count("intermediate_size_mlp", default=16384)
    chunk = fields.optional_count("attention_chunk_size")
    every = fields.count("no_rope_layer_interval", default=4)

    def adapted(index: int, spec: LayerSpec) -> LayerSpec:
        feed = spec.feed_forward
        feed = replace(feed, width=width) if isinstance(feed, FeedForward) else feed
        window = None if (index + 1) % every == 0 else chunk
        window = spec.attention.window if "layer_types" in fields.values else window
        return LayerSpec(replace(spec.attention, window=window), feed)

    return replace(config, layers=tuple(adapted(i, s) for i, s in enumerate(config.layers)))


_ATTENTION_BIAS = ("attention_bias", False)
_USE_BIAS = ("use_bias", True)
_BIAS = ("bias", False)
_LLAMA = Family(qkv_bias=_ATTENTION_BIAS, out_bias=_ATTENTION_BIAS, mlp_bias=("mlp_bias", False))
_QWEN3 = replace(_LLAMA, mlp_bias=False, head_dim=128, qk_norm="head")
_GEMMA = Family(tied=True, head_dim=256, qkv_bias=_ATTENTION_BIAS, out_bias=_ATTENTION_BIAS)
_SANDWICH = Names(
    norms=(
        "input_layernorm", "post_attention_layernorm",
        "pre_feedforward_layernorm", "post_feedforward_layernorm",
    )
)  # fmt: skip
_POST = Names(norms=("post_attention_layernorm", "post_feedforward_layernorm"))
_DEEPSEEK = Family(experts=_deepseek_experts, adapt=_latent_attention)
_COHERE = Family(
    tied=True, layout="parallel", qkv_bias=_ATTENTION_BIAS, out_bias=_ATTENTION_BIAS,
    qk_norm="each", qk_norm_if=("use_qk_norm", False), norm_last=True,
    names=Names(norms=("input_layernorm",)),
)  # fmt: skip
_GPT2_NAMES = Names(
    root="transformer", embed="wte", positions="wpe", layers="h", final_norm="ln_f", attention="attn",
    fused_qkv="c_attn", out="c_proj", up="c_fc", down="c_proj", activation="act", norms=("ln_1", "ln_2"),
)  # fmt: skip
_FALCON_NAMES = Names(
    root="transformer", embed="word_embeddings", layers="h", final_norm="ln_f", attention="self_attention",
    fused_qkv="query_key_value", out="dense", up="dense_h_to_4h", down="dense_4h_to_h", activation="act",
)  # fmt: skip
_NEOX_NAMES = replace(
    _FALCON_NAMES, root="gpt_neox", embed="embed_in", layers="layers", final_norm="final_layer_norm",
    attention="attention",
)  # fmt: skip

FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": Family(kv_heads=8, full_every=0, window=4096),
    "mixtral": Family(kv_heads=8, full_every=0, experts=_mixtral_experts),
    "qwen2": Family(qkv_bias=True, full_every=None),
    "qwen2_moe": Family(
        qkv_bias=("qkv_bias", True), experts=_qwen_experts, names=Names(shared="shared_expert")
    ),
    "qwen3": _QWEN3,
    "qwen3_moe": replace(_QWEN3, head_dim=None, kv_heads=4, experts=_qwen_experts),
    "gemma": _GEMMA,
    "gemma2": replace(
        _GEMMA, kv_heads=4, layout="sandwich", names=_SANDWICH, full_every=2, window=4096
    ),
    "gemma3_text": replace(
        _GEMMA, kv_heads=4, layout="sandwich", names=_SANDWICH, full_every=6, window=4096,
        qk_norm="head", norm_last=True,
    ),
    "phi3": Family(fused_qkv=True, mlp="fused", full_every=0, names=Names(activation="activation_fn")),
    "olmo2": replace(_LLAMA, mlp_bias=False, layout="post", names=_POST, qk_norm="all"),
    "olmo3": replace(
        _LLAMA, mlp_bias=False, layout="post", names=_POST, qk_norm="all", full_every=4, window=4096
    ),
    "olmoe": replace(_LLAMA, mlp_bias=False, qk_norm="all", experts=_olmoe_experts),
    "granite": _LLAMA,
    "smollm3": replace(_LLAMA, tied=True, kv_heads=4),
    "starcoder2": Family(
        tied=True, kv_heads=2, qkv_bias=_USE_BIAS, out_bias=_USE_BIAS, mlp_bias=_USE_BIAS, mlp="plain",
        norm_bias=True, full_every=0, names=Names(up="c_fc", down="c_proj", activation="act"),
    ),
    "cohere": _COHERE,
    "cohere2": replace(_COHERE, qk_norm="none", full_every=4, window=4096, head_dim=128),
    "gpt2": Family(
        tied=True, fused_qkv=True, qkv_bias=True, out_bias=True, mlp_bias=True, mlp="plain", norm_bias=True,
        transposed=True, learned_positions=True, names=_GPT2_NAMES,
    ),
    "falcon": Family(
        tied=True, fused_qkv=True, qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_BIAS, mlp="plain",
        norm_bias=True, names=_FALCON_NAMES, adapt=_falcon,
    ),
    "gpt_neox": Family(
        fused_qkv=True, qkv_bias=("attention_bias", True), out_bias=("attention_bias", True), mlp_bias=True,
        mlp="plain", norm_bias=True, names=_NEOX_NAMES,
    ),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "gpt_oss": Family(
        kv_heads=8, head_dim=64, qkv_bias=True, out_bias=True, sinks=True, full_every=2, window=128,
        names=Names(router="router"), experts=_gpt_oss_experts,
    ),
    "llama4_text": replace(
        _LLAMA, kv_heads=8, head_dim=128, mlp_bias=False, experts=_llama4_experts, adapt=_llama4,
        names=Names(feed_forward="feed_forward", router="router", shared="shared_expert",
                    activation="activation_fn"),
    ),
}  # fmt: skip
