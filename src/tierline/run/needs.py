"""The fewest bytes in which a model's weights can be held and streamed, from its headers alone: no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tierline.errors import BudgetError
from tierline.models.stored import StoredTensor
from tierline.run.direct_io import LARGEST_SECTOR_BYTES, DirectFile
from tierline.run.staging import place_bytes
from tierline.run.tiles import SMALLEST_TILE_BYTES, Tile, tiles_of
from tierline.units import format_bytes


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run has to hold besides tiles: small tensors, the kernels' scratch, one row of each table, and
    slots for routed experts.

    Beside them stand at least `least_tiles_bytes`: `slots` of the largest tile when all are cut as small as
    can be, or every tile where that is less.
    """

    fixed_bytes: int
    scratch_bytes: int
    row_buffer_bytes: int
    slots: int = 0
    least_tiles_bytes: int = 0
    experts_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All that is held besides tiles."""
        return self.fixed_bytes + self.scratch_bytes + self.row_buffer_bytes + self.experts_bytes

    @property
    def least_bytes(self) -> int:
        """The fewest bytes in which the weights can be held and streamed at all."""
        return self.total_bytes + self.least_tiles_bytes

    def refuse_less(self, allowed_bytes: int) -> None:
        """Raise BudgetError, with the least that can work and why, where `allowed_bytes` is less."""
        least = self.least_bytes
        if allowed_bytes >= least:
            return
        experts = f"{format_bytes(self.experts_bytes)} for experts, " if self.experts_bytes else ""
        raise BudgetError(
            f"{format_bytes(allowed_bytes)} ({allowed_bytes:,} B) for weights is too little: streaming needs "
            f"{format_bytes(least)} ({least:,} B): {format_bytes(self.fixed_bytes)} of small tensors, "
            f"{format_bytes(self.scratch_bytes)} to expand blocks in, "
            f"{format_bytes(self.row_buffer_bytes)} for rows of tables, {experts}and staging for "
            f"{self.slots} tiles. Give --resident {least}B or more"
        )


def needs_of(
    matrices: Sequence[StoredTensor],
    tables: Sequence[StoredTensor],
    files: Mapping[Path, DirectFile],
    *,
    fixed_bytes: int,
    scratch_bytes: int,
    slots: int,
    experts_bytes: int = 0,
    prelude: Sequence[StoredTensor] = (),
) -> Needs:
    """Return what `matrices` (what a decode step multiplies with) and `tables` (read by the row) need.

    A matrix that is named twice is held once. `slots` is the number of tiles in staging, `experts_bytes` what
    routed experts take at the least. What is in the `prelude` of a prompt always comes through staging.
    """
    total_bytes, largest_bytes = _smallest_tiles(dict.fromkeys(matrices), files)
    ring_bytes = slots * _smallest_tiles(prelude, files)[1]
    return Needs(
        fixed_bytes,
        scratch_bytes,
        sum(map(row_buffer_bytes, tables)),
        slots,
        min(total_bytes + ring_bytes, max(ring_bytes, slots * largest_bytes)),
        experts_bytes,
    )


def row_buffer_bytes(tensor: StoredTensor) -> int:
    """Return the bytes in which any one row of `tensor` can be read, with the sectors it lies in."""
    return tensor.footprint_bytes // tensor.shape[0] + 2 * LARGEST_SECTOR_BYTES


def _smallest_tiles(tensors: Iterable[StoredTensor], files: Mapping[Path, DirectFile]) -> tuple[int, int]:
    """Return the bytes in staging of all tiles, cut as small as can be, and of the largest of them."""
    total_bytes = largest_bytes = 0
    alike: dict[tuple[object, ...], tuple[int, int]] = {}
    for tensor in tensors:
        # Tensors of the same shape that start alike within a sector are cut alike: layers by the dozen.
        key = (
            tensor.path,
            tensor.format,
            tensor.shape,
            tensor.panel_rows,
            tensor.offset % LARGEST_SECTOR_BYTES,
        )
        if key not in alike:
            places = [_place_bytes(files, tile) for tile in tiles_of(tensor, SMALLEST_TILE_BYTES)]
            alike[key] = sum(places), max(places)
        total_bytes += alike[key][0]
        largest_bytes = max(largest_bytes, alike[key][1])
    return total_bytes, largest_bytes


def _place_bytes(files: Mapping[Path, DirectFile], tile: Tile) -> int:
    return place_bytes(files[tile.tensor.path], tile)
