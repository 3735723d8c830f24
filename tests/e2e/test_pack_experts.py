"""Packed mixtures of experts: each expert together and aligned, the original's bits, every split alike."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import tierline
from tierline.errors import BudgetError, FaultError
from tierline.models.checkpoint import open_checkpoint
from tierline.models.open import open_model
from tierline.run.pack.pack import pack
from tierline.run.source import open_source
from tierline.testing.tiny import write_mixture

pytestmark = pytest.mark.usefixtures("brief_samples")
IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79, 3]])


def nothing(*_: object) -> None:
    """Ignore progress."""


def packed(source: Path, folder: Path, weights: str) -> Path:
    pack(open_source(source), folder, weights, nothing, panel_bytes=3_000)
    return folder


@pytest.fixture(
    scope="module", params=["mixtral", pytest.param("qwen3_moe", marks=pytest.mark.slow), "gpt_oss"]
)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mixture whose file holds experts apart, and one whose file fuses and turns them."""
    return write_mixture(tmp_path_factory.mktemp(request.param), request.param)


def logits(path: Path, resident: int | None = None, **options: Any) -> torch.Tensor:
    with tierline.load(path, resident=resident, context=64, **options) as model, torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
        assert resident is None or model.weights_held_bytes <= resident
        return found


def smallest(path: Path) -> int:
    with pytest.raises(BudgetError) as refused:
        tierline.load(path, resident=1, context=64)
    return int(str(refused.value).rpartition("--resident ")[2].partition("B")[0])


def test_kept_weights_have_the_bits_of_the_original(source: Path, tmp_path: Path) -> None:
    path = packed(source, tmp_path / "packed", "keep")
    expected = logits(source)
    assert torch.equal(logits(path, verify=True), expected)
    assert torch.equal(logits(path, smallest(path), verify=True), expected)
    assert open_model(str(path)).components[0].layers[1].block.operations  # planned as before
    held, before = open_checkpoint(path).footprint_bytes, open_checkpoint(source).footprint_bytes
    assert held == before


def test_an_expert_lies_together_and_aligned_and_is_one_read(source: Path, tmp_path: Path) -> None:
    path = packed(source, tmp_path / "packed", "keep")
    tensors = open_checkpoint(path).tensors
    with tierline.load(path, context=64) as model:
        experts = model._engine.experts
        for layer in experts.layers:
            for e, expert in enumerate(layer.experts):
                into, out = (tensors[f"{layer.path}.{e}.{name}"] for name in ("gate_up_proj", "down_proj"))
                assert expert.parts == ((into,), (out,))
                assert into.offset % 4096 == out.offset % 4096 == 0
                assert 0 <= out.offset - into.offset - into.footprint_bytes < 4096
        span_bytes = out.offset + out.footprint_bytes - into.offset
        assert experts.read_sizes_bytes[-1] == -(-span_bytes // 512) * 512
        assert len(experts.read_sizes_bytes) == experts.count


def test_packed_in_int8_every_split_gives_the_same_bits_near_the_original(
    source: Path, tmp_path: Path
) -> None:
    path = packed(source, tmp_path / "packed", "int8:channel")
    whole = logits(path)
    least = smallest(path)
    for budget in (least, least + 50_021):
        assert torch.equal(logits(path, budget), whole)
    reference: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = reference(input_ids=IDS).logits.float()
    error = (whole.float() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert float(error) < 0.2  # tiny and random: a routing that tips over changes whole experts
    formats = {t.format for n, t in open_checkpoint(path).tensors.items() if "experts." in n}
    assert "int8:channel,scale=bf16" in formats or "gpt_oss" in str(source)


def test_a_damaged_expert_is_found_when_it_is_read(source: Path, tmp_path: Path) -> None:
    path = packed(source, tmp_path / "packed", "keep")
    tensor = next(t for n, t in open_checkpoint(path).tensors.items() if n.endswith("experts.2.down_proj"))
    with tensor.path.open("r+b") as file:
        file.seek(tensor.offset + 7)
        old = file.read(1)
        file.seek(tensor.offset + 7)
        file.write(bytes([old[0] ^ 1]))
    with pytest.raises(FaultError, match=r"experts\.2\.down_proj at offset .* has the checksum"):
        logits(path, verify=True)
