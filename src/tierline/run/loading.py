"""Read pinned tiles into memory with several reads in flight: a disk gives its rate to no single one."""

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tierline.run.direct_io import DirectFile, Extract
from tierline.run.tiles import Tile


def read_tiles(
    places: Sequence[tuple[Tile, memoryview]], files: Mapping[Path, DirectFile], readers: int
) -> Generator[memoryview]:
    """Yield the bytes of each tile, in order, once they are in its place; `readers` reads are in flight.

    A place holds its tile out to whole sectors. Raises FaultError where a read fails. Whatever ends it early,
    no read is under way afterwards.
    """

    def read(tile: Tile, into: memoryview) -> memoryview:
        return files[tile.tensor.path].read(Extract(tile.name, tile.offset, tile.footprint_bytes), into)

    with ThreadPoolExecutor(readers, "disk loader") as pool:
        try:
            for future in [pool.submit(read, tile, into) for tile, into in places]:
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
