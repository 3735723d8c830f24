"""Cut a stored matrix into tiles of whole rows: what is pinned, read and computed as one."""

from collections.abc import Iterator
from dataclasses import dataclass

from tierline.models.stored import StoredTensor

SMALLEST_TILE_BYTES = 64 * 2**10
_LARGEST_TILE_BYTES = 16 * 2**20
_TILES_PER_BUDGET = 32  # a few of them are staging: nine tenths of a budget are left to pin


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows `start` to `stop` of a stored matrix, `footprint_bytes` at `offset` of its file."""

    tensor: StoredTensor
    start: int
    stop: int
    offset: int
    footprint_bytes: int

    @property
    def name(self) -> str:
        """The tensor's stored name and the rows."""
        return f"{self.tensor.name}[{self.start}:{self.stop}]"


def tile_limit(budget_bytes: int) -> int:
    """Return the most bytes of one tile: large reads are fast, but staging takes from what can be pinned."""
    return max(SMALLEST_TILE_BYTES, min(_LARGEST_TILE_BYTES, budget_bytes // _TILES_PER_BUDGET))


def tiles_of(tensor: StoredTensor, limit_bytes: int) -> Iterator[Tile]:
    """Yield `tensor` as tiles of at most `limit_bytes` (at least one row each), as equal as rows allow."""
    rows = tensor.shape[0]
    row_bytes = tensor.footprint_bytes // rows
    count = -(-rows // max(1, limit_bytes // row_bytes))
    for i in range(count):
        start, stop = rows * i // count, rows * (i + 1) // count
        yield Tile(tensor, start, stop, tensor.offset + start * row_bytes, (stop - start) * row_bytes)
