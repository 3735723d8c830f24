"""Cut a stored matrix into tiles of whole rows: what is pinned, read and computed as one."""

from collections.abc import Iterator
from dataclasses import dataclass

from tierline.models.stored import StoredTensor

SMALLEST_TILE_BYTES = 64 * 2**10
_LARGEST_TILE_BYTES = 2 * 2**20  # docs/decisions/015-reads-in-c.md
PINNED_TILE_BYTES = 64 * 2**20  # where nothing is streamed: few calls, and still several reads at once
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

    def rows(self, start: int, count: int) -> "Tile":
        """Return at most `count` rows of the tensor from `start` on, the last of which end with this tile."""
        row_bytes = self.footprint_bytes // (self.stop - self.start)
        stop = min(start + count, self.stop)
        offset = self.offset + (start - self.start) * row_bytes
        return Tile(self.tensor, start, stop, offset, (stop - start) * row_bytes)


def tile_limit(budget_bytes: int) -> int:
    """Return the most bytes of one tile: large reads are fast, but staging takes from what can be pinned."""
    return max(SMALLEST_TILE_BYTES, min(_LARGEST_TILE_BYTES, budget_bytes // _TILES_PER_BUDGET))


def whole(tensor: StoredTensor) -> Tile:
    """Return all rows of `tensor` as one tile; a vector's rows are its elements, a scalar is one row."""
    rows = tensor.shape[0] if tensor.shape else 1
    return Tile(tensor, 0, rows, tensor.offset, tensor.footprint_bytes)


def tiles_of(tensor: StoredTensor, limit_bytes: int) -> Iterator[Tile]:
    """Yield `tensor` as tiles of at most `limit_bytes`, as equal as can be; the least is one panel."""
    rows, panel_rows = whole(tensor).stop, tensor.panel_rows
    row_bytes = tensor.footprint_bytes // rows
    panels = -(-rows // panel_rows)
    count = -(-panels // max(1, limit_bytes // (row_bytes * panel_rows)))
    for i in range(count):
        start = panels * i // count * panel_rows
        stop = min(rows, panels * (i + 1) // count * panel_rows)
        yield whole(tensor).rows(start, stop - start)
