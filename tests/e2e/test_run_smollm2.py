"""SmolLM2-135M-Instruct, for real: streamed equals resident, and resident equals transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from tierline.run.report import RunReport
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.source import open_source
from tierline.units import parse_bytes

PROMPTS = (
    "What is the capital of France?",
    "Write a haiku about rivers.",
    "Explain why the sky is blue in two sentences.",
    "List three prime numbers greater than 100.",
    "def fibonacci(n):",
)
NEW = 64

# Two minutes on a quiet machine of two cores; a busy neighbour makes it several times slower.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def nothing(*_: object) -> None:
    """Ignore progress and text."""


def answers(path: Path, resident: str | None) -> list[RunReport]:
    found = []
    for text in PROMPTS:
        with Session(
            open_source(path), resident=None if resident is None else parse_bytes(resident), memory=None
        ) as session:
            found.append(session.answer(Request(text, new=NEW), progress=nothing, emit=nothing))
    return found


def reference(path: Path) -> list[Sequence[int]]:
    """Return the tokens of transformers' own load of the file, expanded to fp32 with the same attention."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        attn_implementation="sdpa",
    )
    tokenizer: Any = open_source(path).tokenizer()
    found: list[Sequence[int]] = []
    for text in PROMPTS:
        made = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        out = model.generate(**made, max_new_tokens=NEW, do_sample=False)
        found.append(tuple(out[0, made["input_ids"].shape[1] :].tolist()))
    return found


def test_streamed_equals_resident_equals_transformers(smollm2_gguf: Path) -> None:
    resident = answers(smollm2_gguf, None)
    streamed = answers(smollm2_gguf, "44MiB")
    assert [r.token_ids for r in streamed] == [r.token_ids for r in resident]
    assert [r.token_ids for r in resident] == reference(smollm2_gguf)
    for report in streamed:
        assert report.weights_resident_peak_bytes <= parse_bytes("44MiB")
        assert report.read_bytes_per_token == pytest.approx(report.prediction.read_bytes, rel=0.01)
    assert "Paris" in streamed[0].text


EDIT = """Rename the function average to mean in this Python code and change nothing else.
Answer with the whole code.

```python
def average(numbers):
    total = 0
    for number in numbers:
        total = total + number
    return total / len(numbers)

def print_report(name, numbers):
    print("Report for", name)
    print("The average is", average(numbers))
    print("The number of values is", len(numbers))
    for number in numbers:
        print("Value:", number)
```"""


def test_guesses_pay_where_code_is_edited_and_change_nothing(smollm2_gguf: Path) -> None:
    found = []
    for speculate in (0, 8):
        with Session(open_source(smollm2_gguf), resident=parse_bytes("44MiB"), memory=None) as session:
            request = Request(EDIT, new=96, speculate=speculate)
            found.append(session.answer(request, progress=nothing, emit=nothing))
    greedy, guessed = found
    assert guessed.token_ids == greedy.token_ids
    assert guessed.tokens_per_pass is not None
    assert guessed.tokens_per_pass >= 1.5
