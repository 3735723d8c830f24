"""Panels of int4 in the order of this CPU's kernel, which is learned by packing numbers and looking."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch.nn import functional

from tierline.models.packed_forms import FORMS, INT4, SCALE_BYTES
from tierline.run.kernels.compiled_panels import INT4_BLOCK_ROWS, CompiledPanels
from tierline.run.scratch import CHUNK_ELEMENTS

BLOCK_ROWS = FORMS[INT4].panel_rows
_LEAST_GROUP = 32
_INNER_TILES = 1  # an argument that the CPU's packing asks for and ignores


@dataclass(frozen=True, slots=True)
class Int4Panels:
    """int4 in the CPU kernel's order, then `[columns / group, n, 2]` scales and zeros in bf16.

    An element is `(code - 8) * scale + zero`.
    """

    group: int
    compiled: CompiledPanels | None = None

    @property
    def widest(self) -> int:
        """See Panels: of an 8192 x 2048 matrix 16 rows take 2.4 ms, and expanding for 128 takes 55."""
        return 256

    def row_bytes(self, columns: int) -> int:
        """See Panels."""
        return columns // 2 + columns // self.group * 2 * SCALE_BYTES

    def tile(self, x: torch.Tensor, raw: memoryview, rows: int, panel_rows: int) -> torch.Tensor | None:
        """See Panels."""
        if self.compiled is None or _block_rows() != INT4_BLOCK_ROWS:
            return None
        last = rows % panel_rows or panel_rows
        odd = min(rows, last) if last % INT4_BLOCK_ROWS else 0
        whole, columns = rows - odd, x.shape[-1]
        found = self.compiled.int4(x, raw, whole, panel_rows, self.group) if whole else None
        if not odd or found is None:
            return found
        # Panel by panel, so that a panel's bits do not depend on what else is in its tile.
        rest = self.product(x, *self.parts(raw, whole * self.row_bytes(columns), (odd, columns)))
        return torch.cat((found, rest), dim=-1)

    def parts(
        self, raw: memoryview, offset: int, shape: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See Panels."""
        rows, columns = shape
        packed = torch.frombuffer(raw, dtype=torch.uint8, count=rows * columns // 2, offset=offset)
        count, at = columns // self.group * rows * 2, offset + rows * columns // 2
        pairs = torch.frombuffer(raw, dtype=torch.bfloat16, count=count, offset=at)
        return packed.view(rows, columns // 2), pairs.view(columns // self.group, rows, 2)

    def product(self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """See Panels."""
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(  # noqa: SLF001 - its only name
            x, weights, self.group, scales
        )
        return product

    def wide(self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """See Panels."""
        return torch.cat([functional.linear(x, piece) for piece in self.pieces(weights, scales)], dim=-1)

    def pieces(self, weights: torch.Tensor, scales: torch.Tensor) -> Iterator[torch.Tensor]:
        """See Panels."""
        rows, columns = weights.shape[0], weights.shape[1] * 2
        block = _block_rows()
        step = max(1, CHUNK_ELEMENTS // (block * columns)) * block
        whole = rows // block * block
        cuts = [*range(0, whole, step), whole, *([rows] if rows > whole else [])]
        for start, stop in pairwise(cuts):
            codes = _codes(weights[start:stop], min(block, stop - start)).view(stop - start, -1, self.group)
            scale, zero = scales[:, start:stop].float().permute(2, 1, 0).unsqueeze(-1).unbind(0)
            values = codes.float().sub_(8).mul_(scale).add_(zero)
            yield values.view(stop - start, columns).to(scales.dtype)


def pack_int4(codes: torch.Tensor) -> torch.Tensor:
    """Return `codes` of shape `(n, columns)`, 0 to 15, in this CPU's order, shape `(n, columns / 2)`."""
    packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(  # noqa: SLF001 - its only name
        codes.to(torch.int32), _INNER_TILES
    )
    return packed.view(codes.shape[0], -1)


def _codes(packed: torch.Tensor, block_rows: int) -> torch.Tensor:
    """Return the codes of whole blocks, row by row, as uint8: a block lies column by column."""
    columns = packed.shape[1] * 2
    blocks = packed.reshape(-1, columns, block_rows // 2)
    nibbles = torch.stack((blocks & 15, blocks >> 4), dim=-1).view(-1, columns, block_rows)
    return nibbles.index_select(2, _places(block_rows)).transpose(1, 2).reshape(-1, columns)


@lru_cache(maxsize=1)
def _block_rows() -> int:
    """Return how many rows this CPU's kernel interleaves: 64 with AVX512, half of that elsewhere."""
    half = BLOCK_ROWS // 2
    codes = torch.arange(BLOCK_ROWS).unsqueeze(1).expand(BLOCK_ROWS, _LEAST_GROUP) & 15
    apart = torch.cat([pack_int4(codes[:half]), pack_int4(codes[half:])])
    return half if torch.equal(pack_int4(codes), apart) else BLOCK_ROWS


@lru_cache(maxsize=4)
def _places(block_rows: int) -> torch.Tensor:
    """Return where in a column of a block each row's nibble is, learned by packing the rows' numbers."""
    rows = torch.arange(block_rows).unsqueeze(1).expand(block_rows, _LEAST_GROUP)
    low, high = (pack_int4(digit).view(_LEAST_GROUP, -1)[0] for digit in (rows & 15, rows >> 4))
    numbers = torch.stack(((low & 15) + (high & 15) * 16, (low >> 4) + (high >> 4) * 16), dim=-1)
    return numbers.reshape(-1).argsort()
