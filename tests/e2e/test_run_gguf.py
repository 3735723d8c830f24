"""GGUF files of every mix as they are: streamed equals resident, and both what gguf's own reader gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM

import tierline
from tierline.cost.weights import weigh
from tierline.errors import BudgetError
from tierline.formats.precision import Precision
from tierline.models.checkpoint import open_checkpoint
from tierline.models.open import open_model
from tierline.run.source import open_source
from tierline.testing.random_gguf import write_random_gguf
from tierline.testing.tiny import write_llama_gguf

pytestmark = pytest.mark.usefixtures("brief_samples")
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
IDS = torch.tensor([[3, 141, 59, 26, 5, 358, 379, 323, 446, 264, 338, 327, 450, 288, 419, 116, 93, 99, 375]])
slow = pytest.mark.slow
# A mix, and a type that some of its tensors have.
MIXES = [
    ("q4_k_m", "q6_k"), pytest.param("q5_k_m", "q5_k", marks=slow), pytest.param("q6_k", "q6_k", marks=slow),
    pytest.param("q3_k_m", "q3_k", marks=slow), pytest.param("q5_0", "q5_0", marks=slow), ("q5_1", "q5_1"),
]  # fmt: skip


def logits(path: Path, resident: int | None = None) -> torch.Tensor:
    """Return the logits of a wide pass and of two narrow ones after it."""
    with tierline.load(path, resident=resident, context=64) as model, torch.inference_mode():
        out = model(input_ids=IDS, use_cache=True)
        found = [out.logits]
        for part in (IDS[:, :3], IDS[:, 3:4]):
            out = model(input_ids=part, past_key_values=out.past_key_values, use_cache=True)
            found.append(out.logits)
        assert resident is None or model.weights_held_bytes <= resident
        return torch.cat(found, dim=1)


def smallest(path: Path) -> int:
    with pytest.raises(BudgetError) as refused:
        tierline.load(path, resident=1, context=64)
    return int(str(refused.value).rpartition("--resident ")[2].partition("B")[0])


def expanded(path: Path) -> Any:
    """Return transformers' model with the weights as the gguf package reads and expands them."""
    model: Any = LlamaForCausalLM(LlamaConfig(**CONFIG, rms_norm_eps=1e-5))
    source, state = open_source(path), model.state_dict()
    heads = source.rotary_heads()
    stored = {t.name: t for t in GGUFReader(path).tensors}
    for name, value in state.items():
        if name == "lm_head.weight":
            continue
        tensor = stored[source.stored(name).name]
        rows = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).view(value.shape)
        if count := heads.get(name.removesuffix(".weight"), 0):
            rows = rows.view(count, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
        value.copy_(rows)
    return model.eval()


@pytest.mark.parametrize(("mix", "holds"), MIXES)
def test_a_mix_streams_as_it_is(mix: str, holds: str, tmp_path: Path) -> None:
    path = write_random_gguf(CONFIG, mix, tmp_path / f"{mix}.gguf", deviation=0.2)
    formats = {t.format for t in open_checkpoint(path).tensors.values()}
    assert holds in formats
    # The plan of the mix and the file have the same bytes.
    planned = weigh(open_model(str(path)), Precision.of(weights=mix)).tied_bytes
    assert planned == open_checkpoint(path).footprint_bytes
    resident = logits(path)
    assert torch.equal(logits(path, smallest(path) + 10_007), resident)
    with torch.inference_mode():
        wanted = expanded(path)(input_ids=torch.cat([IDS, IDS[:, :4]], dim=1)).logits
    torch.testing.assert_close(resident, wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(resident.argmax(-1), wanted.argmax(-1))


@pytest.mark.parametrize("block_type", ["F16", pytest.param("BF16", marks=slow)])
def test_halves_are_computed_in_fp32(block_type: str, tiny_llama: Path, tmp_path: Path) -> None:
    path = write_llama_gguf(tmp_path / "half.gguf", tiny_llama, block_type)
    resident = logits(path)
    assert resident.dtype == torch.float32
    assert torch.equal(logits(path, smallest(path) + 10_007), resident)
    assert GGMLQuantizationType[block_type] in {t.tensor_type for t in GGUFReader(path).tensors}
