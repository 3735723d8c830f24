"""Mixtures of experts in GGUF files, a tensor of blocks for all experts of a layer: streamed as they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import tierline
from tierline.errors import BudgetError
from tierline.testing.tiny import write_mixture_gguf

pytestmark = pytest.mark.usefixtures("brief_samples")
IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79, 3]])


@pytest.mark.parametrize(
    ("family", "block_type"),
    [
        ("qwen3_moe", "Q4_0"),
        pytest.param("mixtral", "Q8_0", marks=pytest.mark.slow),
        pytest.param("qwen2_moe", "Q5_1", marks=pytest.mark.slow),
        pytest.param("qwen3_moe", "F16", marks=pytest.mark.slow),
    ],
)
def test_blocks_of_experts_stream_and_give_what_the_same_weights_give(
    family: str, block_type: str, tmp_path: Path, logits: Callable[[Path, int | None], torch.Tensor]
) -> None:
    path = write_mixture_gguf(tmp_path / "tiny.gguf", family, block_type)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "tiny", dtype=torch.float32, experts_implementation="eager"
    )
    with torch.inference_mode():
        wide = theirs(input_ids=IDS, use_cache=True)
        narrow = theirs(input_ids=IDS[:, :1], past_key_values=wide.past_key_values)
    expected = torch.cat([wide.logits, narrow.logits], dim=1)
    ours = logits(path, None)
    # sums of blocks are in the kernel's order
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(BudgetError, match=r"for experts, and staging") as refused:
        tierline.load(path, resident=1, context=64)
    least = int(str(refused.value).rpartition("--resident ")[2].partition("B")[0])
    assert torch.equal(logits(path, least), ours)
