"""Read a file past the page cache, straight into memory of our own."""

import errno
import mmap
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tierline.errors import FaultError, InputError
from tierline.units import format_bytes

_HUGE_PAGE_BYTES = 2 * 2**20
LARGEST_SECTOR_BYTES = 4096
# Where nothing was calibrated: larger requests were slower on the virtual disk that this was measured on
# (2.1 GB/s in requests of 1 MiB, 1.5 in 16 MiB), smaller ones pay more per call.
DEFAULT_REQUEST_BYTES = 2**20
_SECTORS_BYTES = (512, LARGEST_SECTOR_BYTES)


def anonymous_memory(footprint_bytes: int) -> memoryview:
    """Return private anonymous memory that starts on a huge-page boundary and asks for huge pages.

    Reads with O_DIRECT into 4 KiB pages reach about half the rate (each page is pinned by itself).
    The memory is returned to the system when the last view of it is gone.
    """
    length = max(1, footprint_bytes) + _HUGE_PAGE_BYTES
    region = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = memoryview(region)
    start = -address_of(view) % _HUGE_PAGE_BYTES
    whole_bytes = footprint_bytes // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
    if whole_bytes:
        region.madvise(mmap.MADV_HUGEPAGE, start, whole_bytes)
    # The rest is no reason to hold a huge page: more would be held than was asked for.
    region.madvise(mmap.MADV_NOHUGEPAGE, start + whole_bytes)
    return view[start : start + footprint_bytes]


def address_of(view: memoryview) -> int:
    """Return where in memory `view` begins."""
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(view))


@dataclass(frozen=True, slots=True)
class Extract:
    """A stretch of a file, and the name of the tensor in it (for messages)."""

    name: str
    offset: int
    footprint_bytes: int


class DirectFile:
    """One file open for O_DIRECT reads; `direct` is False where the file system refuses and reads buffer.

    Safe to use from several threads: positions are passed, never kept. A read is made in requests of at most
    `request_bytes`.
    """

    def __init__(self, path: Path, request_bytes: int = DEFAULT_REQUEST_BYTES) -> None:
        self.path = path
        self.request_bytes = max(LARGEST_SECTOR_BYTES, request_bytes)
        self.direct = True
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.direct = False
        self.footprint_bytes = os.fstat(self._fd).st_size
        self.alignment_bytes = self._find_alignment() if self.direct else 1

    def __enter__(self) -> "DirectFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def descriptor(self) -> int:
        """The file's descriptor, -1 once it is closed."""
        return self._fd

    def aligned_start(self, extract: Extract) -> int:
        """Return where a read of `extract` begins: at the sector that holds its first byte."""
        return self._aligned(extract)[0]

    def span_bytes(self, extract: Extract) -> int:
        """Return the bytes that reading `extract` takes from the disk: its own, out to whole sectors."""
        start, stop = self._aligned(extract)
        return stop - start

    def read(self, extract: Extract, into: memoryview) -> memoryview:
        """Read `extract` into the front of `into` and return the view of exactly its bytes.

        `into` must start on a sector boundary and hold `span_bytes(extract)`. Raises FaultError naming the
        tensor, file and offset when the disk fails or the file has shrunk.
        """
        start, stop = self._aligned(extract)
        done = 0
        while done < extract.offset - start + extract.footprint_bytes:
            wanted = into[done : min(done + self.request_bytes, stop - start)]
            done += self._read_some(extract, wanted, start + done)
        shift = extract.offset - start
        return into[shift : shift + extract.footprint_bytes]

    def _read_some(self, extract: Extract, into: memoryview, position: int) -> int:
        try:
            count = os.preadv(self._fd, [into], position)
        except OSError as error:
            raise FaultError(
                f"{self.path}: reading {extract.name} at offset {position:,} failed: {error.strerror}. "
                "The disk or the file is damaged; the model is intact elsewhere or has to be fetched again"
            ) from error
        if count == 0 or (count < len(into) and count % self.alignment_bytes):
            now_bytes = os.fstat(self._fd).st_size
            if position + count < extract.offset + extract.footprint_bytes:
                raise FaultError(
                    f"{self.path}: {extract.name} needs bytes {extract.offset:,} to "
                    f"{extract.offset + extract.footprint_bytes:,}, but the file ends at {now_bytes:,} "
                    f"({format_bytes(self.footprint_bytes)} when it was opened): it was cut while in use. "
                    "Restore the file and start again"
                )
        return count

    def _aligned(self, extract: Extract) -> tuple[int, int]:
        unit = self.alignment_bytes
        start = extract.offset // unit * unit
        return start, -(-(extract.offset + extract.footprint_bytes) // unit) * unit

    def _find_alignment(self) -> int:
        """Return the smallest sector in which the file system accepts direct reads."""
        probe = anonymous_memory(LARGEST_SECTOR_BYTES)
        for unit in _SECTORS_BYTES[:-1]:
            try:
                os.preadv(self._fd, [probe[:unit]], unit)
            except OSError:
                continue
            return unit
        return LARGEST_SECTOR_BYTES


def open_files(
    paths: Iterable[Path], opener: Callable[[Path], DirectFile] = DirectFile
) -> dict[Path, DirectFile]:
    """Return the files open for direct reads; if one fails, the others are closed again."""
    opened: dict[Path, DirectFile] = {}
    try:
        for path in paths:
            opened[path] = opener(path)
    except BaseException:
        for file in opened.values():
            file.close()
        raise
    return opened
