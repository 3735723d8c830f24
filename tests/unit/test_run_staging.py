"""The staging ring: order, budget, restarts and faults, against a store that the test controls."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.errors import FaultError
from tierline.models.stored import StoredTensor
from tierline.run.direct_io import DirectFile, anonymous_memory
from tierline.run.staging import Staging, place_bytes
from tierline.run.tiles import Tile, tiles_of

ROW_BYTES = 100


def write_matrix(path: Path, rows: int, offset: int = 13) -> StoredTensor:
    """Write `rows` rows whose bytes say which row they are."""
    path.write_bytes(bytes(offset) + b"".join(bytes([i % 251]) * ROW_BYTES for i in range(rows)))
    return StoredTensor("w", "int8", (rows, ROW_BYTES), path, offset, rows * ROW_BYTES)


def expected(tile: Tile) -> bytes:
    return b"".join(bytes([i % 251]) * ROW_BYTES for i in range(tile.start, tile.stop))


class Scripted(DirectFile):
    """A file that does what a test says before each read."""

    def __init__(self, path: Path, before: Callable[[], None]) -> None:
        super().__init__(path)
        self._before = before

    def read(self, extract, into):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        self._before()
        return super().read(extract, into)


@given(
    rows=st.integers(1, 97),
    tile_rows=st.integers(1, 13),
    places=st.integers(1, 5),
    readers=st.integers(1, 3),
    passes=st.integers(1, 3),
)
def test_every_pass_sees_every_tile_whole(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    tile_rows: int,
    places: int,
    readers: int,
    passes: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "matrix"
    tiles = list(tiles_of(write_matrix(path, rows), tile_rows * ROW_BYTES))
    with DirectFile(path) as file:
        ring = anonymous_memory(places * max(place_bytes(file, t) for t in tiles))
        staging = Staging(tiles, {path: file}, ring, readers=readers)
        try:
            for _ in range(passes):
                for i, tile in enumerate(tiles):
                    with staging.borrow(i) as raw:
                        assert bytes(raw) == expected(tile)
        finally:
            staging.close()
        assert staging.meter.restarts == 0


@given(asked=st.lists(st.integers(0, 6), min_size=1, max_size=25))
def test_any_order_is_served_and_counted(tmp_path_factory: pytest.TempPathFactory, asked: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "matrix"
    tiles = list(tiles_of(write_matrix(path, 7), ROW_BYTES))
    with DirectFile(path) as file:
        staging = Staging(tiles, {path: file}, anonymous_memory(3 * place_bytes(file, tiles[0])))
        try:
            for i in asked:
                with staging.borrow(i) as raw:
                    assert bytes(raw) == expected(tiles[i])
        finally:
            staging.close()
        jumps = sum(b != (a + 1) % 7 for a, b in zip([6, *asked], asked, strict=False))
        assert staging.meter.restarts == jumps


def test_reads_run_ahead_but_never_past_the_ring(tmp_path: Path) -> None:
    path, reads = tmp_path / "matrix", threading.Semaphore(0)
    tiles = list(tiles_of(write_matrix(path, 20), ROW_BYTES))
    file = Scripted(path, reads.release)
    staging = Staging(tiles, {path: file}, anonymous_memory(4 * place_bytes(file, tiles[0])))
    try:
        with staging.borrow(0):
            for _ in range(4):
                assert reads.acquire(timeout=5)
            assert not reads.acquire(timeout=0.2), "a fifth tile was read into a ring of four"
        assert reads.acquire(timeout=5), "room was given back, but nothing was read into it"
    finally:
        staging.close()
        file.close()


@pytest.mark.parametrize("fault", [OSError(5, "Input/output error"), ValueError("boom"), MemoryError()])
def test_a_reader_that_raises_ends_the_wait_at_once(tmp_path: Path, fault: Exception) -> None:
    path = tmp_path / "matrix"
    tiles = list(tiles_of(write_matrix(path, 20), ROW_BYTES))

    def fail() -> None:
        raise fault

    file = Scripted(path, fail)
    staging = Staging(tiles, {path: file}, anonymous_memory(4 * place_bytes(file, tiles[0])))
    started_s = time.monotonic()
    with pytest.raises(FaultError, match="a reader stopped"), staging.borrow(0):
        pass
    assert time.monotonic() - started_s < 2
    staging.close()
    file.close()


def test_a_file_that_shrinks_is_named_with_tensor_and_offset(tmp_path: Path) -> None:
    path = tmp_path / "matrix"
    tiles = list(tiles_of(write_matrix(path, 100), ROW_BYTES))
    with DirectFile(path) as file:
        path.write_bytes(b"short")
        staging = Staging(tiles, {path: file}, anonymous_memory(4 * place_bytes(file, tiles[0])))
        message = r"matrix: w\[\d+:\d+\] needs bytes .* the file ends at 5 .*cut while in use"
        with pytest.raises(FaultError, match=message), staging.borrow(90):
            pass
        staging.close()


def test_closing_ends_threads_and_a_wait_under_way(tmp_path: Path) -> None:
    path, hold = tmp_path / "matrix", threading.Event()

    def held() -> None:
        hold.wait(5)

    tiles = list(tiles_of(write_matrix(path, 20), ROW_BYTES))
    file = Scripted(path, held)
    before = threading.active_count()
    staging = Staging(tiles, {path: file}, anonymous_memory(4 * place_bytes(file, tiles[0])))
    threading.Timer(0.1, hold.set).start()
    closer = threading.Timer(0.05, staging.close)
    closer.start()
    with pytest.raises(FaultError, match="closed while a pass"), staging.borrow(0):
        raise AssertionError("a closed stream must not lend bytes")
    closer.join()
    time.sleep(0.1)
    assert threading.active_count() == before
    file.close()
