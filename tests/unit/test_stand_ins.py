"""Rehearsed products: as many as a pass has, whatever of it is there."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tierline.models.stored import StoredTensor
from tierline.run.direct_io import DirectFile, anonymous_memory
from tierline.run.matrix import Home, Matrix, PinnedTile, StreamedTile
from tierline.run.overlap import Beside
from tierline.run.predict import Rehearsed, besides, measure_handover, measure_steps
from tierline.run.staging import Staging, place_bytes
from tierline.run.stand_ins import StandIns
from tierline.run.tiles import tiles_of

ROWS, COLUMNS = 53, 96
ROW_BYTES = 2 * COLUMNS


class Counting:
    """A kernel that notes what it is to multiply."""

    format = "bf16"

    def __init__(self) -> None:
        self.noted: list[tuple[int, int, int]] = []  # rows of x, bytes of the tile, its rows

    def matmul(self, x: torch.Tensor, raw: memoryview, rows: int) -> torch.Tensor:
        assert len(raw) == rows * ROW_BYTES
        self.noted.append((x.shape[0], len(raw), rows))
        return x.new_zeros(x.shape[0], rows)


def stored(path: Path) -> StoredTensor:
    path.write_bytes(bytes(ROWS * ROW_BYTES))
    return StoredTensor("w", "bf16", (ROWS, COLUMNS), path, 0, ROWS * ROW_BYTES)


def matrices(tensor: StoredTensor, staging: Staging, pinned: Sequence[int]) -> tuple[Matrix, Counting]:
    kernel = Counting()
    homes: list[Home] = []
    for i, tile in enumerate(tiles_of(tensor, 10 * ROW_BYTES)):
        data = memoryview(bytearray(tile.footprint_bytes))
        homes.append(PinnedTile(tile, data) if i in pinned else StreamedTile(tile, i, staging))
    return Matrix(tensor, tuple(homes), kernel), kernel  # type: ignore[arg-type]


def test_every_tile_is_multiplied_pinned_or_not_and_what_came_is_passed_over(tmp_path: Path) -> None:
    tensor = stored(tmp_path / "w")
    tiles = tuple(tiles_of(tensor, 10 * ROW_BYTES))
    with DirectFile(tensor.path) as file:
        ring = anonymous_memory(sum(place_bytes(file, tile) for tile in tiles))
        staging = Staging(tiles, {tensor.path: file}, ring, readers=2)
        for pinned in ((), (0,), (1, 4), range(len(tiles))):
            matrix, kernel = matrices(tensor, staging, tuple(pinned))
            staging.fill()
            before, taken_bytes = staging.settled_tiles, staging.settled_read_bytes()
            StandIns([matrix], staging).multiply(matrix, 3, torch.bfloat16)
            rows = [count for _, _, count in kernel.noted]
            assert {x for x, _, _ in kernel.noted} == {3}
            assert len(rows) == len(tiles)
            assert abs(sum(rows) - ROWS) <= len(tiles)  # a tile may stand in for one that has a row more
            streamed = len(tiles) - len(tuple(pinned))
            assert staging.settled_tiles - before == streamed
            assert (staging.settled_read_bytes() - taken_bytes > 0) == bool(streamed)
            StandIns([matrix]).multiply(matrix, 3, torch.bfloat16)
            assert staging.settled_tiles - before == streamed, "without staging nothing is passed over"
        assert measure_handover(staging, len(tiles), lambda: None) > 0
        staging.close()


def test_steps_are_timed_between_their_ends_and_one_that_is_held_up_counts_little() -> None:
    def run(steps: int, note: Callable[[], None]) -> None:
        note()
        for i in range(steps):
            time.sleep(0.2 if i == 1 else 0.01)
            note()

    found = measure_steps(run, about_s=0.1)
    assert 0.01 <= found.step_s < 0.1
    assert found.tiles == found.read_bytes == 0


def test_what_slows_is_what_handing_over_does_not_explain() -> None:
    alone, reading = Rehearsed(2.0), Rehearsed(3.5, read_bytes=7e7, tiles=50)
    assert besides(alone, reading, handover_s=0.01) == Beside(1.5, 2e7)
    assert besides(alone, reading, handover_s=0.05) == Beside(1.0, 2e7)
    assert besides(alone, Rehearsed(3.5, read_bytes=1e5, tiles=1), 0.01) is None
