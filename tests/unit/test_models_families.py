"""Every family that is read natively against transformers' own modules, built on the meta device."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from tierline.models.config_reader import model_from_config
from tierline.models.description import Model, Operation
from tierline.models.families import FAMILIES
from tierline.models.fields import Fields


def of(model_type: str, **fields: object) -> dict[str, Any]:
    return {"model_type": model_type, **fields}


# Configurations of published models: what their config.json says beyond the defaults.
PUBLISHED: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": of(
        "llama",
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
    ),
    "mistral-7b": of("mistral", sliding_window=None, vocab_size=32768),
    "mixtral-8x7b": of("mixtral"),
    "qwen2.5-1.5b": of(
        "qwen2",
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen1.5-moe-a2.7b": of("qwen2_moe"),
    "qwen3-0.6b": of(
        "qwen3",
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    ),
    "qwen3-30b-a3b": of(
        "qwen3_moe",
        num_hidden_layers=48,
        head_dim=128,
        num_experts=128,
    ),
    "gemma-2b": of(
        "gemma",
        hidden_size=2048,
        intermediate_size=16384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
    ),
    "gemma-2-9b": of(
        "gemma2",
        hidden_size=3584,
        intermediate_size=14336,
        num_hidden_layers=42,
        num_attention_heads=16,
        num_key_value_heads=8,
    ),
    "gemma-3-1b": of(
        "gemma3_text",
        hidden_size=1152,
        intermediate_size=6912,
        num_attention_heads=4,
        num_key_value_heads=1,
        vocab_size=262144,
        sliding_window=512,
    ),
    "phi-3-mini": of("phi3", sliding_window=2047),
    "olmo-2-7b": of("olmo2", vocab_size=100352),
    "olmo-3-7b": of("olmo3", vocab_size=100278),
    "olmoe-1b-7b": of("olmoe"),
    "granite-3.1-2b": of(
        "granite",
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=40,
        num_key_value_heads=8,
        vocab_size=49155,
        tie_word_embeddings=True,
    ),
    "smollm3-3b": of("smollm3"),
    "starcoder2-3b": of("starcoder2"),
    "command-r": of("cohere"),
    "command-r-plus": of(
        "cohere",
        hidden_size=12288,
        intermediate_size=33792,
        num_hidden_layers=64,
        num_attention_heads=96,
        num_key_value_heads=8,
        use_qk_norm=True,
    ),
    "command-r7b": of(
        "cohere2",
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    ),
    "gpt2": of("gpt2"),
    "gpt2-xl": of("gpt2", n_embd=1600, n_layer=48, n_head=25),
    "falcon-7b": of("falcon"),
    "falcon-40b": of(
        "falcon",
        hidden_size=8192,
        num_hidden_layers=60,
        num_attention_heads=128,
        num_kv_heads=8,
        new_decoder_architecture=True,
    ),
    "falcon-rw-1b": of(
        "falcon",
        hidden_size=2048,
        num_hidden_layers=24,
        num_attention_heads=32,
        vocab_size=50304,
        multi_query=False,
        parallel_attn=False,
        bias=True,
        alibi=True,
        ffn_hidden_size=8192,
    ),
    "pythia-1b": of(
        "gpt_neox",
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=8,
        vocab_size=50304,
    ),
    "deepseek-v2-lite": of(
        "deepseek_v2",
        hidden_size=2048,
        intermediate_size=10944,
        moe_intermediate_size=1408,
        num_hidden_layers=27,
        num_attention_heads=16,
        num_key_value_heads=16,
        n_shared_experts=2,
        n_routed_experts=64,
        num_experts_per_tok=6,
        q_lora_rank=None,
        first_k_dense_replace=1,
    ),
    "deepseek-v3": of("deepseek_v3"),
    "gpt-oss-20b": of("gpt_oss", num_hidden_layers=24, num_local_experts=32),
    "llama-4-scout": of("llama4_text"),
    "llama-4-maverick": of(
        "llama4_text",
        num_local_experts=128,
        interleave_moe_layer_step=2,
        use_qk_norm=False,
    ),
}


def on_meta(given: dict[str, Any]) -> Any:
    config = AutoConfig.for_model(**given)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.bfloat16)
    return model.eval()


def ours(given: dict[str, Any]) -> Model:
    return model_from_config("x", Fields(given, "config.json"), "test")


@pytest.fixture(scope="module", params=PUBLISHED)
def pair(request: pytest.FixtureRequest) -> tuple[Model, PreTrainedModel]:
    given = PUBLISHED[request.param]
    return ours(fill(given)), on_meta(given)


def fill(given: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json that transformers would have written."""
    written: dict[str, Any] = AutoConfig.for_model(**given).to_dict()
    return written


def test_every_family_has_a_published_configuration_here() -> None:
    assert {g["model_type"] for g in PUBLISHED.values()} >= set(FAMILIES)


def test_names_shapes_and_totals_are_those_of_the_modules(pair: tuple[Model, PreTrainedModel]) -> None:
    model, modules = pair
    found = {t.name: t.tensor.shape for t in model.tensors()}
    assert found == {name: tuple(t.shape) for name, t in modules.state_dict().items()}
    correction = sum(t.tensor.elements for t in model.tensors() if t.name.endswith("correction_bias"))
    assert model.tied_parameters - correction == modules.num_parameters()


# What real files state although it equals the default: sizes, and what is derived from others.
STATED = frozenset(
    [
        "num_hidden_layers",
        "n_layer",
        "vocab_size",
        "hidden_size",
        "n_embd",
        "num_attention_heads",
        "n_head",
        "intermediate_size",
        "num_local_experts",
        "num_experts",
        "n_routed_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "n_shared_experts",
        "first_k_dense_replace",
        "n_positions",
        "qkv_bias",
        "max_position_embeddings",
        "attention_chunk_size",
        "q_lora_rank",
        "num_kv_heads",
    ]
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_that_a_config_leaves_out_are_those_of_transformers(name: str) -> None:
    given = PUBLISHED[name]
    written = fill(given)
    stated = given | {k: written[k] for k in STATED & written.keys() if written[k] is not None}
    sparse, full = ours(stated), ours(written)
    assert [c.layers for c in sparse.components] == [c.layers for c in full.components]


def leaves(modules: PreTrainedModel) -> list[str]:
    """Return the weight-carrying modules of the first and the last decoder layer in the order they run."""
    order: list[str] = []
    handles = []
    for name, module in modules.named_modules():
        own = [n for n, _ in module.named_parameters(recurse=False)]
        if own and not name.endswith("self_attn"):
            handles.append(module.register_forward_pre_hook(lambda _m, _a, name=name: order.append(name)))
    tokens = torch.zeros(2, 3, dtype=torch.long, device="meta")
    with torch.no_grad():
        modules(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    for handle in handles:
        handle.remove()
    return order


def operations(model: Model) -> Iterator[tuple[str, Operation]]:
    for component in model.components:
        for layer in component.layers:
            for operation in layer.block.operations:
                yield layer.full_name(operation.name), operation


def test_operations_stand_in_the_order_in_which_modules_run(pair: tuple[Model, PreTrainedModel]) -> None:
    model, modules = pair
    weighted = [n for n, o in operations(model) if o.weights and o.kind != "attention"]
    assert weighted == leaves(modules)


@pytest.mark.parametrize("model_type", ["idefics3", "smolvlm"])
def test_vision_language_models_have_the_modules_of_transformers(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    maker: Any = AutoModelForImageTextToText.from_config
    with torch.device("meta"):
        modules = maker(config)
    expected = {name: tuple(t.shape) for name, t in modules.state_dict().items()}
    assert {t.name: t.tensor.shape for t in ours(config.to_dict()).tensors()} == expected
