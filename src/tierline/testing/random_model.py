"""Write a model of the catalogue in its true shapes with random weights, in bounded memory.

Example: python -m tierline.testing.random_model llama-3.2-1b /tmp/llama-3.2-1b
"""

import json
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tierline.models.catalogue import catalogue_entry, catalogue_model
from tierline.models.description import PlacedTensor
from tierline.testing.tiny import write_tokenizer

_ELEMENT_BYTES = 2
_CHUNK_ELEMENTS = 2**24
_SCALE = 0.02


def write_random_model(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the catalogue's decoder `name` as config.json, model.safetensors (bf16) and a tokenizer.

    Weights are normal with a standard deviation of 0.02, norms are 1. Returns `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {**catalogue_entry(name).config.values, "bos_token_id": 1, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_tokenizer(folder, int(str(config["vocab_size"])))
    stored = [placed for placed in catalogue_model(name).tensors() if placed.tensor.in_file]
    with (folder / "model.safetensors").open("wb") as file:
        _write_header(file, stored)
        generator = np.random.default_rng(seed)
        for placed in stored:
            _write_values(file, placed, generator)
    return folder


def _write_header(file: BinaryIO, stored: list[PlacedTensor]) -> None:
    header: dict[str, object] = {}
    offset = 0
    for placed in stored:
        end = offset + placed.tensor.elements * _ELEMENT_BYTES
        header[placed.stored_name] = {
            "dtype": "BF16", "shape": list(placed.tensor.shape), "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _write_values(file: BinaryIO, placed: PlacedTensor, generator: np.random.Generator) -> None:
    left = placed.tensor.elements
    while left:
        count = min(left, _CHUNK_ELEMENTS)
        if placed.tensor.kind == "norms":
            values = np.ones(count, dtype=np.float32)
        else:
            values = generator.standard_normal(count, dtype=np.float32) * np.float32(_SCALE)
        # The upper half of a float32 is the bf16 below it.
        file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
        left -= count


if __name__ == "__main__":
    write_random_model(sys.argv[1], Path(sys.argv[2]))
