"""`tierline.load` on a tiny random model of each family: every split gives the bits of the resident model."""

import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, TextStreamer

import tierline
from tierline.errors import BudgetError, InputError
from tierline.testing.tiny import write_tokenizer

pytestmark = pytest.mark.usefixtures("brief_samples")
SHAPE: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 210,
}
# Family -> config class, and what it needs beyond SHAPE.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 7}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 12}),
    "gemma2": ("Gemma2Config", {"head_dim": 12, "sliding_window": 7}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 12, "sliding_window": 7}),
    "phi3": ("Phi3Config", {}),
    "gpt2": (
        "GPT2Config",
        {
            "n_embd": 48,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "num_key_value_heads": 4,
            "intermediate_size": 192,
        },
    ),
    "smollm3": ("SmolLM3Config", {}),
}
IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79, 3]])


# The others are built of the same parts: CI runs them among the slow tests.
QUICK = {"llama", "gemma3", "phi3", "gpt2"}


@pytest.fixture(
    scope="module",
    params=[
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(FAMILIES)
    ],
)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    name, changes = FAMILIES[request.param]
    torch.manual_seed(7)
    config = getattr(transformers, name)(**{**SHAPE, **changes})
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    write_tokenizer(folder, 211)
    return folder


@cache
def smallest(path: Path) -> int:
    with pytest.raises(BudgetError) as refused:
        tierline.load(path, resident=1, context=64)
    return int(str(refused.value).rpartition("--resident ")[2].partition("B")[0])


@cache
def logits(path: Path, resident: int | None) -> torch.Tensor:
    with tierline.load(path, resident=resident, context=64) as model, torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
        assert resident is None or model.weights_held_bytes <= resident
        return found


def test_every_split_gives_the_same_bits(checkpoint: Path) -> None:
    whole = logits(checkpoint, None)
    assert not whole.isnan().any()
    least = smallest(checkpoint)
    for budget in (least, least + 7_919, least + 40_009):
        assert torch.equal(logits(checkpoint, budget), whole)


def test_resident_agrees_with_transformers(checkpoint: Path) -> None:
    theirs: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = theirs(input_ids=IDS).logits
    torch.testing.assert_close(logits(checkpoint, None), expected, rtol=2e-2, atol=2e-2)


def test_generation_in_every_manner_matches_transformers_streamed(checkpoint: Path) -> None:
    theirs: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    batch = {"input_ids": IDS.repeat(2, 1), "attention_mask": torch.ones_like(IDS.repeat(2, 1))}
    manners: list[dict[str, Any]] = [
        {"do_sample": False},
        {"do_sample": False, "num_beams": 2},
        {"do_sample": True, "top_k": 5},
    ]
    with tierline.load(checkpoint, resident=None, context=64) as resident:
        wanted = [generated(resident, batch, manner) for manner in manners]
    with tierline.load(checkpoint, resident=smallest(checkpoint), context=64) as streamed:
        assert isinstance(streamed, type(theirs))
        assert [generated(streamed, batch, manner) for manner in manners] == wanted


def generated(model: Any, batch: dict[str, torch.Tensor], manner: dict[str, Any]) -> list[list[int]]:
    torch.manual_seed(11)
    out: list[list[int]] = model.generate(**batch, **manner, max_new_tokens=6).tolist()
    return out


def test_streamer_and_saving(tiny_llama: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    with tierline.load(tiny_llama, resident="400KiB") as model:
        ids = tokenizer("t3 t5", return_tensors="pt")
        model.generate(**ids, max_new_tokens=5, do_sample=False, streamer=TextStreamer(tokenizer))
        assert "t" in capsys.readouterr().out
        with pytest.raises(InputError, match="stay on disk"):
            model.save_pretrained(tmp_path)


@pytest.mark.parametrize("cycles", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_loads_leak_no_thread_and_no_descriptor(tiny_llama: Path, cycles: int) -> None:
    def held() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    tierline.load(tiny_llama, resident="400KiB", context=32).close()
    before = held()
    for _ in range(cycles):
        tierline.load(tiny_llama, resident="400KiB", context=32).close()
    assert held() == before


def test_a_token_beyond_the_room_kept_is_refused_under_a_memory_budget(tiny_llama: Path) -> None:
    from tierline.run.process_memory import resident_bytes

    allowed = resident_bytes() + 2**30
    ids = torch.full((1, 20), 3)
    with tierline.load(tiny_llama, memory=allowed, context=24) as model:
        model.generate(input_ids=ids, max_new_tokens=4, min_new_tokens=4)
        with pytest.raises(BudgetError, match="25 tokens in the cache would outgrow --memory"):
            model.generate(input_ids=ids, max_new_tokens=9, min_new_tokens=9)
