"""The predicted peak of a prefill against what the process really held, for transformers on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tierline.cost.costing import Costing
from tierline.cost.footprint import kv_cache_bytes, working_set_bytes
from tierline.cost.logits import with_all_logits
from tierline.cost.weights import weigh
from tierline.formats.precision import Precision
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.runtime import load_runtime

TOKENS = 1536
SHAPES = {
    "llama": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512,
        "intermediate_size": 1408, "num_hidden_layers": 3, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 16384,
    },
    "qwen3": {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 320,
        "intermediate_size": 832, "num_hidden_layers": 4, "num_attention_heads": 10, "head_dim": 96,
        "num_key_value_heads": 5, "vocab_size": 12288,
    },
    "smolvlm-text": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49280, "tie_word_embeddings": False,
    },
}  # fmt: skip


def predicted_bytes(path: Path, attention: str, dtype: str, *, every: bool) -> int:
    model = open_model(str(path))
    precision = Precision.of(weights=dtype, kv=dtype, activations=dtype)
    profile = load_runtime("transformers" if attention == "sdpa" else "transformers-eager")
    costing = profile.costing(Costing(precision, all_logits=every))
    values = Workload.of(prompt_tokens=TOKENS, new=0).values()
    model = with_all_logits(model) if every else model
    weights = weigh(model, precision)
    peak = working_set_bytes(model, weights, values, costing)
    return int(peak + kv_cache_bytes(model, weights, values, costing))


def measured_bytes(path: Path, attention: str, dtype: str, *, every: bool) -> tuple[int, int]:
    script = Path(__file__).with_name("peak_rss.py")
    arguments = [str(path), str(TOKENS), attention, "0" if every else "1", dtype]
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, **allocator},
        capture_output=True,
        text=True,
        check=True,
    )
    before, peak = done.stdout.split()
    return int(before), int(peak)


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, True], ids=["last", "all"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("shape", "dtype"), [("llama", "fp32"), ("llama", "bf16"), ("qwen3", "fp32"), ("smolvlm-text", "bf16")]
)
def test_the_peak_of_a_prefill(shape: str, dtype: str, attention: str, every: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SHAPES[shape] | {"max_position_embeddings": 4096}))
    rise = predicted_bytes(path, attention, dtype, every=every)
    before, peak = measured_bytes(path, attention, dtype, every=every)
    assert before + rise == pytest.approx(peak, rel=0.03)
    assert rise == pytest.approx(peak - before, rel=0.05)  # the rise alone, which the total might hide
