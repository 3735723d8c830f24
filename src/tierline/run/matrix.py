"""A stored matrix as compute sees it: tiles that are pinned or come through staging, one kernel for both."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from tierline.errors import InputError
from tierline.models.packed_layout import row_parts
from tierline.models.stored import StoredTensor
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory
from tierline.run.kernels import Kernel
from tierline.run.needs import row_buffer_bytes
from tierline.run.staging import Staging
from tierline.run.tiles import Tile


class Home(Protocol):
    """Where a tile's bytes come from whenever compute uses it."""

    @property
    def tile(self) -> Tile:
        """Which tile."""
        ...

    def borrow(self) -> AbstractContextManager[memoryview]:
        """Lend the tile's bytes until the block ends."""
        ...


@dataclass(frozen=True, slots=True)
class PinnedTile:
    """A tile that stays in memory."""

    tile: Tile
    data: memoryview

    def borrow(self) -> AbstractContextManager[memoryview]:
        """Lend the bytes, as a streamed tile does."""
        return nullcontext(self.data)


@dataclass(frozen=True, slots=True)
class StreamedTile:
    """A tile that is read on every pass: its place in the cycle is `index`."""

    tile: Tile
    index: int
    staging: Staging

    def borrow(self) -> AbstractContextManager[memoryview]:
        """Lend the bytes until the block ends; wait for them if they are not there yet."""
        return self.staging.borrow(self.index)


@dataclass(frozen=True, slots=True)
class Matrix:
    """All tiles of one stored matrix, in row order."""

    tensor: StoredTensor
    tiles: Sequence[Home]
    kernel: Kernel

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x @ W.T`, shape `(..., rows)`, for `x` of shape `(..., columns)`, tile by tile."""
        flat = x.reshape(-1, x.shape[-1])
        parts = [self._tile_matmul(flat, home) for home in self.tiles]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return out.view(*x.shape[:-1], -1)

    def matmul_rows(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x @ W`, shape `(..., columns)`, for `x` of shape `(..., rows)`: a sum over tiles."""
        flat = x.reshape(-1, x.shape[-1])
        out = x.new_zeros(flat.shape[0], self.tensor.shape[1])
        for home in self.tiles:
            start, stop = home.tile.start, home.tile.stop
            with home.borrow() as raw:
                out += flat[:, start:stop] @ self.kernel.expand(raw, stop - start, self.tensor.shape[1])
        return out.view(*x.shape[:-1], -1)

    def _tile_matmul(self, flat: torch.Tensor, home: Home) -> torch.Tensor:
        with home.borrow() as raw:
            return self.kernel.matmul(flat, raw, home.tile.stop - home.tile.start)


class RowTable:
    """A stored matrix used row by row (an input embedding): only the rows asked for are read."""

    def __init__(self, matrix: Matrix, file: DirectFile, check: Callable[[int], None] | None = None) -> None:
        """Call `check` with each row before it is read from the file."""
        self._matrix, self._file, self._check = matrix, file, check
        self._buffer = anonymous_memory(row_buffer_bytes(matrix.tensor))
        self.read_bytes = 0

    def rows(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a table of the distinct rows at `indices`, in the compute dtype, and the indices into it.

        Raises InputError for an index that the table does not have.
        """
        unique, places = torch.unique(indices, return_inverse=True)
        first, last, rows = int(unique[0]), int(unique[-1]), self._matrix.tensor.shape[0]
        if first < 0 or last >= rows:
            raise InputError(
                f"{self._matrix.tensor.name} has {rows:,} rows, but row {last if last >= rows else first} "
                "is asked for: the prompt does not fit the model (another tokenizer, or too many positions)"
            )
        columns = self._matrix.tensor.shape[1]
        found = [self._matrix.kernel.expand(self._row(i), 1, columns) for i in unique.tolist()]
        return torch.cat(found), places

    def _row(self, row: int) -> memoryview:
        """Return the stored bytes of one row, pinned or read from the disk."""
        home = next((h for h in self._matrix.tiles if h.tile.start <= row < h.tile.stop), None)
        parts = row_parts(self._matrix.tensor, row)
        if isinstance(home, PinnedTile):
            at = home.tile.offset
            return memoryview(bytearray().join(home.data[o - at : o - at + count] for o, count in parts))
        if self._check is not None:
            self._check(row)
        return memoryview(bytearray().join(self._read(row, offset, count) for offset, count in parts))

    def _read(self, row: int, offset: int, footprint_bytes: int) -> bytes:
        extract = Extract(f"{self._matrix.tensor.name}[{row}]", offset, footprint_bytes)
        self.read_bytes += self._file.span_bytes(extract)
        return bytes(self._file.read(extract, self._buffer))
