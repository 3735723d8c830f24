"""What a layer keeps for its backward pass against what autograd saved in a real forward pass."""

import json
from pathlib import Path
from typing import Any

import pytest

from tierline.cost.costing import Costing
from tierline.cost.training import Training
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.runtime import load_runtime
from tierline.plan.training import plan_training

BATCH, TOKENS = 3, 61
GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 208, "n_layer": 3, "n_head": 13,
    "vocab_size": 499, "n_positions": 128, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    "activation_function": "gelu",
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 224,
    "intermediate_size": 592, "num_hidden_layers": 3, "num_attention_heads": 7, "num_key_value_heads": 7,
    "vocab_size": 499, "max_position_embeddings": 128,
}  # fmt: skip


def saved_bytes(fields: dict[str, Any], attention: str) -> int:
    """Return the bytes of the different storages that autograd holds after a forward pass with labels."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    held: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage  # kept alive, so that no address is used twice
        return tensor

    ids = torch.randint(0, 499, (BATCH, TOKENS))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(ids, labels=ids, use_cache=False)
    return sum(storage.nbytes() for storage in held.values())


def planned(fields: dict[str, Any], runtime: str, checkpointing: str, path: Path) -> Any:
    path.write_text(json.dumps(fields))
    costing = load_runtime(runtime).costing(Costing(Precision.of(weights="fp32", activations="fp32")))
    work = Workload.of(batch=BATCH, prompt_tokens=TOKENS, new=0)
    how = Training.of("adamw", checkpointing)
    return plan_training(open_model(str(path)), load_machine("h100-sxm"), work, costing, how)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("fields", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_kept_activations(fields: dict[str, Any], attention: str, tmp_path: Path) -> None:
    runtime = "transformers" if attention == "sdpa" else "transformers-eager"
    plan = planned(fields, runtime, "none", tmp_path / "config.json")
    assert plan.kept_bytes == pytest.approx(saved_bytes(fields, attention), rel=0.02)
