"""Decoders without a native reader run by what the probe saw, or it is said which part stops them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import tierline
from tierline.errors import BudgetError, InputError
from tierline.probe.order import read_directly
from tierline.run import large_parts
from tierline.testing.tiny import TINY_MIXTURE, write_tokenizer

pytestmark = pytest.mark.usefixtures("brief_samples")
STATE = {"mamba_n_heads": 8, "mamba_d_head": 12, "mamba_d_state": 8}
# Family -> config class, what it needs beyond TINY_MIXTURE, and the weights that its layers read directly.
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "opt": ("OPTConfig", {"ffn_dim": 112, "word_embed_proj_dim": 48}, ()),
    "mamba": ("MambaConfig", {"state_size": 8}, ("mixer.conv1d", "mixer.dt_proj")),
    "mamba2": (
        "Mamba2Config",
        {"state_size": 8, "num_heads": 8, "head_dim": 12, "n_groups": 2},
        ("mixer.conv1d",),
    ),
    "granitemoe": ("GraniteMoeConfig", {"num_local_experts": 5, "num_experts_per_tok": 2}, ()),
    "falcon_h1": ("FalconH1Config", {"mamba_d_ssm": 96, **STATE}, ("mamba.conv1d",)),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention", "conv"]}, ("conv.conv",)),
    "biogpt": ("BioGptConfig", {}, ()),
    "ctrl": ("CTRLConfig", {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 128, "dff": 112}, ()),
    "llama4_text": (
        "Llama4TextConfig",
        {"head_dim": 12, "num_local_experts": 5, "interleave_moe_layer_step": 1, "intermediate_size_mlp": 80},
        (),
    ),
}
QUICK = ("opt", "mamba2")
IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79, 3]])


def write(folder: Path, family: str) -> Path:
    name, changes, _ = FAMILIES[family]
    torch.manual_seed(7)
    config = getattr(transformers, name)(**{**TINY_MIXTURE, **changes})
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    write_tokenizer(folder, int(TINY_MIXTURE["vocab_size"]))
    return folder


@pytest.fixture(
    scope="module", params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES]
)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def unknown(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp(family), family)


def logits(path: Path, resident: int | None) -> torch.Tensor:
    with tierline.load(path, resident=resident, context=64) as model, torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
        assert resident is None or model.weights_held_bytes <= resident
        return found


@given(share=st.floats(0, 1))
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_split_has_the_bits_of_transformers(unknown: Path, share: float) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(unknown, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = theirs(input_ids=IDS).logits
    with pytest.raises(BudgetError) as refused:
        tierline.load(unknown, resident=1, context=64)
    least = int(str(refused.value).rpartition("--resident ")[2].partition("B")[0])
    for budget in (least + int(share * 200_000), None):
        assert torch.equal(logits(unknown, budget), expected)


def test_weights_that_a_step_reads_without_a_call_are_found(family: str) -> None:
    name, changes, parts = FAMILIES[family]
    config = getattr(transformers, name)(**{**TINY_MIXTURE, **changes})
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    found = {path.split(".", 3)[-1] for path in read_directly(model.train(False))}
    assert found == set(parts)


def test_a_part_that_the_probe_cannot_name_is_said(tmp_path: Path) -> None:
    torch.manual_seed(7)
    config = transformers.BloomConfig(vocab_size=211, hidden_size=48, n_layer=2, n_head=4)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"cannot be run as a decoder: transformer\.h\.0\.self_attention: a"):
        tierline.load(tmp_path)


@pytest.mark.slow
def test_a_part_that_is_too_large_to_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "llama4_text")
    monkeypatch.setattr(large_parts, "_SMALL_BYTES", 100_000)
    wanted = r"feed_forward\.experts\.gate_up_proj, 105\.0 KiB, of a Llama4TextExperts"
    with pytest.raises(BudgetError, match=wanted):
        tierline.load(path, resident=200_000)
