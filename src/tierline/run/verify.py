"""Check weights against the checksums that `tierline pack` stored: when pinned, or at first use."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tierline.errors import FaultError, InputError
from tierline.models.packed_layout import CHECKSUM_BYTES
from tierline.models.stored import StoredTensor
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory
from tierline.run.matrix import StreamedTile
from tierline.run.tiles import Tile, whole


def require_checksums(tensors: Iterable[StoredTensor]) -> None:
    """Raise InputError if one of `tensors` has no checksums to check it by."""
    bare = next((t for t in tensors if t.footprint_bytes and not t.panel_crc32), None)
    if bare is not None:
        raise InputError(
            f"{bare.path}: {bare.name} has no checksum, so it cannot be verified: `tierline pack` writes a "
            "copy that has them"
        )


def check_tile(tile: Tile, data: memoryview) -> None:
    """Raise FaultError, naming tensor, file and offset, if a panel in `data` is not what was packed."""
    tensor = tile.tensor
    row_bytes = tile.footprint_bytes // (tile.stop - tile.start)
    for start in range(tile.start, tile.stop, tensor.panel_rows):
        stop = min(start + tensor.panel_rows, tile.stop)
        at = start // tensor.panel_rows * CHECKSUM_BYTES
        stored = int.from_bytes(tensor.panel_crc32[at : at + CHECKSUM_BYTES])
        begin, end = (start - tile.start) * row_bytes, (stop - tile.start) * row_bytes
        found = zlib.crc32(data[begin:end])
        if found != stored:
            raise FaultError(
                f"{tensor.path}: {tensor.name} at offset {tile.offset + begin:,} ({end - begin:,} bytes) has "
                f"the checksum {found:08x}, but {stored:08x} was packed: the file or the disk is damaged; "
                "pack the model again or restore the file"
            )


@dataclass(slots=True)
class CheckedTile:
    """A streamed tile that is checked when it is used for the first time."""

    home: StreamedTile
    checked: bool = False

    @property
    def tile(self) -> Tile:
        """What is streamed."""
        return self.home.tile

    @contextmanager
    def borrow(self) -> Iterator[memoryview]:
        """Lend the bytes as the tile does; raise FaultError if they are not what was packed."""
        with self.home.borrow() as data:
            if not self.checked:
                check_tile(self.tile, data)
                self.checked = True
            yield data


class RowChecks:
    """Checks the panel of each row of a table that is read row by row, when a row of it is first used."""

    def __init__(self, tensor: StoredTensor, file: DirectFile) -> None:
        self._tensor, self._file = tensor, file
        self._checked: set[int] = set()

    def check(self, row: int) -> None:
        """Read the panel that `row` is in and check it, once; raise FaultError if it is damaged."""
        panel = row // self._tensor.panel_rows
        if panel not in self._checked:
            tile = whole(self._tensor).rows(panel * self._tensor.panel_rows, self._tensor.panel_rows)
            extract = Extract(tile.name, tile.offset, tile.footprint_bytes)
            check_tile(tile, self._file.read(extract, anonymous_memory(self._file.span_bytes(extract))))
            self._checked.add(panel)
