"""FLOP and cache of small models of each family, run on the CPU, against their probed descriptions.

torch's FlopCounterMode counts matrix products, convolutions and attention. It leaves out norms, activations,
look-ups and soft-max, as the cost of a description does. It counts the outer products of rotary angles,
which a description takes for element-wise work: they are subtracted by module. State-space scans and the
short convolutions in front of them are stood in for here, and left out on both sides.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers import PreTrainedModel  # noqa: E402

from tierline.cost.flops import operation_flop  # noqa: E402
from tierline.models.description import Block, Model  # noqa: E402
from tierline.probe.observe import Observer  # noqa: E402
from tierline.probe.probe import probe_model  # noqa: E402
from tierline.probe.seams import quiet  # noqa: E402
from tierline.probe.state_space import scans_seen  # noqa: E402

B, T, C, S, I = 3, 11, 17, 7, 2  # noqa: E741 - batch, tokens, context, source tokens, images per sequence
COMMON: dict[str, Any] = {
    "hidden_size": 40, "intermediate_size": 52, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "kv_lora_rank": 12, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 14, "head_dim": 6,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 22, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "num_key_value_heads": 4,
}  # fmt: skip
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8, "mamba_d_head": 10, "mamba_n_groups": 1, "mamba_d_state": 6, "mamba_expand": 2,
}  # fmt: skip
TEXT: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen2": {},
    "qwen3": {"head_dim": 12},
    "qwen3_moe": {"head_dim": 12, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 22},
    "gemma2": {"head_dim": 12, "sliding_window": 4096},
    "gemma3_text": {"head_dim": 12, "sliding_window": 4096},
    "phi3": {},
    "deepseek_v2": {**LATENT, "q_lora_rank": None, "topk_method": "greedy"},
    "deepseek_v3": {**LATENT, "q_lora_rank": 18},
    "gpt_oss": {"head_dim": 12, "num_local_experts": 5, "num_experts_per_tok": 2},
    "llama4_text": {"head_dim": 12, "num_local_experts": 5, "interleave_moe_layer_step": 1},
    "olmo2": {},
    "granite": {},
    "smollm3": {},
    "falcon": {},
    "starcoder2": {},
    "cohere": {"num_key_value_heads": 4},
    "gpt2": {"n_embd": 40, "n_head": 4, "n_layer": 3, "n_positions": 64},
    "mamba2": {"num_heads": 8, "head_dim": 10, "state_size": 6, "n_groups": 1},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "jamba": {"num_experts": 4, "attn_layer_offset": 1, "attn_layer_period": 2, "mamba_dt_rank": 5},
}
TOWER: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 24, "patch_size": 6,
}  # fmt: skip
PAIR = {"text_config": COMMON, "vision_config": TOWER, "projection_dim": 20}
VISION: dict[str, dict[str, Any]] = {
    "vit": TOWER,
    "siglip": {"text_config": {**COMMON, "projection_size": 40}, "vision_config": TOWER},
    "clip": PAIR,
    "llava": {
        "text_config": {"model_type": "llama", **COMMON}, "vision_feature_layer": -1,
        "vision_config": {"model_type": "clip_vision_model", **TOWER},
    },
    "paligemma": {
        "text_config": {"model_type": "gemma", "head_dim": 12, **COMMON}, "projection_dim": 40,
        "vision_config": {"model_type": "siglip_vision_model", **TOWER},
    },
    "idefics3": {
        "text_config": {"model_type": "llama", **COMMON}, "scale_factor": 2,
        "vision_config": {"model_type": "idefics3_vision", **TOWER},
    },
    "smolvlm": {
        "text_config": {"model_type": "llama", **COMMON}, "scale_factor": 2,
        "vision_config": {"model_type": "smolvlm_vision", **TOWER},
    },
}  # fmt: skip


# Their parts are those of others: CI runs them among the slow tests.
ALIKE = {
    "mistral", "qwen2", "olmo2", "granite", "smollm3", "starcoder2", "cohere", "clip", "idefics3", "bart",
}  # fmt: skip


def families(names: Iterable[str]) -> list[Any]:
    """Return parameters, of which those that are like others are slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in names]


def config_of(family: str, own: dict[str, Any]) -> dict[str, Any]:
    base = {} if family in VISION else COMMON
    return {"model_type": family, **base, **own}


def real(config: dict[str, Any], described: Model) -> PreTrainedModel:
    """Build the same class on the CPU, with transformers' own eager attention and experts."""
    from tierline.probe.build import build

    maker = type(build(config))
    with quiet():
        model: PreTrainedModel = maker._from_config(
            transformers.AutoConfig.for_model(**config), attn_implementation="eager"
        )
        if any(hasattr(m, "_apply_gate") for m in model.modules()):
            model.set_experts_implementation("eager")
    assert described.phases
    model.train(mode=False)
    return model


@contextmanager
def counted(model: PreTrainedModel) -> Iterator[list[int]]:
    """Count what runs inside, without rotary angles; the sum is in the list afterwards."""
    total: list[int] = []
    counter = FlopCounterMode(display=False)
    with quiet(), torch.no_grad(), scans_seen(model, Observer(model)), counter:
        yield total
    counts = counter.get_flop_counts()
    rotary = {name: sum(c.values()) for name, c in counts.items() if "rotary" in name.rpartition(".")[2]}
    total.append(counter.get_total_flops() - sum(rotary.values()))


def flop(model: Model, phase: str, *, static: bool = True, dense: bool = False, **values: int) -> int:
    """Sum the description's FLOP of one pass; `dense` counts experts as Llama 4's code computes them: all."""
    parts = next(p.components for p in model.phases if p.name == phase)
    blocks = [x.block for c in model.components if c.name in parts for x in c.layers]
    return sum(_block_flop(block, values, static, dense) for block in blocks)


def _block_flop(block: Block, values: dict[str, int], static: bool, dense: bool) -> int:
    tensors = {t.name: t for t in block.tensors}
    scans = any(o.kind == "scan" for o in block.operations)
    total = 0
    for one in block.operations:
        if (one.static and not static) or (scans and one.kind == "conv"):
            continue
        times = one.experts.count // one.experts.per_token if one.experts and dense else 1
        total += times * int(operation_flop(one, tensors, values))
    return total


def ids(tokens: int) -> Any:
    return torch.randint(3, 50, (B, tokens))


@pytest.mark.parametrize("family", families(TEXT))
def test_flop_and_cache_of_a_decoder(family: str) -> None:
    config = config_of(family, TEXT[family])
    described = probe_model(config, family)
    assert described.unknown == ()
    model = real(config, described)
    dense = family == "llama4_text"
    check_text(model, described, dense=dense)


def check_text(model: PreTrainedModel, described: Model, *, dense: bool = False) -> None:
    """Compare the FLOP of a prefill and of one decode step, and what the prefill leaves in the cache."""

    def run(tokens: int, context: int, **cache: object) -> Any:
        mask = torch.ones((B, context), dtype=torch.long)
        given = {"attention_mask": mask} if "vision" in {p.name for p in described.phases} else {}
        return model(input_ids=ids(tokens), logits_to_keep=1, use_cache=True, **given, **cache)

    with counted(model) as total:
        run(T, T)
    assert total == [flop(described, "prefill", dense=dense, batch=B, tokens=T, context=T)]

    with quiet(), torch.no_grad():
        output = run(C - 1, C - 1)
    cache = output.past_key_values if "past_key_values" in output else output.cache_params
    check_cache(cache, described)
    name = "past_key_values" if "past_key_values" in output else "cache_params"
    with counted(model) as total:
        run(1, C, **{name: cache})
    assert total == [flop(described, "decode", dense=dense, batch=B, tokens=1, context=C)]


def check_cache(cache: Any, described: Model) -> None:
    """Compare elements per token of every layer's keys and values, and per sequence of every state."""
    filled = state = 0
    for layer in cache.layers:
        if getattr(layer, "keys", None) is not None:
            filled += (layer.keys.numel() + layer.values.numel()) // (B * (C - 1))
        for field in ("conv_states", "recurrent_states"):
            held = getattr(layer, field, None) or {}
            tensors = held.values() if isinstance(held, dict) else [held]
            state += sum(t.numel() // B for t in tensors if t is not None)
    operations = [o for c in described.components for x in c.layers for o in x.block.operations]
    caches = [o.attention for o in operations if o.attention]
    assert filled == sum(a.cache_width for a in caches if a.cache == "append")
    assert state == sum(a.cache_width for a in caches if a.cache == "state")


@pytest.mark.parametrize("family", families(["t5", "whisper", "bart"]))
def test_flop_and_cache_of_an_encoder_and_decoder(family: str) -> None:
    layers = {"encoder_layers": 2, "decoder_layers": 3, "d_model": 40, "encoder_attention_heads": 4}
    heads = {"decoder_attention_heads": 4, "encoder_ffn_dim": 52, "decoder_ffn_dim": 44, "vocab_size": 61}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    own = {
        "t5": {"d_model": 40, "d_ff": 52, "d_kv": 12, "num_layers": 2, "num_heads": 4, "vocab_size": 61},
        "whisper": {**layers, **heads, "num_mel_bins": 6, "max_source_positions": S},
        "bart": {**layers, **heads},
    }[family]
    config = {"model_type": family, **own, **special}
    described = probe_model(config, family)
    assert described.unknown == ()
    model = real(config, described)
    source = torch.randn(B, 6, 2 * S) if family == "whisper" else ids(S)
    with counted(model) as total:
        encoder: Any = model.get_encoder()
        encoded = encoder(source)
    assert total == [flop(described, "encode", batch=B, source_tokens=S)]

    def decode(tokens: int, cache: object = None) -> Any:
        return model(
            decoder_input_ids=ids(tokens), encoder_outputs=encoded, past_key_values=cache, use_cache=True
        )

    with counted(model) as total:
        decode(T)
    assert total == [flop(described, "prefill", batch=B, tokens=T, context=T, source_tokens=S)]
    with quiet(), torch.no_grad():
        cache = decode(C - 1).past_key_values
    check_cache(cache.self_attention_cache, described)
    with counted(model) as total:
        decode(1, cache)
    assert total == [flop(described, "decode", static=False, batch=B, tokens=1, context=C, source_tokens=S)]


def test_flop_of_an_encoder() -> None:
    config = config_of("bert", {})
    described = probe_model(config, "bert")
    model = real(config, described)
    with counted(model) as total:
        model(input_ids=ids(T))
    assert total == [flop(described, "prefill", batch=B, tokens=T, context=T)]


@pytest.mark.parametrize("family", families(VISION))
def test_flop_of_images_and_of_the_text_beside_them(family: str) -> None:
    config = config_of(family, VISION[family])
    described = probe_model(config, family)
    assert described.unknown == ()
    model = real(config, described)
    several = family in ("idefics3", "smolvlm")
    lead = (B, I) if several else (B * I,)
    pixels = torch.randn(*lead, 3, 24, 24)
    call: Any = model if family == "vit" else model.get_image_features
    with counted(model) as total:
        call(pixel_values=pixels)
    assert total == [flop(described, "vision", batch=B, images=I)]
    if family in ("siglip", "clip"):
        with counted(model) as total:
            model.get_text_features(input_ids=ids(T))  # type: ignore[operator]
        assert total == [flop(described, "prefill", batch=B, tokens=T, context=T)]
    elif family != "vit":
        check_text(model, described)


def test_flop_of_images_of_any_size() -> None:
    """Qwen2-VL takes patches and a grid; the description is of 16 x 16 patches and says so."""
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 40, "patch_size": 4}
    text = {
        **COMMON,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 2, 2]},
    }
    config = {"model_type": "qwen2_vl", "text_config": text, "vision_config": vision}
    described = probe_model(config, "qwen2-vl")
    assert described.unknown == ()
    assert any("16 x 16" in note for note in described.notes)
    model = real(config, described)
    grid = torch.tensor([[1, 16, 16]] * (B * I))
    call: Any = model.get_image_features
    with counted(model) as total:
        call(torch.randn(B * I * 256, 3 * 2 * 4 * 4), grid)
    assert total == [flop(described, "vision", batch=B, images=I)]
    check_text(model, described)
