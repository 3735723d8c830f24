"""Weights in blocks (GGUF's, MX, halves computed in fp32), expanded a piece at a time."""

import torch
from torch.nn import functional

from tierline.run.kernels.compiled import COMPILED, WIDEST, Compiled
from tierline.run.kernels.expansions import Blocks
from tierline.run.scratch import CHUNK_ELEMENTS


class BlockKernel:
    """Blocks expanded a piece at a time when they are used, and never kept expanded.

    With the compiled kernels a narrow pass multiplies block by block, in registers; a wide one, and all
    passes without them, expands a chunk into `scratch` (fp32 or bf16, the compute dtype) and multiplies that.
    """

    def __init__(self, blocks: Blocks, scratch: torch.Tensor, compiled: Compiled | None) -> None:
        self._blocks, self._scratch, self._compute = blocks, scratch, scratch.dtype
        self._compiled = compiled if blocks.layout in COMPILED else None

    def matmul(self, x: torch.Tensor, raw: memoryview, rows: int) -> torch.Tensor:
        """See Kernel."""
        columns = x.shape[-1]
        packed = torch.frombuffer(raw, dtype=torch.uint8).view(rows, -1)
        if x.shape[0] <= WIDEST and self._compiled is not None and columns % self._blocks.elements == 0:
            return self._product(self._compiled, x, packed)
        step = max(1, CHUNK_ELEMENTS // columns)
        if rows <= step:
            return functional.linear(x, self._chunk(packed, columns))
        out = x.new_empty(x.shape[0], rows)
        for start in range(0, rows, step):
            chunk = self._chunk(packed[start : start + step], columns)
            out[:, start : start + step] = functional.linear(x, chunk)
        return out

    def expand(self, raw: memoryview, rows: int, columns: int) -> torch.Tensor:
        """See Kernel."""
        step = max(1, CHUNK_ELEMENTS // columns)
        packed = torch.frombuffer(raw, dtype=torch.uint8).view(rows, -1)
        out = torch.empty(rows, columns, dtype=self._compute)
        for start in range(0, rows, step):
            self._expand(packed[start : start + step], out[start : start + step])
        return out

    def _product(self, compiled: Compiled, x: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        rows, row_blocks = packed.shape[0], x.shape[-1] // self._blocks.elements
        wide = x.float().contiguous()
        return compiled.product(self._blocks.layout, packed, rows, row_blocks, wide).to(x.dtype)

    def _chunk(self, packed: torch.Tensor, columns: int) -> torch.Tensor:
        """Return the rows expanded; the result is valid until the next call."""
        elements = packed.shape[0] * columns
        scratch = self._scratch
        if elements > scratch.numel():  # a single row longer than a chunk
            scratch = torch.empty(elements, dtype=self._compute)
        return self._expand(packed, scratch[:elements].view(-1, columns))

    def _expand(self, packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Fill `out` of shape `(rows, columns)` with the values of `packed`, whole rows, and return it."""
        blocks = self._blocks
        count, rest = divmod(out.numel(), blocks.elements)
        if rest or out.shape[1] % blocks.elements:  # only halves come in rows of any length
            return blocks.expand(packed, out)
        if self._compiled is not None and out.dtype in (torch.float32, torch.bfloat16):
            self._compiled.expand(blocks.layout, packed, count, out)
            return out
        shaped = packed.view(count, blocks.block_bytes)
        if out.dtype == torch.float32:
            blocks.expand(shaped, out.view(count, blocks.elements))
            return out
        return out.copy_(blocks.expand(shaped, torch.empty(count, blocks.elements)).view_as(out))
