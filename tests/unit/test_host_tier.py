"""A host between disk and device: what is kept is read once, what passes is read each time, all arrives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tierline.errors import BudgetError, FaultError
from tierline.models.stored import StoredTensor
from tierline.run.copy_link import PacedCopyLink
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory
from tierline.run.host_tier import HostTier
from tierline.run.pace import Pace
from tierline.run.staging import Staging
from tierline.run.tiles import Tile, tiles_of

ROWS, ROW_BYTES, TILE_ROWS = 91, 4096, 7
TILE_BYTES = TILE_ROWS * ROW_BYTES
QUICK = Pace("card", "pcie", 1e12, 0.0)


class CountedFile(DirectFile):
    """A file that knows what was read from it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read_names: list[str] = []

    def read(self, extract: Extract, into: memoryview) -> memoryview:
        self.read_names.append(extract.name)
        return super().read(extract, into)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[CountedFile]:
    path = tmp_path / "weights"
    path.write_bytes(b"".join(bytes([row]) * ROW_BYTES for row in range(ROWS)))
    with CountedFile(path) as opened:
        yield opened  # type: ignore[misc]


def tiles_in(file: CountedFile) -> list[Tile]:
    tensor = StoredTensor("w", "int8", (ROWS, ROW_BYTES), file.path, 0, ROWS * ROW_BYTES)
    return list(tiles_of(tensor, TILE_BYTES))


def test_what_is_kept_is_read_once_and_all_arrives_in_order(file: CountedFile) -> None:
    tiles = tiles_in(file)
    tier = HostTier(5 * TILE_BYTES + 2 * TILE_BYTES, PacedCopyLink(QUICK), readers=2)
    files = tier.stage(tiles, {file.path: file})
    assert tier.placement is not None
    kept = {unit.name for unit in tier.placement.pinned}
    assert len(kept) == 5
    assert sorted(file.read_names) == sorted(kept)
    staging = Staging(tiles, files, anonymous_memory(3 * TILE_BYTES), readers=2)
    for _ in range(3):
        for index, tile in enumerate(tiles):
            with staging.borrow(index) as data:
                assert bytes(data) == b"".join(bytes([r]) * ROW_BYTES for r in range(tile.start, tile.stop))
    staging.close()
    tier.close()
    passing = [name for name in file.read_names if name not in kept]
    assert len(file.read_names) - len(passing) == len(kept)
    assert set(passing) == {tile.name for tile in tiles} - kept == set(tier.pass_reads)
    assert tier.disk_read_bytes == len(passing) * TILE_BYTES
    assert sum(tier.pass_reads.values()) == (len(tiles) - len(kept)) * TILE_BYTES


def test_rates_of_both_links_are_measured(file: CountedFile) -> None:
    link = PacedCopyLink(Pace("card", "pcie", 1e6, 0.001))
    tier = HostTier(4 * TILE_BYTES, link, readers=2)
    tier.stage(tiles_in(file), {file.path: file})
    rates = tier.measure()
    assert rates.disk_bytes_per_s is not None
    assert rates.disk_bytes_per_s > 1e6
    assert rates.copy_bytes_per_s == pytest.approx(TILE_BYTES / (0.001 + TILE_BYTES / 1e6), rel=0.1)
    tier.close()


def test_a_host_that_holds_all_reads_no_disk(file: CountedFile) -> None:
    tier = HostTier(ROWS * ROW_BYTES, PacedCopyLink(QUICK), readers=2)
    tier.stage(tiles_in(file), {file.path: file})
    assert tier.pass_reads == {}
    assert tier.measure().disk_bytes_per_s is None
    tier.close()


def test_too_little_memory_is_refused_with_the_least(file: CountedFile) -> None:
    tier = HostTier(2 * TILE_BYTES - 1, PacedCopyLink(QUICK), readers=2)
    with pytest.raises(BudgetError, match=f"Give --host {2 * TILE_BYTES}B or more"):
        tier.stage(tiles_in(file), {file.path: file})
    tier.close()


def test_a_closed_link_ends_the_pass(file: CountedFile) -> None:
    tiles = tiles_in(file)
    tier = HostTier(2 * TILE_BYTES, PacedCopyLink(Pace("card", "pcie", 1000.0, 0.0)), readers=2)
    staging = Staging(tiles, tier.stage(tiles, {file.path: file}), anonymous_memory(3 * TILE_BYTES))
    tier.close()
    with pytest.raises(FaultError, match="copy link was closed"), staging.borrow(0):
        pass
    staging.close()
