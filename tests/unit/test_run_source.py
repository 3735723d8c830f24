"""Weights in other libraries' forms are refused by their headers, with what to do."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tierline.errors import InputError
from tierline.run.source import open_source

torch = pytest.importorskip("torch")
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
BNB = {"quant_method": "bitsandbytes", "load_in_8bit": True}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("stored", "suffix", "config", "why"),
    [
        ("int32", ".qweight", GPTQ, r"quantised by gptq \(model\..*qweight is stored as int32\)"),
        ("int8", ".weight", BNB, r"quantised by bitsandbytes \(.* is stored as int8\)"),
        ("uint8", ".weight", {"load_in_4bit": True}, "quantised by an unnamed method"),
        ("float8_e4m3fn", ".weight", FP8, r"quantised by fp8 \(.* is stored as fp8\)"),
    ],
)
def test_quantised_weights_are_refused_with_what_to_do(
    tiny_llama: Path, tmp_path: Path, stored: str, suffix: str, config: dict[str, object], why: str
) -> None:
    written = {}
    for name, tensor in load_file(tiny_llama / "model.safetensors").items():
        coded = name.endswith("_proj.weight")
        own = name.removesuffix(".weight") + suffix if coded else name
        written[own] = tensor.to(getattr(torch, stored)) if coded else tensor
    save_file(written, tmp_path / "model.safetensors")
    told = json.loads((tiny_llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "quantization_config": config}))
    with pytest.raises(InputError, match=why + ".*original weights and `tierline pack`"):
        open_source(tmp_path)


def test_dense_weights_run_whatever_their_config_says(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((tiny_llama / "model.safetensors").read_bytes())
    told = json.loads((tiny_llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "quantization_config": GPTQ}))
    assert open_source(tmp_path).compute_format == "bf16"
