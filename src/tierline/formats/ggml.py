"""GGUF's block types, in the sizes of the gguf package (copied by `_generate.py`: plans need no gguf)."""

import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files

from tierline.errors import InputError
from tierline.formats.format import Format, matrix_view
from tierline.formats.plain import PLAIN

# Types that hold one number per block have our own names; where a name means two layouts, GGUF's is prefixed.
_PLAIN_NAMES = {
    "F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip
_PREFIXED = ("MXFP4", "NVFP4")


@dataclass(frozen=True, slots=True)
class GgmlBlocks:
    """Blocks of `block_elements` of a row in `block_bytes`, scales inside; rows must divide evenly."""

    name: str
    type_id: int
    block_elements: int
    block_bytes: int
    source: str = "ggml"

    @property
    def bits_per_element(self) -> Fraction:
        """Bits per element, scales included."""
        return Fraction(8 * self.block_bytes, self.block_elements)

    def divides(self, columns: int) -> bool:
        """Return whether a row of `columns` elements can be stored in this type."""
        return columns % self.block_elements == 0

    def footprint_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of all blocks; raise InputError where a row is no whole number of them."""
        rows, columns = matrix_view(shape)
        if not self.divides(columns):
            raise InputError(
                f"{self.name} stores rows of whole blocks of {self.block_elements} elements, but shape "
                f"{list(shape)} has rows of {columns}. Give weights like these another format with --keep, "
                f"or all a GGUF mix such as q4_k_m, which falls back; caches and activations take q8_0"
            )
        return rows * columns // self.block_elements * self.block_bytes


@cache
def ggml_types() -> dict[int, Format]:
    """Return every GGUF tensor type by its number in the file. Do not modify the result."""
    table = json.loads((files("tierline") / "data" / "ggml_types.json").read_text("utf-8"))["types"]
    return {row["id"]: _format(row) for row in table}


@cache
def ggml_blocks() -> dict[str, GgmlBlocks]:
    """Return GGUF's block types by name. Do not modify the result."""
    return {f.name: f for f in ggml_types().values() if isinstance(f, GgmlBlocks)}


def ggml_type(type_id: int) -> Format:
    """Return the format of the GGUF tensor type with this number; raise InputError if there is none."""
    try:
        return ggml_types()[type_id]
    except KeyError:
        raise InputError(f"unknown GGUF tensor type {type_id}: known are {sorted(ggml_types())}") from None


def _format(row: dict[str, int | str]) -> Format:
    name = str(row["name"])
    if name in _PLAIN_NAMES:
        return PLAIN[_PLAIN_NAMES[name]]
    ours = ("ggml_" if name in _PREFIXED else "") + name.lower()
    return GgmlBlocks(ours, int(row["id"]), int(row["block_elements"]), int(row["block_bytes"]))
