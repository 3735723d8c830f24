"""GPT-OSS as it is published, experts in MXFP4 in two tensors: streamed, and held to transformers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import tierline
from tierline.errors import BudgetError, InputError
from tierline.models.open import open_model
from tierline.run.experts.split import by_nibble, join
from tierline.run.experts.stored import joined
from tierline.run.kernels import Kernels
from tierline.run.source import open_source
from tierline.testing.tiny import write_gpt_oss_mxfp4

pytestmark = pytest.mark.usefixtures("brief_samples")
IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79, 3]])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt_oss_mxfp4(tmp_path_factory.mktemp("gpt_oss"), dtype="float32")


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_logits_are_those_of_the_dequantised_model(
    dtype: torch.dtype, published: Path, tmp_path: Path, logits: Callable[[Path, int | None], torch.Tensor]
) -> None:
    path = published if dtype == torch.float32 else write_gpt_oss_mxfp4(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, experts_implementation="eager")
    with torch.inference_mode():
        wide = theirs(input_ids=IDS, use_cache=True)
        narrow = theirs(input_ids=IDS[:, :1], past_key_values=wide.past_key_values)
    expected = torch.cat([wide.logits, narrow.logits], dim=1)
    ours = logits(path, None)
    if dtype == torch.float32:  # products add in another order than transformers' wide matrix
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    else:
        torch.testing.assert_close(ours, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
    with pytest.raises(BudgetError, match=r"for experts, and staging") as refused:
        tierline.load(path, resident=1, context=64)
    least = int(str(refused.value).rpartition("--resident ")[2].partition("B")[0])
    for budget in (least, least + 30_011):
        assert torch.equal(logits(path, budget), ours)


def test_every_weight_is_exactly_what_transformers_dequantises(published: Path) -> None:
    source, tensors = open_source(published), load_file(published / "model.safetensors")
    kernels = Kernels(torch.float32)
    for name in ("gate_up_proj", "down_proj"):
        full = f"model.layers.1.mlp.experts.{name}"
        theirs = convert_moe_packed_tensors(
            tensors[f"{full}_blocks"], tensors[f"{full}_scales"], dtype=torch.float32
        )
        for expert, parts in enumerate(source.experts(full)):
            codes, scales = (_bytes(part.path, part.offset, part.footprint_bytes) for part in parts)
            (matrix,) = joined(parts)
            unit = torch.eye(matrix.shape[1])
            ours = kernels.of(matrix).matmul(by_nibble(unit), join(codes, scales), matrix.shape[0])
            assert torch.equal(ours, theirs[expert])


def _bytes(path: Path, offset: int, count: int) -> memoryview:
    with path.open("rb") as file:
        file.seek(offset)
        return memoryview(bytearray(file.read(count)))


def test_it_is_planned_and_not_only_weighed(published: Path) -> None:
    model = open_model(str(published))
    plan = tierline.plan(model, "this", prompt_tokens=8, new=4)
    decode = next(phase for phase in plan.phases if phase.name == "decode")
    held = open_source(published).checkpoint.footprint_bytes
    assert not model.unknown
    assert plan.footprint.weights_bytes == held
    assert 0 < decode.weight_read_bytes / decode.passes < held  # two of five experts


def test_shapes_that_do_not_belong_together_are_told(published: Path, tmp_path: Path) -> None:
    tensors = load_file(published / "model.safetensors")
    name = "model.layers.2.mlp.experts.down_proj_scales"
    save_file({**tensors, name: tensors[name][:, :-1].contiguous()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((published / "config.json").read_text())
    with pytest.raises(InputError, match=r"down_proj_scales.*but the configuration makes it uint8"):
        open_source(tmp_path)


def test_a_quantised_model_that_cannot_run_says_so(published: Path, tmp_path: Path) -> None:
    tensors = load_file(published / "model.safetensors")
    gone = {n: t for n, t in tensors.items() if not n.endswith("_blocks")}
    config = json.loads((published / "config.json").read_text())
    save_file(gone, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot be run"):
        open_source(tmp_path)
