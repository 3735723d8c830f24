"""Write a model in its true shapes with random weights, in bounded memory.

Examples: python -m tierline.testing.random_model llama-3.2-1b /tmp/llama-3.2-1b
          python -m tierline.testing.random_model benchmarks/moe_2gb.json /tmp/moe
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tierline.models.catalogue import catalogue_entry
from tierline.models.config_reader import model_from_config
from tierline.models.fields import Fields, read_json
from tierline.models.stored import stored_parts
from tierline.testing.tiny import write_tokenizer

_ELEMENT_BYTES = 2
_CHUNK_ELEMENTS = 2**24
_SCALE = 0.02


class _Part(NamedTuple):
    name: str
    shape: tuple[int, ...]
    kind: str


def write_random_model(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the catalogue's decoder `name`, or the one of a config file, as `write_random` does."""
    path = Path(name)
    config = read_json(path) if path.suffix == ".json" else catalogue_entry(name).config.values
    return write_random(config, folder, seed)


def write_random(config: Mapping[str, object], folder: Path, seed: int = 0) -> Path:
    """Write the decoder of `config` as config.json, model.safetensors (bf16) and a tokenizer.

    Weights are normal with a standard deviation of 0.02, norms are 1, and embeddings have a deviation of 1,
    so that what a router chooses depends on the token and not on what all tokens have in common. Experts are
    stored apart where checkpoints of the family do so. Returns `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {**config, "bos_token_id": 1, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_tokenizer(folder, int(str(config["vocab_size"])))
    model = model_from_config(folder.name, Fields(config, str(folder)), str(folder))
    parts = [
        _Part(name, shape, placed.tensor.kind)
        for placed in model.tensors()
        if placed.tensor.in_file
        for name, shape in stored_parts(placed)
    ]
    with (folder / "model.safetensors").open("wb") as file:
        _write_header(file, parts)
        generator = np.random.default_rng(seed)
        for part in parts:
            _write_values(file, part, generator)
    return folder


def _write_header(file: BinaryIO, parts: list[_Part]) -> None:
    header: dict[str, object] = {}
    offset = 0
    for part in parts:
        end = offset + math.prod(part.shape) * _ELEMENT_BYTES
        header[part.name] = {"dtype": "BF16", "shape": list(part.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _write_values(file: BinaryIO, part: _Part, generator: np.random.Generator) -> None:
    left = math.prod(part.shape)
    while left:
        count = min(left, _CHUNK_ELEMENTS)
        if part.kind == "norms":
            values = np.ones(count, dtype=np.float32)
        else:
            scale = np.float32(1.0 if part.kind == "embeddings" else _SCALE)
            values = generator.standard_normal(count, dtype=np.float32) * scale
        # The upper half of a float32 is the bf16 below it.
        file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
        left -= count


if __name__ == "__main__":
    write_random_model(sys.argv[1], Path(sys.argv[2]))
