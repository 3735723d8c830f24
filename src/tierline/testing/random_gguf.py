"""Write a Llama as a GGUF file in one of llama.cpp's mixes with random weights, in bounded memory.

Example: python -m tierline.testing.random_gguf llama-3.2-1b q4_k_m /tmp/llama-3.2-1b.q4_k_m.gguf
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tierline.errors import InputError
from tierline.formats.format import Format
from tierline.formats.ggml import GgmlBlocks
from tierline.formats.mix import MIXES, Mix
from tierline.formats.weight import Weight
from tierline.models.catalogue import catalogue_entry
from tierline.models.config_reader import model_from_config
from tierline.models.description import Model, PlacedTensor
from tierline.models.fields import Fields
from tierline.testing.random_blocks import random_blocks
from tierline.testing.tiny import write_gguf_metadata

_DEFAULTS: Mapping[str, object] = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0},
}


def write_random_gguf(
    config: Mapping[str, object], mix: str, path: Path, *, seed: int = 0, deviation: float = 0.02
) -> Path:
    """Write the Llama that `config` (fields of its config.json) describes at `path`; return `path`.

    `mix` is a key of MIXES: llama.cpp's rule gives each tensor its type. Weights have a standard deviation
    of about `deviation`, norms are 1. Raises InputError for another architecture.
    """
    import gguf

    if config.get("model_type") != "llama":
        raise InputError(f"only a llama can be written, not {str(config.get('model_type'))[:40]!r}")
    model = model_from_config("random", Fields(config, "config"), "random")
    chosen = [(placed, _format(MIXES[mix], model, placed)) for placed in model.tensors() if _stored(placed)]
    depth = int(str(config["num_hidden_layers"]))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, depth)
    writer = gguf.GGUFWriter(path, "llama")
    write_gguf_metadata(writer, SimpleNamespace(**{**_DEFAULTS, **config}))
    for placed, number_format in chosen:
        shape, kind = placed.tensor.shape, _type(number_format)
        row_bytes = number_format.footprint_bytes(shape[-1:])
        stored = (*shape[:-1], row_bytes) if isinstance(number_format, GgmlBlocks) else shape
        writer.add_tensor_info(
            str(names.get_name(placed.name, (".weight",))),
            stored,
            np.dtype(np.uint8 if isinstance(number_format, GgmlBlocks) else np.float32),
            number_format.footprint_bytes(shape),
            raw_dtype=kind,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = np.random.default_rng(seed)
    for placed, number_format in chosen:
        writer.write_tensor_data(_values(placed, number_format, generator, deviation))
    writer.close()
    return path


def _stored(placed: PlacedTensor) -> bool:
    """Return whether the file holds the tensor: a tied head is its embedding."""
    return placed.tensor.in_file and not placed.tensor.alias_of


def _format(mix: Mix, model: Model, placed: PlacedTensor) -> Format:
    tied = {other.tensor.alias_of for other in model.tensors()}
    layers = 1 + max(other.layer.index for other in model.tensors())
    weight = Weight(
        placed.component,
        placed.tensor.kind,
        placed.name,
        placed.tensor.shape,
        layer=placed.layer.index,
        layers=layers,
        tied=placed.name in tied,
    )
    return mix.format_of(weight)


def _type(number_format: Format) -> Any:  # noqa: ANN401 - gguf's own enumeration
    import gguf

    if isinstance(number_format, GgmlBlocks):
        return gguf.GGMLQuantizationType(number_format.type_id)
    return {"fp32": gguf.GGMLQuantizationType.F32, "fp16": gguf.GGMLQuantizationType.F16}[number_format.name]


def _values(
    placed: PlacedTensor, number_format: Format, generator: np.random.Generator, deviation: float
) -> npt.NDArray[np.generic]:
    shape = placed.tensor.shape
    if isinstance(number_format, GgmlBlocks):
        count = int(np.prod(shape)) // number_format.block_elements
        return random_blocks(number_format.name, count, generator, deviation).reshape(*shape[:-1], -1)
    if placed.tensor.kind == "norms":
        return np.ones(shape, dtype=np.float32)
    values = generator.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
    return values.astype(np.float16 if number_format.name == "fp16" else np.float32)


if __name__ == "__main__":
    write_random_gguf(catalogue_entry(sys.argv[1]).config.values, sys.argv[2], Path(sys.argv[3]))
