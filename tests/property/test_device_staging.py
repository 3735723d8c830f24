"""Three tiers: every split of device, host and disk gives the same products, within every capacity."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline.errors import FaultError, InputError
from tierline.models.stored import StoredTensor
from tierline.place.placement import Unit
from tierline.place.tiers import TieredPlacement, place_tiers
from tierline.run.copy_link import PacedCopyLink
from tierline.run.device import CudaDevice, Device, PacedDevice, device_dtype
from tierline.run.device_staging import (
    DeviceMatrix,
    DeviceStaging,
    DeviceTile,
    PassingTile,
    pin_on_device,
)
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory
from tierline.run.matrix import Home, PinnedTile, StreamedTile
from tierline.run.pace import Pace, PacedFile, PacedLink
from tierline.run.staging import Staging, place_bytes
from tierline.run.tiles import Tile, tiles_of

ROWS, COLUMNS, COUNT = 53, 37, 5
FAST = Pace("nobody", "pcie", 1e12, 0.0)


@dataclass(frozen=True)
class Stored:
    """Matrices in a file, the values that they have, and their tiles."""

    path: Path
    values: tuple[torch.Tensor, ...]
    tensors: tuple[StoredTensor, ...]
    tiles: tuple[Tile, ...]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    path = tmp_path_factory.mktemp("device") / "weights"
    torch.manual_seed(3)
    values = tuple(torch.randn(ROWS, COLUMNS) for _ in range(COUNT))
    path.write_bytes(b"".join(v.numpy().tobytes() for v in values))
    size = ROWS * COLUMNS * 4
    tensors = tuple(
        StoredTensor(f"m{i}", "fp32", (ROWS, COLUMNS), path, i * size, size) for i in range(COUNT)
    )
    return Stored(path, values, tensors, tuple(t for s in tensors for t in tiles_of(s, 3_000)))


def units(stored: Stored, file: DirectFile) -> list[Unit]:
    return [Unit(t.name, place_bytes(file, t)) for t in stored.tiles]


@contextmanager
def pipeline(
    stored: Stored, placed: TieredPlacement, device: Device, file: DirectFile
) -> Iterator[tuple[list[DeviceMatrix], DeviceStaging | None, Staging | None]]:
    """Put every tile where `placed` says, and start the two pipelines."""
    on_device = {u.name for u in placed.device.pinned}
    on_host = {u.name for u in placed.host.pinned}
    read = [t for t in stored.tiles if t.name not in on_device | on_host]
    ring = anonymous_memory(placed.host.staging_bytes)
    disk = Staging(read, {stored.path: file}, ring, readers=2) if read else None
    homes: dict[str, Home] = {}
    for tile in stored.tiles:
        if tile in read:
            assert disk is not None
            homes[tile.name] = StreamedTile(tile, read.index(tile), disk)
        else:
            extract = Extract(tile.name, tile.offset, tile.footprint_bytes)
            data = file.read(extract, anonymous_memory(file.span_bytes(extract)))
            homes[tile.name] = PinnedTile(tile, data)
    passing = [t for t in stored.tiles if t.name not in on_device]
    fed = DeviceStaging([homes[t.name] for t in passing], device, placed.device.slots) if passing else None
    found: dict[str, DeviceTile | PassingTile] = {}
    for tile in stored.tiles:
        if tile.name in on_device:
            found[tile.name] = pin_on_device(homes[tile.name], device)
        else:
            assert fed is not None
            found[tile.name] = PassingTile(tile, passing.index(tile), fed)
    try:
        yield (
            [
                DeviceMatrix(s, [found[t.name] for t in stored.tiles if t.tensor is s], device)
                for s in stored.tensors
            ],
            fed,
            disk,
        )
    finally:
        if fed is not None:
            fed.close()
        if disk is not None:
            disk.close()
        device.close()


@given(on_device=st.floats(0, 1.2), on_host=st.floats(0, 1.2), slots=st.integers(2, 4))
@settings(max_examples=25)
def test_every_split_gives_the_same_products(
    stored: Stored, on_device: float, on_host: float, slots: int
) -> None:
    with DirectFile(stored.path) as file:
        parts = units(stored, file)
        total = sum(u.footprint_bytes for u in parts)
        most = max(u.footprint_bytes for u in parts)
        device_bytes = slots * most + int(on_device * total)
        placed = place_tiers(
            parts,
            device_bytes=device_bytes,
            host_bytes=3 * most + int(on_host * total),
            device_slots=slots,
            host_slots=3,
        )
        assert placed is not None
        device = PacedDevice(PacedCopyLink(FAST), device_bytes)  # refuses more than it has
        with pipeline(stored, placed, device, file) as (matrices, fed, disk):
            x = torch.randn(2, COLUMNS, generator=torch.Generator().manual_seed(1))
            for _ in range(3):
                for matrix, value in zip(matrices, stored.values, strict=True):
                    parts_of = [value[t.tile.start : t.tile.stop] for t in matrix.tiles]
                    expected = torch.cat([torch.nn.functional.linear(x, part) for part in parts_of], -1)
                    assert torch.equal(matrix.matmul(x), expected)
            assert fed is None or fed.meter.restarts == 0
            assert disk is None or disk.meter.restarts == 0


@given(
    sizes=st.lists(st.integers(1, 97), min_size=1, max_size=30),
    device_bytes=st.integers(0, 1500),
    host_bytes=st.integers(0, 1500),
)
def test_tiers_hold_every_unit_once_within_their_capacities(
    sizes: list[int], device_bytes: int, host_bytes: int
) -> None:
    parts = [Unit(f"u{i}", size) for i, size in enumerate(sizes)]
    placed = place_tiers(
        parts, device_bytes=device_bytes, host_bytes=host_bytes, device_slots=2, host_slots=3
    )
    if placed is None:
        rest = 2 * max(sizes) <= device_bytes and 3 * max(sizes) <= host_bytes
        assert not rest
        return
    held = [*placed.device.pinned, *placed.host.pinned, *placed.host.streamed]
    assert sorted(u.name for u in held) == sorted(u.name for u in parts)
    assert placed.device.pinned_bytes + placed.device.staging_bytes <= device_bytes
    assert placed.host.pinned_bytes + placed.host.staging_bytes <= host_bytes
    assert placed.copied_bytes == sum(sizes) - placed.device.pinned_bytes
    assert placed.read_bytes == placed.copied_bytes - placed.host.pinned_bytes
    assert placed.pass_s(0.5, 7.0, 3.0) == max(0.5, placed.copied_bytes / 7, placed.read_bytes / 3)


def test_copies_and_reads_overlap(stored: Stored) -> None:
    disk_link = PacedLink(Pace("nobody", "disk", 100_000.0, 0.0))
    with PacedFile(stored.path, disk_link) as file:
        parts = units(stored, file)
        most = max(u.footprint_bytes for u in parts)
        placed = place_tiers(parts, device_bytes=3 * most, host_bytes=4 * most, device_slots=3, host_slots=4)
        assert placed is not None
        assert not placed.host.pinned
        rate = 85_000.0  # with what reads take in whole sectors, each link alone takes about as long
        device = PacedDevice(PacedCopyLink(Pace("nobody", "pcie", rate, 0.0)), 3 * most)
        with pipeline(stored, placed, device, file) as (matrices, fed, _):
            x = torch.ones(1, COLUMNS)
            for matrix in matrices:
                matrix.matmul(x)
            started_s = time.perf_counter()
            for _ in range(2):
                for matrix in matrices:
                    matrix.matmul(x)
            took_s = (time.perf_counter() - started_s) / 2
            assert fed is not None
            assert fed.meter.stall_s > 0
        spans = (file.span_bytes(Extract(t.name, t.offset, t.footprint_bytes)) for t in stored.tiles)
        alone_s = sum(spans) / 100_000.0
    assert 0.8 * alone_s < took_s < 1.6 * alone_s  # one after the other would take twice as long


def test_tiles_in_another_order_start_anew_and_are_right(stored: Stored) -> None:
    with DirectFile(stored.path) as file:
        most = max(u.footprint_bytes for u in units(stored, file))
        placed = place_tiers(
            units(stored, file), device_bytes=2 * most, host_bytes=10**6, device_slots=2, host_slots=3
        )
        assert placed is not None
        with pipeline(stored, placed, PacedDevice(PacedCopyLink(FAST), 2 * most), file) as (found, fed, _):
            x = torch.ones(1, COLUMNS)
            for i in (3, 0, 4, 4):
                expected = [matrix.sum(1) for matrix in stored.values]
                assert torch.allclose(found[i].matmul(x)[0], expected[i], rtol=1e-5, atol=1e-5)
            assert fed is not None
            assert fed.meter.restarts == 4


def test_a_read_that_fails_reaches_compute(stored: Stored, tmp_path: Path) -> None:
    copy = tmp_path / "weights"
    copy.write_bytes(stored.path.read_bytes())
    with DirectFile(copy) as file:
        tiles = [Tile(t.tensor, t.start, t.stop, t.offset, t.footprint_bytes) for t in stored.tiles]
        most = max(place_bytes(file, t) for t in tiles)
        disk = Staging(tiles, {stored.path: file}, anonymous_memory(3 * most), readers=2)
        homes = [StreamedTile(t, i, disk) for i, t in enumerate(tiles)]
        fed = DeviceStaging(homes, PacedDevice(PacedCopyLink(FAST), 4 * most), 2)
        try:
            with fed.borrow(0):
                pass
            with copy.open("r+b") as cut:
                cut.truncate(100)
            with pytest.raises(FaultError, match="cut while in use"):
                _borrow_all(fed, 3 * len(tiles))
        finally:
            fed.close()
            disk.close()


def _borrow_all(fed: DeviceStaging, count: int) -> None:
    for i in range(1, count):
        with fed.borrow(i % len(fed._schedule)):
            pass


def test_a_device_that_is_full_or_not_there_or_cannot_compute_is_refused() -> None:
    device = PacedDevice(PacedCopyLink(FAST), 101)
    device.slot(97)
    with pytest.raises(InputError, match=r"the device has 4 B left, 5 B are wanted"):
        device.slot(5)
    device.close()
    with pytest.raises(InputError, match="for the CPU alone"):
        device_dtype("q4_1")
    with pytest.raises(InputError, match="no CUDA device 99"):
        CudaDevice(99)


@pytest.mark.gpu
def test_a_cuda_device_multiplies_with_tiles_from_every_tier(stored: Stored) -> None:
    with DirectFile(stored.path) as file:
        parts = units(stored, file)
        most, total = max(u.footprint_bytes for u in parts), sum(u.footprint_bytes for u in parts)
        placed = place_tiers(
            parts,
            device_bytes=2 * most + total // 3,
            host_bytes=3 * most + total // 3,
            device_slots=2,
            host_slots=3,
        )
        assert placed is not None
        with pipeline(stored, placed, CudaDevice(), file) as (matrices, _, _):
            x = torch.ones(2, COLUMNS, device="cuda")
            for _ in range(3):
                for matrix, value in zip(matrices, stored.values, strict=True):
                    torch.testing.assert_close(matrix.matmul(x).cpu(), x.cpu() @ value.T)
