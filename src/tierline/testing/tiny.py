"""Write tiny random checkpoints in real formats, with a tokenizer, for tests of whoever runs models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TINY_LLAMA: Mapping[str, int | bool | float] = {
    "vocab_size": 997,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_llama(
    folder: Path, *, dtype: str = "bfloat16", seed: int = 0, **changes: int | bool | float
) -> Path:
    """Write a random Llama of TINY_LLAMA's dimensions (with `changes`) as config, safetensors and tokenizer.

    Returns `folder`. The weights are large enough that greedy answers vary with the prompt.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    fields: dict[str, Any] = {**TINY_LLAMA, "initializer_range": 0.2, **changes}
    model = LlamaForCausalLM(LlamaConfig(**fields))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    write_tokenizer(folder, int(model.config.vocab_size))
    return folder


# Families with routed experts: their config class, and what it needs beyond TINY_MIXTURE.
MIXTURES: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "mixtral": ("MixtralConfig", {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"head_dim": 12, "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 40},
    ),
    "gpt_oss": (
        "GptOssConfig",
        {"head_dim": 12, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 7},
    ),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            "num_experts": 7,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 40,
            "shared_expert_intermediate_size": 56,
        },
    ),
    "olmoe": ("OlmoeConfig", {"num_experts": 7, "num_experts_per_tok": 3}),
    "granitemoe": ("GraniteMoeConfig", {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
        },
    ),
}
TINY_MIXTURE: Mapping[str, int | float] = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 210,
}


def write_mixture(folder: Path, family: str, seed: int = 7) -> Path:
    """Write a random tiny model of a family of MIXTURES in bf16, as its `save_pretrained` does.

    Returns `folder`.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    name, changes = MIXTURES[family]
    config = getattr(transformers, name)(**{**TINY_MIXTURE, **changes})
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    write_tokenizer(folder, int(TINY_MIXTURE["vocab_size"]))
    return folder


def write_gpt_oss_mxfp4(folder: Path, *, dtype: str = "bfloat16", seed: int = 7) -> Path:
    """Write a random tiny GPT-OSS as it is published: experts in MXFP4, codes and scales apart.

    Returns `folder`.
    """
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    changes = {**MIXTURES["gpt_oss"][1], "hidden_size": 64, "intermediate_size": 96}
    config = transformers.GptOssConfig(**{**TINY_MIXTURE, **changes})  # type: ignore[arg-type]
    model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    tensors: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[name] = value.contiguous()
            continue
        count, columns, rows = value.shape
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (count, rows, columns // 32, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(121, 126, (count, rows, columns // 32), dtype=torch.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config.quantization_config = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    config.architectures, config.dtype = ["GptOssForCausalLM"], getattr(torch, dtype)
    config.save_pretrained(folder)
    write_tokenizer(folder, int(TINY_MIXTURE["vocab_size"]))
    return folder


def write_llama_gguf(path: Path, folder: Path, block_type: str) -> Path:
    """Write the Llama in `folder` as GGUF at `path`, its matrices in `block_type` (Q4_1), the rest in F32.

    Query and key rows are interleaved as llama.cpp's converter does. Returns `path`.
    """
    import gguf
    from gguf.quants import quantize
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, "llama")
    write_gguf_metadata(writer, config)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = value.numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        stored = getattr(gguf.GGMLQuantizationType, block_type if array.ndim == 2 else "F32")
        writer.add_tensor(str(names.get_name(name, (".weight",))), quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_mixture_gguf(path: Path, family: str, block_type: str, seed: int = 7) -> Path:
    """Write a random tiny `mixtral`, `qwen2_moe` or `qwen3_moe` as GGUF, as llama.cpp's converter does.

    Experts of a layer are one tensor for each of gate, up and down, in `block_type` like all matrices. The
    same model, with the weights that the blocks hold, is saved in the folder `path.with_suffix("")`. Returns
    `path`.
    """
    import gguf
    import torch
    import transformers
    from gguf.quants import dequantize, quantize
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    name, changes = MIXTURES[family]
    widths = {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32}
    shared = {"shared_expert_intermediate_size": 64} if family == "qwen2_moe" else {}
    sizes = {**widths, **({"head_dim": 16} if "head_dim" in changes else {})}
    fields = {**TINY_MIXTURE, **changes, **sizes, **shared, "vocab_size": 300, "pad_token_id": 299}
    config = getattr(transformers, name)(**fields, norm_topk_prob=family != "qwen2_moe")
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    architecture = {"mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}[family]
    writer = gguf.GGUFWriter(path, architecture)
    write_gguf_metadata(writer, config)
    _write_gguf_experts(writer, config, family)
    arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    state = model.state_dict()
    for module, value in state.items():
        for own, array in _gguf_parts(module, value.numpy(), config, family):
            wide = array.ndim > 1 and "gate_inp" not in own and ".mlp.gate." not in own
            stored = getattr(gguf.GGMLQuantizationType, block_type if wide else "F32")
            blocks = quantize(array, stored)
            writer.add_tensor(_gguf_name(names, own), blocks, raw_dtype=stored)
            _take_back(value, own, dequantize(blocks, stored).reshape(array.shape), config, family)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.save_pretrained(path.with_suffix(""))
    return path


def _write_gguf_experts(writer: Any, config: Any, family: str) -> None:  # noqa: ANN401 - both are untyped
    writer.add_expert_used_count(config.num_experts_per_tok)
    if family == "mixtral":
        writer.add_expert_count(config.num_local_experts)
        return
    writer.add_expert_count(config.num_experts)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if family == "qwen3_moe":
        writer.add_key_length(config.head_dim)
    else:
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


def _gguf_name(names: Any, module: str) -> str:  # noqa: ANN401 - gguf's
    """Return GGUF's name for a tensor that goes by its module's name; experts have it already."""
    return module if module.startswith("blk.") else str(names.get_name(module, (".weight", ".bias")))


def _rotary(part: str, config: Any, family: str) -> int:  # noqa: ANN401 - configs are untyped
    """Return the heads of a matrix whose rotary pairs are interleaved in GGUF, 0 for others."""
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    found = [count for name, count in heads.items() if part.endswith(name)]
    return int(found[0]) if found and family == "mixtral" else 0


def _gguf_parts(module: str, array: Any, config: Any, family: str) -> list[tuple[str, Any]]:  # noqa: ANN401
    """Return the tensors that hold `array` in GGUF: gate and up apart, rotary pairs interleaved."""
    if module.endswith("experts.gate_up_proj"):
        half = array.shape[1] // 2
        block = f"blk.{module.split('.')[2]}"
        return [
            (f"{block}.ffn_gate_exps.weight", array[:, :half].copy()),
            (f"{block}.ffn_up_exps.weight", array[:, half:].copy()),
        ]
    if module.endswith("experts.down_proj"):
        return [(f"blk.{module.split('.')[2]}.ffn_down_exps.weight", array)]
    if module.endswith("shared_expert_gate.weight"):
        return [(f"blk.{module.split('.')[2]}.ffn_gate_inp_shexp.weight", array[0])]
    if heads := _rotary(module, config, family):
        return [(module, array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape))]
    return [(module, array)]


def _take_back(value: Any, own: str, array: Any, config: Any, family: str) -> None:  # noqa: ANN401
    """Give the model what its GGUF holds."""
    import torch

    if heads := _rotary(own, config, family):
        array = array.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    whole = torch.from_numpy(array.copy())
    if "_up_exps" in own:
        value[:, whole.shape[1] :] = whole
    elif "_gate_exps" in own:
        value[:, : whole.shape[1]] = whole
    else:
        value.copy_(whole.view_as(value))


def write_gguf_metadata(writer: Any, config: Any) -> None:  # noqa: ANN401 - gguf and configs are untyped
    """Write a Llama's dimensions, as attributes of `config`, and a tokenizer of letters to a GGUFWriter."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *letters,
        letters[0] + letters[1],
        *(f"[{i}]" for i in range(config.vocab_size - len(letters) - 1)),
    ]
    writer.add_token_list(tokens)
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write a tokenizer whose words are `t0`, `t1`, ... into a model's folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    unknown, begin, end = "t0", "t1", "t2"
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab_size)}, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=words, bos_token=begin, eos_token=end, unk_token=unknown)
    made.save_pretrained(folder)
