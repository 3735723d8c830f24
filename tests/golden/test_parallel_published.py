"""Memory per device as Megatron-LM's authors and users published it, beside what is planned."""

import json
from pathlib import Path

import pytest

import tierline
from tierline.cost.buffers import LEAN
from tierline.cost.costing import Costing
from tierline.cost.split import Split
from tierline.cost.training import Training, kept_bytes, layer_activation_bytes
from tierline.formats.parse import parse_format
from tierline.formats.precision import Precision
from tierline.models.cut import Place
from tierline.models.description import Model
from tierline.models.share import Share
from tierline.models.stages import shard
from tierline.models.workload import Workload
from tierline.plan.training_parallel import ParallelTraining, plan_training_parallel

MEBI = 2**20
GPT = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8192, "n_layer": 80, "n_head": 64,
    "vocab_size": 32256, "n_positions": 4096,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096,
    "num_hidden_layers": 16, "intermediate_size": 11008, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip


def described(folder: Path, config: dict[str, object]) -> Model:
    (folder / "config.json").write_text(json.dumps(config))
    return tierline.model(folder / "config.json")


def step(
    folder: Path, config: dict[str, object], devices: int, split: str, tokens: int, batch: int
) -> ParallelTraining:
    (folder / "cluster.toml").write_text(
        f'[[devices]]\nmachine = "h100-sxm"\ncount = {devices}\n[interconnects.net]\ntopology = "switch"\n'
        'sustained = { value = "50GB/s", kind = "assumed", source = "test" }\n'
    )
    precision = Precision.of(weights="bf16", kv="bf16", activations="bf16", keep=())
    return plan_training_parallel(
        described(folder, config),
        tierline.machine(folder / "cluster.toml"),
        Workload.of(batch=batch, prompt_tokens=tokens, new=0),
        Costing(precision, split=Split.parse(split)),
        Training("adamw", None, "full", gradient_bytes=4),
    )


def test_a_gpt_of_65_billion_over_32_devices_is_what_megatron_reports(tmp_path: Path) -> None:
    """gnosia93/slurm-on-aws, lesson on Megatron-LM: its log of 2026-03-28, tp=4, pp=8, one replica.

    "Total number of parameters in billions: 64.69", "most loaded shard 2.0794", "other shards 2.0133",
    "Theoretical memory footprints: weight and optimizer=35695.42 MB" (18 bytes a parameter; MB are MiB).
    Its vocabulary is padded to a multiple of 128 * tp. It leaves out the learned positions, and divides norms
    and biases, which are on every device, by tp.
    """
    made = step(tmp_path, GPT, 32, "tp=4,pp=8,micro=8", 4096, 8)
    positions = 4096 * 8192
    stage = [next(d for d in made.devices if d.ranks.pp == s) for s in range(8)]
    counts = [d.held.weights_bytes // 2 for d in stage]
    assert (counts[0] - positions) / 1e9 == pytest.approx(2.0794, rel=4e-4)
    assert [c / 1e9 for c in counts[1:7]] == pytest.approx([2.0133] * 6, rel=4e-4)
    assert made.layers == (10,) * 8
    held = stage[0].held.total_bytes - 18 * positions
    assert held / MEBI == pytest.approx(35695.42, rel=4e-4)
    assert [d.in_flight for d in stage] == [8, 7, 6, 5, 4, 3, 2, 1]
    # the same log measures 36,891 MB on the middle stages after a step: 6 % more than weights and states
    assert 0.93 < stage[3].held.total_bytes / MEBI / 36891.15 < 1


def test_a_llama_over_four_stages_and_two_replicas_is_what_was_measured(tmp_path: Path) -> None:
    """Infinigence, best practice for RTX 4090, 2025-08-01: Llama 2 of 16 layers, pp=4, dp=2, states divided.

    Megatron-LM's theory: 0.9406 B parameters in the most loaded shard, 0.8096 in the others, 10764.77 MB.
    Measured after one iteration ("allocated", MB are MiB): rank 0 10770.38, 2 and 4 9334.38, 6 10850.68.
    """
    made = step(tmp_path, LLAMA, 8, "pp=4,dp=2,micro=4,zero=1", 4096, 8)
    first, second, third, last = (next(d for d in made.devices if d.ranks.pp == s) for s in range(4))
    assert first.held.weights_bytes / 2e9 == pytest.approx(0.9406, abs=1e-4)
    assert second.held.weights_bytes / 2e9 == pytest.approx(0.8096, abs=1e-4)
    assert first.held.total_bytes / MEBI == pytest.approx(10764.77, rel=1e-4)
    measured = [10770.3779296875, 9334.3779296875, 9334.3779296875, 10850.67578125]
    for device, found in zip((first, second, third, last), measured, strict=True):
        assert device.held.total_bytes / MEBI == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_what_a_device_keeps_of_a_layer_is_korthikantis_without_dropout(tmp_path: Path, devices: int) -> None:
    """`sbh (10 + 24/t)` (arXiv 2205.05198, equation 2), less two dropout masks of a byte an element."""
    config = GPT | {"n_embd": 768, "n_layer": 2, "n_head": 12, "vocab_size": 512}
    model = described(tmp_path, config)
    stage_of = dict.fromkeys((x.name for c in model.components for x in c.layers), 0)
    part = shard(model, stage_of, 0, Place(Share(0, devices), Share(), 1)).model
    block = next(x.block for x in part.components[0].layers if x.name.endswith("h.0"))
    values = {"batch": 3, "tokens": 61, "context": 61, "prompt_tokens": 61, "new": 0}
    kept = kept_bytes(block, values, parse_format("bf16"), "none", LEAN)
    published = layer_activation_bytes(61, 3, 768, 12, "selective", tensor=devices)
    assert kept == published - 2 * 61 * 3 * 768


def test_savings_of_the_paper() -> None:
    """arXiv 2205.05198, section 5: 5as/h is 80 for GPT-3, 64 for MT-NLG; dropping it saves 70 and 65 %."""
    for hidden, heads, term, saved in ((12288, 96, 80, 0.70), (20480, 128, 64, 0.65)):
        whole = layer_activation_bytes(2048, 1, hidden, heads, "none", tensor=8, sequence=True)
        selective = layer_activation_bytes(2048, 1, hidden, heads, "selective", tensor=8, sequence=True)
        assert (whole - selective) * 8 == term * 2048 * hidden
        assert 1 - selective / whole == pytest.approx(saved, abs=0.006)
    # figure 1's fivefold saving at t=8: tensor parallelism alone against both techniques
    alone = layer_activation_bytes(2048, 1, 12288, 96, "none", tensor=8)
    both = layer_activation_bytes(2048, 1, 12288, 96, "selective", tensor=8, sequence=True)
    assert 5 < alone / both < 6
