"""What a mixture of experts needs is known by its headers; routers get the corrections in their file."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_run_early import agree
from transformers import AutoModelForCausalLM

import tierline
from tierline.run.parts import needs_by_header
from tierline.run.source import open_source
from tierline.testing.tiny import MIXTURES, write_gpt_oss_mxfp4, write_mixture, write_mixture_gguf

PROBED = ("granitemoe",)  # what the probe saw, engines may hold otherwise: left to the rehearsal
QUICK = ("qwen3_moe", "deepseek_v3")


@pytest.mark.parametrize(
    "family",
    [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in MIXTURES if f not in PROBED],
)
def test_headers_say_what_a_mixture_needs(family: str, tmp_path: Path) -> None:
    agree(write_mixture(tmp_path, family))


def test_headers_say_what_experts_in_blocks_need(tmp_path: Path) -> None:
    agree(write_gpt_oss_mxfp4(tmp_path / "gpt_oss"))
    agree(write_mixture_gguf(tmp_path / "tiny.gguf", "qwen2_moe", "Q4_0"))


def test_too_little_for_experts_is_refused_without_torch(tmp_path: Path) -> None:
    path = write_mixture(tmp_path, "qwen3_moe")
    needs = needs_by_header(open_source(path))
    assert needs is not None
    code = (
        "import sys\nfrom tierline.cli.main import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(path), "t3", "--resident", f"{needs.least_bytes - 1}B"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"Give --resident {needs.least_bytes}B or more" in done.stderr
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.slow)])
def test_routers_choose_with_the_corrections_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(3)
    written: Any = AutoModelForCausalLM.from_pretrained(
        write_mixture(tmp_path / "zero", "deepseek_v3"), dtype=dtype, experts_implementation="eager"
    )
    ids = torch.tensor([[3, 14, 15, 92, 65, 35]])
    with torch.inference_mode():
        before = written(input_ids=ids).logits
        for name, buffer in written.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn(buffer.shape) * 0.3)
        expected = written(input_ids=ids).logits
    written.save_pretrained(tmp_path / "model")
    assert not torch.equal(before, expected)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / file).write_bytes((tmp_path / "zero" / file).read_bytes())
    with tierline.load(tmp_path / "model", context=64) as model, torch.inference_mode():
        assert torch.equal(model(input_ids=ids).logits, expected)
