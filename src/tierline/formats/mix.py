"""llama.cpp's mixes: `q4_k_m` and its kin choose a block type for each tensor.

The rule is that of `llama_tensor_get_type` and its fallback in llama.cpp's src/llama-quant.cpp, without an
importance matrix; it is applied to every component, as llama.cpp does for the decoder.
"""

from dataclasses import dataclass

from tierline.formats.format import Format
from tierline.formats.ggml import GgmlBlocks, ggml_blocks
from tierline.formats.plain import FP16, FP32
from tierline.formats.weight import Weight

# Where a row does not divide into blocks of 256, the type with blocks of 32 that stands in.
_FALLBACKS = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
_FALLBACKS |= {"tq1_0": "q4_0", "tq2_0": "q4_0", "iq4_xs": "iq4_nl"}
# What the GGUF converter leaves as numbers: vectors and norms, router, positions, state-space parameters.
_UNQUANTISED = ("norms", "biases", "router", "positions", "state")


@dataclass(frozen=True, slots=True)
class Mix:
    """A rule that gives each weight tensor a format; `base` is the block type of most tensors."""

    name: str
    base: str
    source: str = "llama-quant"

    def format_of(self, weight: Weight) -> Format:
        """Return the format that llama.cpp's rule gives this tensor."""
        wanted = self._wanted(weight)
        if wanted is None or not self.needs_fallback(weight):
            return wanted or (FP16 if weight.kind == "conv" else FP32)
        if weight.kind == "head" or weight.tied:
            return _fitting("q8_0", weight)
        return _fitting(_FALLBACKS.get(wanted.name, ""), weight)

    def needs_fallback(self, weight: Weight) -> bool:
        """Return whether the tensor should have blocks that its rows do not divide into."""
        wanted = self._wanted(weight)
        return wanted is not None and not wanted.divides(_row(weight))

    def _wanted(self, weight: Weight) -> GgmlBlocks | None:
        """Return the block type before rows are looked at, or None where nothing is quantised."""
        if len(weight.shape) < 2 or weight.kind in _UNQUANTISED or weight.kind == "conv":
            return None
        return ggml_blocks()[self.base]


def _row(weight: Weight) -> int:
    return weight.shape[-1] if weight.shape else 1


def _fitting(name: str, weight: Weight) -> Format:
    """Return the fallback type, or fp16 where not even that divides the rows."""
    blocks = ggml_blocks().get(name)
    return blocks if blocks is not None and blocks.divides(_row(weight)) else FP16


MIXES: dict[str, Mix] = {
    "q4_0": Mix("q4_0", "q4_0"),
    "q4_1": Mix("q4_1", "q4_1"),
    "q8_0": Mix("q8_0", "q8_0"),
}
