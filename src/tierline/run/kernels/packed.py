"""Products straight from packed panels by torch's own CPU kernels; wide passes expand a piece at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch.nn import functional

from tierline.errors import InputError
from tierline.models.packed_layout import CPU_KEY, GROUP, INT4, PANEL_ROWS_OF, SCALE_BYTES
from tierline.run.scratch import CHUNK_ELEMENTS

# Measured on two cores with AVX512, an 8192 x 2048 matrix, ms at 16 rows and at 128: int8 2.2 and 15.4, int4
# 1.9 and 14.5, plain bf16 1.9 and 7.2. So from here on expanding and a plain product is the quicker way.
WIDEST_PASS = 16
_BLOCK_ROWS = PANEL_ROWS_OF[INT4]
_ALIGNMENT_BYTES = 16  # of int8 weights: passes of four rows and more crash on any other start
_INNER_TILES = 1  # an argument that the CPU's packing asks for and ignores


def refuse_other_cpu(metadata: Mapping[str, object], path: Path) -> None:
    """Raise InputError if the int4 panels of a file were packed for another kind of CPU than this one."""
    packed_for, here = metadata.get(CPU_KEY), torch.backends.cpu.get_cpu_capability()
    if packed_for is not None and packed_for != here:
        raise InputError(
            f"{path}: its int4 weights are packed for the kernels of {str(packed_for)[:40]}, and torch uses "
            f"those of {here} here: run `tierline pack` on this computer, from the original model"
        )


@dataclass(frozen=True, slots=True)
class Int8Kernel:
    """Panels of int8 `[n, columns]` followed by a bf16 scale for each row; compute is in bf16."""

    panel_rows: int

    def matmul(self, x: torch.Tensor, raw: memoryview, rows: int) -> torch.Tensor:
        """See Kernel."""
        x = x.contiguous()
        return _joined([_int8_product(x, w, s) for w, s in self._panels(raw, rows, x.shape[-1])])

    def expand(self, raw: memoryview, rows: int, columns: int) -> torch.Tensor:
        """See Kernel."""
        return torch.cat([w.to(s.dtype) * s[:, None] for w, s in self._panels(raw, rows, columns)])

    def _panels(
        self, raw: memoryview, rows: int, columns: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, rows, self.panel_rows):
            count = min(self.panel_rows, rows - start)
            at = start * (columns + SCALE_BYTES)
            weights = torch.frombuffer(raw, dtype=torch.int8, count=count * columns, offset=at)
            scales = torch.frombuffer(raw, dtype=torch.bfloat16, count=count, offset=at + count * columns)
            yield _aligned(weights).view(count, columns), scales


@dataclass(frozen=True, slots=True)
class Int4Kernel:
    """Panels of int4 in the CPU kernel's order followed by `[columns / 32, n, 2]` scales and zeros in bf16.

    An element is `(code - 8) * scale + zero`; compute is in bf16.
    """

    panel_rows: int

    def matmul(self, x: torch.Tensor, raw: memoryview, rows: int) -> torch.Tensor:
        """See Kernel."""
        x = x.contiguous()
        return _joined([_int4_product(x, p, s) for p, s in self._panels(raw, rows, x.shape[-1])])

    def expand(self, raw: memoryview, rows: int, columns: int) -> torch.Tensor:
        """See Kernel."""
        return torch.cat([w for p, s in self._panels(raw, rows, columns) for w in _int4_pieces(p, s)])

    def _panels(
        self, raw: memoryview, rows: int, columns: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, rows, self.panel_rows):
            count = min(self.panel_rows, rows - start)
            weight_bytes, scales = count * columns // 2, columns // GROUP * count * 2
            at = start * (columns // 2 + columns // GROUP * 2 * SCALE_BYTES)
            packed = torch.frombuffer(raw, dtype=torch.uint8, count=weight_bytes, offset=at)
            pairs = torch.frombuffer(raw, dtype=torch.bfloat16, count=scales, offset=at + weight_bytes)
            yield packed.view(count, columns // 2), pairs.view(columns // GROUP, count, 2)


def pack_int4(codes: torch.Tensor) -> torch.Tensor:
    """Return `codes` of shape `(n, columns)`, 0 to 15, in this CPU's order, shape `(n, columns / 2)`."""
    packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(  # noqa: SLF001 - its only name
        codes.to(torch.int32), _INNER_TILES
    )
    return packed.view(codes.shape[0], -1)


def _aligned(weights: torch.Tensor) -> torch.Tensor:
    """Return the weights, copied if they do not start where the kernel can read them (files' panels do)."""
    return weights.clone() if weights.data_ptr() % _ALIGNMENT_BYTES else weights


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _int8_product(x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    if x.shape[0] <= WIDEST_PASS:
        product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x, weights, scales)  # noqa: SLF001
        return product
    # int8 is exact in bf16, so the scales can wait until after the product.
    step = max(1, CHUNK_ELEMENTS // weights.shape[1])
    return _joined([functional.linear(x, w.to(x.dtype)) for w in weights.split(step)]) * scales


def _int4_product(x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    if x.shape[0] <= WIDEST_PASS:
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(  # noqa: SLF001
            x, packed, GROUP, pairs
        )
        return product
    return _joined([functional.linear(x, w) for w in _int4_pieces(packed, pairs)])


def _int4_pieces(packed: torch.Tensor, pairs: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the rows of one panel expanded to bf16, a few of the kernel's blocks at a time."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    block = _block_rows()
    step = max(1, CHUNK_ELEMENTS // (block * columns)) * block
    whole = rows // block * block
    cuts = [*range(0, whole, step), whole, *([rows] if rows > whole else [])]
    for start, stop in pairwise(cuts):
        codes = _codes(packed[start:stop], min(block, stop - start)).view(stop - start, -1, GROUP)
        scale, zero = pairs[:, start:stop].float().permute(2, 1, 0).unsqueeze(-1).unbind(0)
        values = codes.float().sub_(8).mul_(scale).add_(zero)
        yield values.view(stop - start, columns).to(pairs.dtype)


def _codes(packed: torch.Tensor, block_rows: int) -> torch.Tensor:
    """Return the codes of whole blocks, row by row, as uint8: a block lies column by column."""
    columns = packed.shape[1] * 2
    blocks = packed.reshape(-1, columns, block_rows // 2)
    nibbles = torch.stack((blocks & 15, blocks >> 4), dim=-1).view(-1, columns, block_rows)
    return nibbles.index_select(2, _places(block_rows)).transpose(1, 2).reshape(-1, columns)


@lru_cache(maxsize=1)
def _block_rows() -> int:
    """Return how many rows this CPU's kernel interleaves: 64 with AVX512, half of that elsewhere."""
    half = _BLOCK_ROWS // 2
    codes = torch.arange(_BLOCK_ROWS).unsqueeze(1).expand(_BLOCK_ROWS, GROUP) & 15
    apart = torch.cat([pack_int4(codes[:half]), pack_int4(codes[half:])])
    return half if torch.equal(pack_int4(codes), apart) else _BLOCK_ROWS


@lru_cache(maxsize=4)
def _places(block_rows: int) -> torch.Tensor:
    """Return where in a column of a block each row's nibble is, learned by packing the rows' numbers."""
    rows = torch.arange(block_rows).unsqueeze(1).expand(block_rows, GROUP)
    low, high = (pack_int4(digit).view(GROUP, -1)[0] for digit in (rows & 15, rows >> 4))
    numbers = torch.stack(((low & 15) + (high & 15) * 16, (low >> 4) + (high >> 4) * 16), dim=-1)
    return numbers.reshape(-1).argsort()
