"""Budgets that cannot work are refused by headers alone, with the number that the engine itself finds."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from tierline.errors import BudgetError
from tierline.run.early import refuse_at_once
from tierline.run.engine import Engine
from tierline.run.pack.pack import pack
from tierline.run.parts import needs_by_header, parts_of
from tierline.run.reserve import Held, known_library_bytes, remember_reserve
from tierline.run.scratch import scratch_bytes
from tierline.run.source import open_source
from tierline.testing.tiny import write_llama, write_llama_gguf
from tierline.units import MIB

SHAPE: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaConfig": {"tie_word_embeddings": True, "attention_bias": True},
    "MistralConfig": {"sliding_window": 7},
    "Qwen2Config": {},
    "Qwen3Config": {"head_dim": 16},
    "Gemma2Config": {"head_dim": 16},
    "Gemma3TextConfig": {"head_dim": 16},
    "Phi3Config": {"pad_token_id": 0},
    "GPT2Config": {
        "n_embd": 64,
        "n_layer": 3,
        "n_head": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 256,
    },
    "SmolLM3Config": {"pad_token_id": 0},
}


def agree(path: Path) -> None:
    """Hold what headers say against what the built model says."""
    source = open_source(path)
    by_header, parts = needs_by_header(source), parts_of(source)
    assert by_header is not None
    assert parts is not None
    engine = Engine(source, resident=None, memory=None)
    try:
        built = engine._planner(engine._load_fixed())
        assert engine._kernels.scratch_bytes == scratch_bytes(parts.kinds, source.compute_format)
        assert set(parts.matrices) == set(engine._matrix_order())
    finally:
        engine.close()
    assert by_header == built.needs
    assert by_header.fixed_bytes > 0
    assert by_header.least_tiles_bytes > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_headers_say_what_every_family_needs(family: str, tmp_path: Path) -> None:
    config = getattr(transformers, family)(**{**SHAPE, **FAMILIES[family]})
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    agree(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_headers_say_what_dense_formats_need(dtype: str, tmp_path: Path) -> None:
    agree(write_llama(tmp_path, dtype=dtype))


@pytest.mark.parametrize("block_type", ["Q4_0", "Q4_1", "Q8_0"])
def test_headers_say_what_blocks_need(block_type: str, tiny_llama: Path, tmp_path: Path) -> None:
    agree(write_llama_gguf(tmp_path / "tiny.gguf", tiny_llama, block_type))


@pytest.mark.parametrize("weights", ["int8:channel", "int4:group=32", "mxfp4", "keep"])
def test_headers_say_what_packed_weights_need(weights: str, tiny_llama: Path, tmp_path: Path) -> None:
    pack(open_source(tiny_llama), tmp_path, weights, lambda *_: None)
    agree(tmp_path)


def test_too_little_is_refused_without_torch(tiny_gguf: Path) -> None:
    """A second from the start of the interpreter; torch alone takes longer to import on most computers."""
    code = (
        "import sys\nfrom tierline.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    command = [sys.executable, "-c", code, "run", str(tiny_gguf), "t3", "--resident", "1KiB"]
    started_s = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert time.perf_counter() - started_s < 2
    assert done.returncode == 2, done.stderr
    needs = needs_by_header(open_source(tiny_gguf))
    assert needs is not None
    assert done.stderr.endswith(f"Give --resident {needs.least_bytes}B or more\n")


def test_memory_is_refused_at_once_by_what_is_usual_and_then_by_what_was_seen(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = open_source(tiny_llama)
    with pytest.raises(BudgetError, match=r"takes 349\.0 MiB without weights"):
        refuse_at_once(source, resident=None, memory=300 * MIB)
    remember_reserve(source, 401 * MIB, Held(290 * MIB, 103 * MIB))
    remember_reserve(source, 409 * MIB, Held(290 * MIB, 111 * MIB))
    assert known_library_bytes(source) == 103 * MIB
    with pytest.raises(BudgetError, match=r"takes 401\.0 MiB without weights .* Give --memory 402MiB"):
        refuse_at_once(source, resident=None, memory=MIB)
    refuse_at_once(source, resident=None, memory=401 * MIB)  # near: a rehearsal decides
