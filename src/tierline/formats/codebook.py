"""bitsandbytes' 4-bit formats (nf4, fp4): blocks of the flattened tensor, looked up in a table."""

from dataclasses import dataclass
from fractions import Fraction
from math import prod

from tierline.formats.packed import ceil_div

_TABLE_BYTES = 16 * 4
_NESTED_BLOCK = 256
_NESTED_TABLE_BYTES = 256 * 4
_OFFSET_BYTES = 4


@dataclass(frozen=True, slots=True)
class Codebook:
    """4-bit indices into a table of 16 fp32 values; each `block` elements share one scale.

    Blocks run over the flattened tensor, not along rows. The scale is fp32, or with `double` one byte that
    indexes a second table, 256 scales sharing one fp32, with one offset for the tensor. The tables count
    with every tensor, as checkpoints store them; the few bytes of JSON beside them do not.
    """

    name: str
    source: str
    block: int
    double: bool

    @property
    def bits_per_element(self) -> Fraction:
        """Bits per element of a large tensor, scales included."""
        scale_bits = 8 + Fraction(32, _NESTED_BLOCK) if self.double else 32
        return 4 + Fraction(scale_bits) / self.block

    def footprint_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of indices, scales, tables and offset; 0 if the tensor is empty."""
        elements = prod(shape)
        if elements == 0:
            return 0
        blocks = ceil_div(elements, self.block)
        indices = ceil_div(elements, 2) + _TABLE_BYTES
        if not self.double:
            return indices + 4 * blocks
        return indices + blocks + 4 * ceil_div(blocks, _NESTED_BLOCK) + _NESTED_TABLE_BYTES + _OFFSET_BYTES
