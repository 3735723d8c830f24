"""What a kernel is, and the plain one: elements that torch knows."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional


class Kernel(Protocol):
    """How weights of one stored format are used; a row is `columns` elements, as stored in the file."""

    def matmul(self, x: torch.Tensor, raw: memoryview, rows: int) -> torch.Tensor:
        """Return `x @ W.T` of shape `(n, rows)` for `x` of shape `(n, columns)` and the matrix in `raw`."""
        ...

    def expand(self, raw: memoryview, rows: int, columns: int) -> torch.Tensor:
        """Return the matrix in `raw` as a new tensor of shape `(rows, columns)` in the compute dtype."""
        ...


@dataclass(frozen=True, slots=True)
class DenseKernel:
    """Elements that torch knows: used in place where they have the compute dtype already."""

    stored: torch.dtype
    compute: torch.dtype

    def matmul(self, x: torch.Tensor, raw: memoryview, rows: int) -> torch.Tensor:
        """See Kernel."""
        return functional.linear(x, self.view(raw, rows, x.shape[-1]))

    def expand(self, raw: memoryview, rows: int, columns: int) -> torch.Tensor:
        """See Kernel."""
        return self._stored(raw, rows, columns).to(self.compute, copy=True)

    def view(self, raw: memoryview, rows: int, columns: int) -> torch.Tensor:
        """Return the matrix as `expand` does, where it lies if it has the compute dtype already."""
        return self._stored(raw, rows, columns).to(self.compute)

    def _stored(self, raw: memoryview, rows: int, columns: int) -> torch.Tensor:
        return torch.frombuffer(raw, dtype=self.stored, count=rows * columns).view(rows, columns)
