"""The block of llama.cpp's buffers against what it logged for random Llamas (xllamacpp, n_ctx 1,024)."""

import json
from pathlib import Path

import pytest

from tierline.cost.arena import arena_bytes
from tierline.cost.buffers import Buffer, LayerBuffers
from tierline.cost.costing import Costing
from tierline.cost.footprint import working_set_bytes
from tierline.cost.weights import weigh
from tierline.formats.precision import Precision
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.runtime import load_runtime


@pytest.mark.parametrize(
    ("hidden", "inner", "heads", "kv_heads", "layers", "logged_mib"),
    [
        (512, 1152, 8, 1, 3, 12.77),
        (512, 1408, 8, 1, 2, 14.27),
        (512, 1408, 8, 8, 3, 14.27),
        (512, 2816, 8, 8, 3, 22.52),
        (1024, 3584, 16, 4, 4, 32.02),
    ],
)
def test_the_block_is_what_llama_cpp_reserves(
    hidden: int, inner: int, heads: int, kv_heads: int, layers: int, logged_mib: float, tmp_path: Path
) -> None:
    vocabulary = 1000
    fields = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "max_position_embeddings": 8192,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    model = open_model(str(path))
    costing = load_runtime("llama.cpp").costing(Costing(Precision.of(kv="fp16")))
    values = Workload.of(context=1024).values()
    found = working_set_bytes(model, weigh(model, costing.precision), values, costing)
    # beside it, 24 to 32 bytes of positions and indices per row, which are not counted
    assert found - 4 * vocabulary == pytest.approx(logged_mib * 2**20, rel=0.005)


def test_a_gap_that_is_too_small_is_not_used() -> None:
    first = LayerBuffers(
        ("a", "b", "c"),
        (Buffer("layer input", 11, 0, 2), Buffer("x", 7, 0, 1), Buffer("y", 3, 1, 2), Buffer("z", 13, 2, 2)),
    )
    # input at 0, x at 11, y at 18; x's 7 bytes do not hold z, which goes to 21
    assert arena_bytes([first], other_inputs=False) == 11 + 7 + 3 + 13
    # the next layer's input is z; x finds the gap of 7 + 3 joined to the input's 11, and y behind it
    assert arena_bytes([first, first], other_inputs=False) == 21 + 13 + 13
