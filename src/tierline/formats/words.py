"""GPTQ and AWQ: integers packed into words of 32 bits, with fp16 scales and packed zero points per group."""

from dataclasses import dataclass
from fractions import Fraction

from tierline.formats.format import matrix_view
from tierline.formats.packed import ceil_div

_WORD_BITS, _WORD_BYTES = 32, 4
_SCALE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Words:
    """Weights of `bits` each in 32-bit words, `group` inputs sharing a scale and a zero point per output.

    GPTQ packs weights `along_input` and stores for each input the index of its group; AWQ packs them along
    the output. Both pack zero points along the output. A dimension that does not fill its last word is
    rounded up; both tools themselves refuse such layers and leave all but linear ones as they are.
    """

    name: str
    source: str
    bits: int
    group: int
    along_input: bool
    index_bytes: int

    @property
    def bits_per_element(self) -> Fraction:
        """Bits per element of a large matrix, scales and zero points included."""
        return self.bits + Fraction(8 * _SCALE_BYTES + self.bits, self.group)

    def footprint_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of weights, scales, zero points and group indices; 0 if the tensor is empty."""
        rows, columns = matrix_view(shape)
        if rows * columns == 0:
            return 0
        packed, other = (columns, rows) if self.along_input else (rows, columns)
        groups = ceil_div(columns, self.group)
        weights = other * self._words(packed)
        zeros = groups * self._words(rows)
        return (weights + zeros) * _WORD_BYTES + groups * rows * _SCALE_BYTES + columns * self.index_bytes

    def _words(self, count: int) -> int:
        return ceil_div(count * self.bits, _WORD_BITS)
