"""The weights of one run: what is pinned, what is streamed through staging, all within one budget."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path

import torch

from tierline.models.packed_layout import row_parts
from tierline.models.stored import StoredTensor
from tierline.place.placement import Placement, Unit, place
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory
from tierline.run.host_tier import HostTier
from tierline.run.kernels import Kernel, Kernels
from tierline.run.ledger import Ledger
from tierline.run.loading import read_tiles
from tierline.run.matrix import Home, Matrix, PinnedTile, RowTable, StreamedTile
from tierline.run.meter import Outstanding
from tierline.run.needs import Needs, needs_of
from tierline.run.recorder import Recorder
from tierline.run.staging import READERS, SPARE_TILES, Staging, place_bytes
from tierline.run.tiles import PINNED_TILE_BYTES, SMALLEST_TILE_BYTES, Tile, tile_limit, tiles_of, whole
from tierline.run.verify import CheckedTile, RowChecks, check_tile

_SAMPLED_ROWS = 1024
PRELUDE_TILE_BYTES = 2**20  # staging that a decode step has no use for is better spent on pinning
Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """A placement together with the tiles it is of.

    `tile_read_bytes` is what each streamed tile takes from the disk, `row_read_bytes` a row of every table
    that is not pinned: in whole sectors. `prelude` are the tiles that a prompt with images begins with, each
    read once, `prelude_read_bytes` what they take from the disk.
    """

    placement: Placement
    tiles: tuple[Tile, ...]
    needs: Needs
    tile_read_bytes: tuple[int, ...]
    row_read_bytes: int
    prelude: tuple[Tile, ...] = ()
    prelude_read_bytes: int = 0

    @property
    def read_bytes(self) -> int:
        """What a decode step takes from the disk."""
        return sum(self.tile_read_bytes) + self.row_read_bytes

    @property
    def readers(self) -> int:
        """Reads in flight: as many as staging holds tiles besides the spare ones."""
        return max(1, self.placement.slots - SPARE_TILES)

    @property
    def held_bytes(self) -> int:
        """The most weight bytes that will be held at once."""
        return self.placement.pinned_bytes + self.placement.staging_bytes + self.needs.total_bytes


class Planner:
    """Decides what to pin and what to stream of matrices in their order of use, and of tables read by row."""

    def __init__(
        self,
        order: Sequence[StoredTensor],
        tables: Sequence[StoredTensor],
        files: Mapping[Path, DirectFile],
        kernels: Kernels,
        fixed_bytes: int,
        *,
        readers: int = READERS,
        experts_bytes: int = 0,
        prelude: Sequence[StoredTensor] = (),
    ) -> None:
        """`experts_bytes` is what routed experts need at the least; the matrices are all else.

        `prelude` is what a prompt with images needs before them, in order: never pinned.
        """
        # Staging holds this many of the largest tiles.
        self._slots = readers + SPARE_TILES
        # A tensor that is used twice in a pass is placed once, where it is used first.
        self._order = tuple(dict.fromkeys(order))
        self._files, self._all_tables = files, tables
        self._tables = tuple(t for t in tables if t not in self._order)
        self._prelude = tuple(dict.fromkeys(prelude))
        for tensor in (*order, *tables, *prelude):
            kernels.of(tensor)
        self._needs = needs_of(
            self._order,
            tables,
            files,
            fixed_bytes=fixed_bytes,
            scratch_bytes=kernels.scratch_bytes,
            slots=self._slots,
            experts_bytes=experts_bytes,
            prelude=self._prelude,
        )

    @property
    def needs(self) -> Needs:
        """What has to be held besides tiles, and the fewest bytes in which it works at all."""
        return self._needs

    def plan(self, allowed_bytes: int) -> WeightPlan:
        """Return the placement within `allowed_bytes`: everything pinned, or as much as staging leaves.

        Only where nothing is streamed are tiles as large as that allows, and tables among them: of a table a
        pass reads a row. Raises BudgetError with the smallest workable number where staging and what must be
        held do not fit.
        """
        self._needs.refuse_less(allowed_bytes)
        room_bytes = allowed_bytes - self._needs.total_bytes
        limit_bytes = tile_limit(room_bytes)
        for tensors, limit in (
            ((*self._order, *self._tables), PINNED_TILE_BYTES),
            (self._order, limit_bytes),
            (self._order, SMALLEST_TILE_BYTES),
        ):
            tiles, units = self._cut(tensors, limit)
            prelude, before = self._cut(self._prelude, min(limit, PRELUDE_TILE_BYTES))
            slot_bytes = max((unit.footprint_bytes for unit in before), default=0)
            placement = place(
                units, room_bytes, slots=self._slots, slot_bytes=slot_bytes, shared=bool(before)
            )
            if placement is not None and not (placement.streamed and limit == PINNED_TILE_BYTES):
                return self._weight_plan(placement, tiles, prelude)
        raise AssertionError("tiles cut as small as can be did not fit the least that they need")

    def _weight_plan(
        self, placement: Placement, tiles: tuple[Tile, ...], prelude: tuple[Tile, ...]
    ) -> WeightPlan:
        streamed = {unit.name for unit in placement.streamed}
        crossing = [t for t in tiles if t.name in streamed]
        whole = {tile.tensor for tile in tiles if tile.name not in streamed}
        return WeightPlan(
            placement,
            tiles,
            self._needs,
            tuple(map(self._tile_bytes, crossing)),
            sum(self._row_read_bytes(table) for table in self._all_tables if table not in whole),
            prelude,
            sum(map(self._tile_bytes, prelude)),
        )

    def _tile_bytes(self, tile: Tile) -> int:
        return self._span_bytes(tile.tensor, tile.offset, tile.footprint_bytes)

    def _row_read_bytes(self, table: StoredTensor) -> int:
        """Return what reading a row takes, as the mean over the first rows: it may straddle a sector."""
        rows = min(table.shape[0], _SAMPLED_ROWS)
        parts = (part for row in range(rows) for part in row_parts(table, row))
        return sum(self._span_bytes(table, offset, count) for offset, count in parts) // rows

    def _span_bytes(self, tensor: StoredTensor, offset: int, footprint_bytes: int) -> int:
        return self._files[tensor.path].span_bytes(Extract(tensor.name, offset, footprint_bytes))

    def _cut(self, tensors: Sequence[StoredTensor], limit_bytes: int) -> tuple[tuple[Tile, ...], list[Unit]]:
        tiles = tuple(tile for tensor in tensors for tile in tiles_of(tensor, limit_bytes))
        return tiles, [Unit(tile.name, place_bytes(self._files[tile.tensor.path], tile)) for tile in tiles]


class Weights:
    """Open files, pinned tiles and staging; `close` gives everything back."""

    def __init__(
        self,
        plan: WeightPlan,
        files: Mapping[Path, DirectFile],
        ledger: Ledger,
        kernels: Kernels,
        *,
        verify: bool = False,
        host: HostTier | None = None,
    ) -> None:
        """With a `host` tier, what is streamed comes through it."""
        self.plan, self.ledger, self._host = plan, ledger, host
        self._files, self._kernels, self._verify = files, kernels, verify
        self._homes: dict[str, list[Home]] = {}
        self.staging: Staging | None = None

    def load(self, progress: Progress, recorder: Recorder, outstanding: Outstanding | None = None) -> None:
        """Read the pinned tiles, and start reading the streamed ones ahead."""
        placement = self.plan.placement
        pinned = {u.name for u in placement.pinned}
        self.ledger.take(placement.pinned_bytes, "the pinned weights")
        arena = anonymous_memory(placement.pinned_bytes)
        prelude = self.plan.prelude
        streamed = (*prelude, *(t for t in self.plan.tiles if t.name not in pinned))
        if streamed:
            self.ledger.take(placement.staging_bytes, "staging")
            ring = anonymous_memory(placement.staging_bytes)
            self.staging = Staging(
                streamed,
                self._files if self._host is None else self._host.stage(streamed, self._files),
                ring,
                readers=self.plan.readers,
                recorder=recorder,
                outstanding=outstanding,
                prelude=len(prelude),
            )
        for index, tile in enumerate(prelude):
            self._homes.setdefault(tile.tensor.name, []).append(self._streamed(tile, index))
        index = len(prelude)
        kept = [t for t in self.plan.tiles if t.name in pinned]
        with closing(self._pinned(kept, arena, progress)) as loaded:
            for tile in self.plan.tiles:
                if tile.name in pinned:
                    home: Home = next(loaded)
                else:
                    home = self._streamed(tile, index)
                    index += 1
                self._homes.setdefault(tile.tensor.name, []).append(home)

    def _streamed(self, tile: Tile, index: int) -> Home:
        assert self.staging is not None  # noqa: S101 - this tile is streamed
        home = StreamedTile(tile, index, self.staging)
        return CheckedTile(home) if self._verify else home

    def _pinned(self, tiles: Sequence[Tile], arena: memoryview, progress: Progress) -> Generator[PinnedTile]:
        """Yield `tiles` one after another as they arrive in `arena`."""
        needs = [place_bytes(self._files[t.tensor.path], t) for t in tiles]
        stops = list(accumulate(needs))
        places = [(t, arena[stop - need : stop]) for t, need, stop in zip(tiles, needs, stops, strict=True)]
        with closing(read_tiles(places, self._files, max(READERS, self.plan.readers))) as found:
            for tile, data, stop in zip(tiles, found, stops, strict=True):
                if self._verify:
                    check_tile(tile, data)
                progress(stop, len(arena))
                yield PinnedTile(tile, data)

    def matrix(self, tensor: StoredTensor) -> Matrix:
        """Return `tensor` as compute uses it."""
        return Matrix(tensor, tuple(self._homes.get(tensor.name, ())), self._kernels.of(tensor))

    def table(self, tensor: StoredTensor) -> RowTable:
        """Return `tensor` for use row by row; rows that are not pinned are read from the file."""
        file = self._files[tensor.path]
        return RowTable(self.matrix(tensor), file, RowChecks(tensor, file).check if self._verify else None)

    def close(self) -> None:
        """Stop the readers; a second call does nothing."""
        if self.staging is not None:
            self.staging.close()


def read_whole(
    file: DirectFile, tensor: StoredTensor, kernel: Kernel, *, verify: bool = False
) -> torch.Tensor:
    """Return a small tensor, expanded to the compute dtype, shaped as stored."""
    extract = Extract(tensor.name, tensor.offset, tensor.footprint_bytes)
    raw = file.read(extract, anonymous_memory(file.span_bytes(extract)))
    if verify:
        check_tile(whole(tensor), raw)
    columns = tensor.shape[-1] if tensor.shape else 1
    return kernel.expand(raw, prod(tensor.shape) // columns, columns).view(tensor.shape)
