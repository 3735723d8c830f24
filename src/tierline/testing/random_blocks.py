"""Random weights in GGUF's block types: every code, and scales that give values of about one size."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tierline.formats.ggml import GgmlBlocks, ggml_blocks

Bytes = npt.NDArray[np.uint8]
_SAMPLED = 512
# Where a block has its fp16 scale; where that of its minimum, if it has one, and how many times the scale
# it has to be for values around 0 (the mean code, with the sign in which it is added).
_SCALES: Mapping[str, tuple[int, int | None, float]] = MappingProxyType(
    {
        "q4_0": (0, None, 0.0),
        "q4_1": (0, 2, -7.5),
        "q5_0": (0, None, 0.0),
        "q5_1": (0, 2, -15.5),
        "q8_0": (0, None, 0.0),
        "q2_k": (80, 82, 1.5),
        "q3_k": (108, None, 0.0),
        "q4_k": (0, 2, 7.5),
        "q5_k": (0, 2, 15.5),
        "q6_k": (208, None, 0.0),
    }
)


def random_blocks(name: str, count: int, generator: np.random.Generator, deviation: float) -> Bytes:
    """Return `count` blocks of the type `name`, shape `(count, bytes of a block)`.

    Their values have a standard deviation of about `deviation` and a mean near 0. Raises KeyError for a type
    whose blocks have no fp16 scale. Needs the gguf package.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    blocks = ggml_blocks()[name]
    sample = _scaled(blocks, min(count, _SAMPLED), generator, 1.0)
    spread = float(dequantize(sample, GGMLQuantizationType(blocks.type_id)).std())
    return _scaled(blocks, count, generator, deviation / spread)


def _scaled(blocks: GgmlBlocks, count: int, generator: np.random.Generator, scale: float) -> Bytes:
    at, minimum_at, times = _SCALES[blocks.name]
    packed = generator.integers(0, 256, (count, blocks.block_bytes), dtype=np.uint8)
    scales = (scale * generator.uniform(0.5, 1.5, (count, 1))).astype(np.float16)
    packed[:, at : at + 2] = scales.view(np.uint8)
    if minimum_at is not None:
        packed[:, minimum_at : minimum_at + 2] = (scales * np.float16(times)).view(np.uint8)
    return packed
