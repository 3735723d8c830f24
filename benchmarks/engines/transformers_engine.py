"""transformers, all weights mapped from the file, or offloaded to disk by accelerate, or airllm's own.

Usage: transformers_engine.py MODEL TOKENS TARGET mmap | offload CPU_BYTES FOLDER | airllm FOLDER
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from steps import Steps
from transformers import AutoModelForCausalLM

_PROMPT = [[1, 3, 4, 5]]


class Clock:
    """A streamer that notes tokens; the prompt comes first and is none."""

    def __init__(self, steps: Steps) -> None:
        self._steps, self._seen = steps, False

    def put(self, _: torch.Tensor) -> None:
        """Note a token."""
        if self._seen:
            self._steps.note()
        self._seen = True

    def end(self) -> None:
        """Nothing is left to do at the end."""


def mapped(model: str) -> Any:  # noqa: ANN401 - whatever model it is
    """Return the model with its weights in the page cache."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)


def offloaded(model: str, cpu_bytes: str, folder: str) -> Any:  # noqa: ANN401 - whatever model it is
    """Return the model with what exceeds `cpu_bytes` left on disk, fetched by accelerate's hooks."""
    return AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.bfloat16, device_map="auto", max_memory={"cpu": int(cpu_bytes)},
        offload_folder=folder,
    )  # fmt: skip


def layered(model: str, folder: str) -> Any:  # noqa: ANN401 - whatever model it is
    """Return airllm's model, its layers split into files in `folder`."""
    from airllm import AutoModel

    return AutoModel.from_pretrained(model, device="cpu", layer_shards_saving_path=folder)


_LOADERS: dict[str, Callable[..., Any]] = {"mmap": mapped, "offload": offloaded, "airllm": layered}


def main() -> None:
    """Load, complete a prompt of four tokens, write what each token took."""
    model, tokens, target, kind, *rest = sys.argv[1:]
    torch.set_num_threads(2)
    loaded = _LOADERS[kind](model, *rest)
    steps = Steps()
    count = int(tokens)
    with torch.inference_mode():
        steps.begin()
        loaded.generate(
            torch.tensor(_PROMPT), max_new_tokens=count, min_new_tokens=count, do_sample=False,
            streamer=Clock(steps),
        )  # fmt: skip
    package = {"mmap": "transformers", "offload": "accelerate", "airllm": "airllm"}[kind]
    steps.write(target, version=version(package))


if __name__ == "__main__":
    main()
