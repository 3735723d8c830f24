"""Checkpoints of architectures without a native reader, as transformers writes them: nothing is left over."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import safe_open  # noqa: E402

from tierline.errors import UnknownArchitectureError  # noqa: E402
from tierline.models.description import Model  # noqa: E402
from tierline.models.open import open_model  # noqa: E402
from tierline.models.stored import stored_parts  # noqa: E402
from tierline.probe.open import open_any_model  # noqa: E402
from tierline.probe.seams import quiet  # noqa: E402

VOCABULARY = {"vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = {"hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = {**ENCODER, **VOCABULARY}
GROUPED = {**TEXT, "num_key_value_heads": 2}
VISION = {**ENCODER, "image_size": 28, "patch_size": 14}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 2, 2]}
CONFIGS: dict[str, dict[str, Any]] = {
    "BertForMaskedLM": TEXT,
    "T5ForConditionalGeneration": {
        **VOCABULARY, "d_model": 40, "d_ff": 56, "d_kv": 10, "num_layers": 3, "num_heads": 4,
    },
    "WhisperForConditionalGeneration": {
        **VOCABULARY,
        "d_model": 40,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 56,
        "decoder_ffn_dim": 72,
        "decoder_start_token_id": 3,
    },
    "ViTModel": VISION,
    "SiglipModel": {"text_config": {**TEXT, "projection_size": 40}, "vision_config": VISION},
    "CLIPModel": {"text_config": TEXT, "vision_config": VISION},
    "LlavaForConditionalGeneration": {
        "text_config": {"model_type": "llama", **GROUPED},
        "vision_config": {"model_type": "clip_vision_model", **VISION},
        "image_token_index": 5,
    },
    "PaliGemmaForConditionalGeneration": {
        "text_config": {"model_type": "gemma", "head_dim": 10, **GROUPED},
        "vision_config": {"model_type": "siglip_vision_model", **VISION},
        "image_token_index": 5,
        "projection_dim": 40,
    },
    "Qwen2VLForConditionalGeneration": {
        "text_config": {**GROUPED, "rope_parameters": ROPE},
        "vision_config": {"depth": 3, "embed_dim": 32, "hidden_size": 40, "num_heads": 4},
        "vocab_size": 97,
    },
    "Mamba2ForCausalLM": {
        **VOCABULARY,
        "hidden_size": 40,
        "num_heads": 8,
        "head_dim": 10,
        "state_size": 24,
        "n_groups": 1,
        "num_hidden_layers": 3,
    },
    "JambaForCausalLM": {
        **GROUPED,
        "num_experts": 3,
        "mamba_d_state": 6,
        "mamba_dt_rank": 5,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "BambaForCausalLM": {
        **GROUPED,
        "mamba_n_heads": 8,
        "mamba_d_head": 10,
        "mamba_d_state": 24,
        "attn_layer_indices": [1],
    },
}  # fmt: skip


def write(name: str, folder: Path, sizes: dict[str, Any] | None = None) -> Path:
    """Write a tiny random model of this class as transformers does; return the file."""
    maker = getattr(transformers, name)
    with quiet():
        maker(maker.config_class(**(sizes or CONFIGS[name]))).to(torch.bfloat16).save_pretrained(folder)
    return folder / "model.safetensors"


def held(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes in a file, as the safetensors library reads them."""
    with safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def described(model: Model) -> dict[str, tuple[int, ...]]:
    return {n: shape for t in model.tensors() if t.tensor.in_file for n, shape in stored_parts(t)}


# Their parts are those of others: CI runs them among the slow tests.
ALIKE = {
    "WhisperForConditionalGeneration", "ViTModel", "CLIPModel", "LlavaForConditionalGeneration",
    "BambaForCausalLM",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in CONFIGS]
)
def test_every_stored_tensor_is_one_of_the_description(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = write(name, tmp_path)
    model = open_any_model(str(tmp_path))
    assert model.unknown == ()
    assert model.phases
    assert not any("belong to no module" in note for note in model.notes)
    assert described(model) == held(file)
    assert {t.tensor.stored for t in model.tensors() if t.tensor.in_file} == {"bf16"}


# Families that are read natively, as classes that the native readers do not describe.
HEADLESS: dict[str, dict[str, Any]] = {
    "MistralModel": GROUPED,
    "LlamaForSequenceClassification": GROUPED,
    "GPT2Model": {"n_embd": 40, "n_layer": 3, "n_head": 4, "vocab_size": 97, "n_positions": 31},
}


@pytest.mark.parametrize("name", HEADLESS)
def test_a_model_without_a_language_models_head_is_described_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, config = write(name, tmp_path, HEADLESS[name]), tmp_path / "config.json"
    for opened in (tmp_path, config):
        model = open_any_model(str(opened))
        assert described(model) == held(file)
        assert [phase.name for phase in model.phases][:1] == ["prefill"]
        assert not any(part.name == "head" for part in model.components)
    bare = open_model(str(tmp_path))  # as without torch
    assert described(bare) == held(file)
    assert bare.phases == ()
    assert f"no native reader for '{name}'" in bare.unknown[0]
    with pytest.raises(UnknownArchitectureError, match=r"pip install tierline\[run\]"):
        open_model(str(config))


def test_a_file_that_is_not_what_its_config_builds_keeps_its_footprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = write("BertForMaskedLM", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 40', '"hidden_size": 44'))
    model = open_any_model(str(tmp_path))
    assert model.phases == ()
    assert "is not what the file holds" in model.unknown[0]
    assert described(model) == held(file)
