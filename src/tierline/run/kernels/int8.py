"""Panels of int8: a scale for each row, or for each group of a row."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from tierline.models.packed_forms import SCALE_BYTES
from tierline.run.kernels.compiled_panels import CompiledPanels
from tierline.run.scratch import CHUNK_ELEMENTS

_ALIGNMENT_BYTES = 16  # passes of four rows and more crash on weights that start elsewhere


@dataclass(frozen=True, slots=True)
class Int8Panels:
    """int8 `[n, columns]`, then a bf16 scale for each row."""

    compiled: CompiledPanels | None = None

    @property
    def widest(self) -> int:
        """See Panels: of an 8192 x 2048 matrix 16 rows take 2.8 ms, and expanding for 17 takes 6.7."""
        return 32

    def row_bytes(self, columns: int) -> int:
        """See Panels."""
        return columns + SCALE_BYTES

    def tile(self, x: torch.Tensor, raw: memoryview, rows: int, panel_rows: int) -> torch.Tensor | None:
        """See Panels."""
        return None if self.compiled is None else self.compiled.int8(x, raw, rows, panel_rows)

    def parts(
        self, raw: memoryview, offset: int, shape: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See Panels."""
        weights, scales = _int8_parts(raw, offset, shape, shape[0])
        return weights.view(shape), scales

    def product(self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """See Panels."""
        return _int8_product(x, weights, scales)

    def wide(self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """See Panels: int8 is exact in bf16, so the scales can wait until after the product."""
        pieces = weights.split(max(1, CHUNK_ELEMENTS // weights.shape[1]))
        return torch.cat([functional.linear(x, w.to(x.dtype)) for w in pieces], dim=-1) * scales

    def pieces(self, weights: torch.Tensor, scales: torch.Tensor) -> Iterator[torch.Tensor]:
        """See Panels."""
        step = max(1, CHUNK_ELEMENTS // weights.shape[1])
        for some, by in zip(weights.split(step), scales.split(step), strict=True):
            yield some.to(scales.dtype) * by[:, None]


@dataclass(frozen=True, slots=True)
class Int8GroupPanels:
    """int8 `[columns / group, n, group]`, then bf16 scales `[columns / group, n]`: each group is a matrix.

    A product is the sum over groups, in fp32, of what the kernel makes of each.
    """

    group: int

    @property
    def widest(self) -> int:
        """See Panels."""
        return 0

    def row_bytes(self, columns: int) -> int:
        """See Panels."""
        return columns + columns // self.group * SCALE_BYTES

    def tile(self, x: torch.Tensor, raw: memoryview, rows: int, panel_rows: int) -> torch.Tensor | None:  # noqa: ARG002 - see Panels
        """See Panels: there is no such kernel for groups."""
        return None

    def parts(
        self, raw: memoryview, offset: int, shape: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See Panels."""
        rows, columns = shape
        groups = columns // self.group
        weights, scales = _int8_parts(raw, offset, shape, groups * rows)
        return weights.view(groups, rows, self.group), scales.view(groups, rows)

    def product(self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """See Panels."""
        total = torch.zeros(x.shape[0], weights.shape[1])
        for i, part in enumerate(x.split(self.group, dim=-1)):
            total += _int8_product(part.contiguous(), weights[i], scales[i])
        return total.to(x.dtype)

    def wide(self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """See Panels."""
        return torch.cat([functional.linear(x, piece) for piece in self.pieces(weights, scales)], dim=-1)

    def pieces(self, weights: torch.Tensor, scales: torch.Tensor) -> Iterator[torch.Tensor]:
        """See Panels."""
        groups, rows, group = weights.shape
        step = max(1, CHUNK_ELEMENTS // (groups * group))
        for start in range(0, rows, step):
            some, by = weights[:, start : start + step], scales[:, start : start + step]
            values = some.to(scales.dtype) * by.unsqueeze(-1)
            yield values.transpose(0, 1).reshape(-1, groups * group)


def _int8_parts(
    raw: memoryview, offset: int, shape: tuple[int, int], scales: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a panel's weights and its `scales` scales, flat."""
    elements = shape[0] * shape[1]
    weights = torch.frombuffer(raw, dtype=torch.int8, count=elements, offset=offset)
    return weights, torch.frombuffer(raw, dtype=torch.bfloat16, count=scales, offset=offset + elements)


def _int8_product(x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    if weights.data_ptr() % _ALIGNMENT_BYTES:  # panels of a file start where the kernel can read them
        weights = weights.clone()
    product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x, weights, scales)  # noqa: SLF001 - its only name
    return product
