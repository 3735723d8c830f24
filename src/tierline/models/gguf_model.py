"""What a GGUF file's metadata say of its architecture, in the words of `config.json`, and its tensor names.

Metadata keys and tensor names are those of ggml's docs/gguf.md and of the gguf package, which the tests
take as oracle.
"""

from collections.abc import Callable, Mapping

from tierline.errors import InputError
from tierline.models.description import Model
from tierline.models.fields import Fields
from tierline.models.stored import Checkpoint

ARCHITECTURES: Mapping[str, str] = {
    "llama": "llama", "qwen2": "qwen2", "qwen2moe": "qwen2_moe", "qwen3": "qwen3", "qwen3moe": "qwen3_moe",
    "gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3_text", "phi3": "phi3", "starcoder2": "starcoder2",
    "olmo2": "olmo2", "granite": "granite", "smollm3": "smollm3", "command-r": "cohere", "cohere2": "cohere2",
}  # fmt: skip
_KEYS: Mapping[str, str] = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
_MODULES: Mapping[str, str] = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
# Where norms follow attention and feed-forward, `post_attention_layernorm` is another thing than Llama's.
_NORMS_AFTER: Mapping[str, str] = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_FAMILIES_WITH_NORMS_AFTER = ("gemma2", "gemma3_text", "olmo2")


def gguf_fields(checkpoint: Checkpoint) -> Fields:
    """Return the architecture in the words of `config.json`; an unknown one keeps GGUF's name for it.

    What the metadata leave out is read off the tensors: the vocabulary from the embedding's rows, biases
    and a separate head from their being there.
    """
    metadata, tensors = checkpoint.metadata, checkpoint.tensors
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise InputError(f"{checkpoint.path}: general.architecture is missing")
    model_type = ARCHITECTURES.get(architecture, architecture)
    values: dict[str, object] = {
        ours: metadata[f"{architecture}.{key}"]
        for key, ours in _KEYS.items()
        if f"{architecture}.{key}" in metadata
    }
    if model_type == "llama" and values.get("num_local_experts"):
        model_type = "mixtral"
    if "token_embd.weight" in tensors:
        values["vocab_size"] = tensors["token_embd.weight"].shape[0]
    if model_type in ("qwen2_moe", "qwen3_moe") and "num_local_experts" in values:
        values["num_experts"] = values["num_local_experts"]  # as their config classes call it
    if model_type == "qwen3_moe":  # as llama.cpp computes it; its config class has another default
        values["norm_topk_prob"] = True
    biased = "blk.0.attn_q.bias" in tensors
    values |= {
        "model_type": model_type,
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": biased,
        "qkv_bias": biased,
        "use_bias": biased,
        "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors,
    }
    return Fields(values, f"{checkpoint.path}: metadata of {architecture}")


def gguf_renaming(model: Model) -> Callable[[str], str]:
    """Return the map from this model's tensor names, `{i}` for the layer, to those of its GGUF file."""
    after = _NORMS_AFTER if model.family in _FAMILIES_WITH_NORMS_AFTER else {}
    modules = {**_MODULES, **after}

    def rename(name: str) -> str:
        if ".experts." in name:
            return _expert_name(name)
        path, _, leaf = name.removeprefix("model.").rpartition(".")
        inner = path.removeprefix("layers.{i}.")
        if inner == "block_sparse_moe.gate":
            inner = "mlp.gate"
        block = "blk.{i}." if inner != path else ""
        return f"{block}{modules.get(inner, inner)}.{leaf}"

    return rename


def _expert_name(name: str) -> str:
    """Return where GGUF holds all experts of a layer: gate, up and down are one tensor each."""
    if " + " in name or name.endswith("gate_up_proj"):
        return "blk.{i}.ffn_gate_exps.weight + blk.{i}.ffn_up_exps.weight"
    return "blk.{i}.ffn_down_exps.weight"
