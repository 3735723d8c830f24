"""The footprint under the profile `llama.cpp` against the buffers that a real load logs."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import quantize

from tierline.cost.costing import Costing
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import plan_with
from tierline.plan.plan import Plan
from tierline.plan.runtime import load_runtime

LOGGED = re.compile(r"(\w+ +(?:model|output|KV|compute)) buffer size = +([0-9.]+) MiB")
HIDDEN, INNER, HEAD, KV_WIDTH, LAYERS, VOCABULARY = 512, 1536, 64, 128, 11, 997


def logged_bytes(path: Path, context: int) -> dict[str, float]:
    """Return the last figure of each buffer: a load first tries out what fits, with buffers of 0."""
    script = Path(__file__).with_name("load_llama_cpp.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path), str(context)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return {
        " ".join(name.split()): float(size) * 2**20
        for name, size in LOGGED.findall(done.stdout + done.stderr)
    }


def write_random_llama(path: Path, stored: str) -> None:
    """Write a Llama of random weights, matrices in `stored` (Q4_K or Q8_0), in the order of a converter."""
    generator = np.random.default_rng(0)
    block_type = gguf.GGMLQuantizationType[stored]
    writer = gguf.GGUFWriter(path, "llama")
    write_header(writer)

    def add_matrix(name: str, rows: int, columns: int) -> None:
        if block_type is gguf.GGMLQuantizationType.Q8_0:
            packed = quantize(generator.standard_normal((rows, columns), dtype=np.float32), block_type)
        else:  # any bits are a valid block where its two scales are finite
            elements, size = gguf.GGML_QUANT_SIZES[block_type]
            blocks = generator.integers(0, 256, (rows * columns // elements, size), dtype=np.uint8)
            blocks[:, :4] = np.full(2, 1e-3, np.float16).view(np.uint8)
            packed = blocks.reshape(rows, -1)
        writer.add_tensor(name, packed, raw_dtype=block_type)

    add_matrix("token_embd.weight", VOCABULARY, HIDDEN)
    for i in range(LAYERS):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(HIDDEN, np.float32))
        for name, rows, columns in (("ffn_down", HIDDEN, INNER), ("ffn_gate", INNER, HIDDEN)):
            add_matrix(f"blk.{i}.{name}.weight", rows, columns)
        add_matrix(f"blk.{i}.ffn_up.weight", INNER, HIDDEN)
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", np.ones(HIDDEN, np.float32))
        for name, rows in (("k", KV_WIDTH), ("output", HIDDEN), ("q", HIDDEN), ("v", KV_WIDTH)):
            add_matrix(f"blk.{i}.attn_{name}.weight", rows, HIDDEN)
    add_matrix("output.weight", VOCABULARY, HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_header(writer: Any) -> None:
    """Add what llama.cpp asks of a Llama, with a tokenizer of single bytes."""
    from tokenizers import pre_tokenizers

    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HIDDEN // HEAD)
    writer.add_head_count_kv(KV_WIDTH // HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(VOCABULARY)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    others = (f"[{i}]" for i in range(VOCABULARY - len(letters) - 1))
    writer.add_token_list([*letters, letters[0] + letters[1], *others])
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def plan_of(path: Path, context: int) -> Plan:
    costing = load_runtime("llama.cpp").costing(Costing(Precision.of(kv="fp16")))
    work = Workload.of(context=context)
    return plan_with(open_model(str(path)), load_machine("desktop-ddr5"), work, costing)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs xllamacpp on the path")
@pytest.mark.parametrize("context", [1000, 2048, 4096])
def test_a_load_of_smollm2_takes_what_was_planned(smollm2_gguf: Path, context: int) -> None:
    logged = logged_bytes(smollm2_gguf, context)
    assert set(logged) == {"CPU_Mapped model", "CPU output", "CPU KV", "CPU compute"}
    footprint = plan_of(smollm2_gguf, context).footprint
    assert footprint.total_bytes == pytest.approx(sum(logged.values()), rel=0.01)
    assert footprint.kv_cache_bytes == pytest.approx(logged["CPU KV"], rel=1e-4)
    assert footprint.weights_bytes == pytest.approx(logged["CPU_Mapped model"], rel=0.001)
    made = logged["CPU compute"] + logged["CPU output"]
    assert footprint.activation_bytes == pytest.approx(made, rel=0.005)
    assert footprint.runtime_bytes == 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs xllamacpp on the path")
@pytest.mark.parametrize("stored", ["Q4_K", "Q8_0"])
def test_a_load_of_random_weights(stored: str, tmp_path: Path) -> None:
    path = tmp_path / "random.gguf"
    write_random_llama(path, stored)
    logged = logged_bytes(path, 1024)
    footprint = plan_of(path, 1024).footprint
    assert footprint.total_bytes == pytest.approx(sum(logged.values()), rel=0.05)
    # a second copy of Q4_K in the layout of the kernels; x86 has none for Q8_0
    assert footprint.runtime_bytes == pytest.approx(logged.get("CPU_REPACK model", 0), rel=0.001)
    assert (footprint.runtime_bytes > 0) == (stored == "Q4_K")
    made = logged["CPU compute"] + logged["CPU output"]
    assert footprint.activation_bytes == pytest.approx(made, rel=0.005)
