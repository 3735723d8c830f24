"""The observed order against a hand-hooked run of a real model on the CPU."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import PreTrainedModel  # noqa: E402

from tierline.errors import InputError  # noqa: E402
from tierline.probe.order import execution_order  # noqa: E402
from tierline.probe.seams import NAME, quiet  # noqa: E402

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 53,
}
FAMILIES: list[dict[str, Any]] = [
    {"model_type": "llama", **SIZES},
    {"model_type": "gemma3_text", **SIZES},
    {"model_type": "mixtral", **SIZES, "num_local_experts": 3, "num_experts_per_tok": 2},
    {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 2, "vocab_size": 53},
    {"model_type": "falcon", **{k: v for k, v in SIZES.items() if k != "head_dim"}},
]


def build(config: dict[str, Any]) -> PreTrainedModel:
    with quiet():
        filled = transformers.AutoConfig.for_model(**config)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(filled)
    model.train(mode=False)
    return model


def decoded_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """What a real decode step on the CPU calls, with transformers' own attention and experts."""
    ids = torch.tensor([[3, 5]])
    calls: list[str] = []
    with torch.no_grad(), quiet():
        cache = model(input_ids=ids, use_cache=True).past_key_values
        for name, module in model.named_modules():
            if list(module.parameters(recurse=False)):
                module.register_forward_pre_hook(lambda _module, _args, name=name: calls.append(name))
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    return tuple(calls)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda c: c["model_type"])
def test_order_is_that_of_a_real_decode_step(config: dict[str, Any]) -> None:
    model = build(config)
    before = model.config.to_dict()
    order = execution_order(model)
    assert model.config.to_dict() == before
    assert order == decoded_modules(model)


def test_seams_are_removed_afterwards() -> None:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    execution_order(build(FAMILIES[2]))
    assert NAME not in ALL_ATTENTION_FUNCTIONS
    assert NAME not in ALL_EXPERTS_FUNCTIONS


def test_what_is_not_a_transformers_model_is_an_input_error() -> None:
    with pytest.raises(InputError, match="Linear is not a transformers model"):
        execution_order(torch.nn.Linear(2, 3))
