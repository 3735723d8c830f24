"""What every number format answers, and how a tensor is cut into rows.

Blocks and groups run along the last dimension, which is the input of a linear layer. A tensor of one
dimension is one row; a convolution kernel (out, in, kh, kw) is `out` rows of in x kh x kw, since that is the
order in which it is multiplied; fused experts (experts, out, in) are that many matrices.
"""

from fractions import Fraction
from math import prod
from typing import Protocol

from tierline.errors import InputError


class Format(Protocol):
    """A number format. Implementations are frozen and hashable, so that costs can be cached by format.

    `name` is canonical: `parse_format(f.name) == f`. `source` is a key of `data/sources/formats.toml`.
    """

    @property
    def name(self) -> str:
        """The canonical name, options included."""

    @property
    def source(self) -> str:
        """Where the layout is defined."""

    @property
    def bits_per_element(self) -> Fraction:
        """Bits per element of a long row that divides evenly, scales of blocks and groups included.

        What is stored once per row or once per tensor vanishes in that limit and is not counted.
        """

    def footprint_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the exact bytes of one tensor of `shape`, scales and padding included."""


def matrix_view(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (rows, columns) of a vector, a matrix or a convolution kernel.

    Raises InputError for a negative dimension.
    """
    if any(n < 0 for n in shape):
        raise InputError(f"a tensor cannot have shape {shape}: dimensions are 0 or more")
    if len(shape) < 2:
        return 1, prod(shape)
    return shape[0], prod(shape[1:])


def footprint_bytes(number_format: Format, shape: tuple[int, ...], kind: str = "") -> int:
    """Return the bytes of a tensor of class `kind`, of which only `experts` differs from the others.

    Fused experts (experts, out, in) are stored as one matrix each, with scales of their own.
    """
    if kind == "experts" and len(shape) > 2:
        return prod(shape[:-2]) * number_format.footprint_bytes(shape[-2:])
    return number_format.footprint_bytes(shape)
