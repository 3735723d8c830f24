"""Formats made of packed elements with a scale per tensor, per row or per group of a row."""

from dataclasses import dataclass
from fractions import Fraction

from tierline.formats.format import matrix_view


@dataclass(frozen=True, slots=True)
class Packed:
    """Elements packed row by row, `pack_elements` of them into `pack_bytes`, with scales beside them.

    `group` elements of a row share `group_bits` of scale and zero point; a last partial group has its own.
    `group` 0 means one group per row. `padded` says that a last partial group is stored at full length.
    `tensor_bytes` are stored once per tensor. Packed rows and the scales of a row start at whole bytes.
    """

    name: str
    source: str
    pack_elements: int
    pack_bytes: int
    group: int = 0
    group_bits: int = 0
    padded: bool = False
    tensor_bytes: int = 0

    @property
    def bits_per_element(self) -> Fraction:
        """Bits per element of a long row, scales of groups included."""
        scales = Fraction(self.group_bits, self.group) if self.group else Fraction(0)
        return Fraction(8 * self.pack_bytes, self.pack_elements) + scales

    def footprint_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of all rows, their scales, and what the tensor has once; 0 if it is empty."""
        rows, columns = matrix_view(shape)
        if rows * columns == 0:
            return 0
        groups = ceil_div(columns, self.group) if self.group else 1
        stored = groups * self.group if self.padded else columns
        row_bytes = ceil_div(stored, self.pack_elements) * self.pack_bytes
        return rows * (row_bytes + ceil_div(groups * self.group_bits, 8)) + self.tensor_bytes


def ceil_div(count: int, size: int) -> int:
    """Return how many things of `size` hold `count`."""
    return -(-count // size)
