"""A GGUF file of random Q8_0 weights for llama.cpp, in the shapes of a model in safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors import safe_open

_BLOCK, _BLOCK_BYTES = 32, 34
_SCALE = 0.02 / 64  # of the whole numbers in a block: weights as small as those of a trained model


def write_q8_0(model: Path, target: Path, seed: int = 0) -> Path:
    """Write a llama in the shapes of `model` (config.json, model.safetensors) to `target` and return it.

    Matrices are Q8_0, vectors fp32 ones; words are `t0`, `t1` and so on.
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    shapes = _shapes(model, config)
    partial = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    _describe(writer, config)
    _name_words(writer, config["vocab_size"])
    for name, shape in shapes.items():
        matrix = len(shape) > 1
        kind = gguf.GGMLQuantizationType.Q8_0 if matrix else gguf.GGMLQuantizationType.F32
        raw = (*shape[:-1], shape[-1] // _BLOCK * _BLOCK_BYTES) if matrix else shape
        dtype = np.dtype(np.uint8 if matrix else np.float32)
        writer.add_tensor_info(name, raw, dtype, int(np.prod(raw)) * dtype.itemsize, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = np.random.default_rng(seed)
    for shape in shapes.values():
        writer.write_tensor_data(_blocks(shape, generator) if len(shape) > 1 else np.ones(shape, np.float32))
    writer.close()
    return partial.replace(target)


def _shapes(model: Path, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    with safe_open(model / "model.safetensors", "np") as file:
        return {
            f"{names.get_name(name.removesuffix('.weight'))}.weight": tuple(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118 - it is no mapping
        }


def _describe(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(float(config.get("rope_theta", 500000.0)))
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-5))
    writer.add_vocab_size(config["vocab_size"])


def _name_words(writer: gguf.GGUFWriter, count: int) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(count)])
    writer.add_token_scores([0.0] * count)
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2]
    writer.add_token_types([*kinds, *[gguf.TokenType.NORMAL] * (count - len(kinds))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _blocks(shape: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return random Q8_0 blocks: an fp16 scale and 32 whole numbers each; shape `(rows, bytes of a row)`."""
    count = int(np.prod(shape)) // _BLOCK
    blocks = np.empty((count, _BLOCK_BYTES), np.uint8)
    blocks[:, :2] = np.full(1, _SCALE, np.float16).view(np.uint8)
    blocks[:, 2:] = np.frombuffer(generator.bytes(count * _BLOCK), np.uint8).reshape(count, _BLOCK)
    return blocks.reshape(*shape[:-1], -1)
