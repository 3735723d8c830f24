"""Short measurements of this computer's disk and memory, each bounded to about a second."""

import mmap
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tierline.errors import InputError
from tierline.units import MIB

REQUEST_BYTES = 4 * MIB
_IN_FLIGHT = 2
_FILE_BYTES = 256 * MIB
_LEAST_FILE_BYTES = 32 * MIB
_SECONDS = 0.8
_MEMORY_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class DiskRate:
    """Bytes per second read from a disk in sequence; `direct` is False where the page cache had a part."""

    bytes_per_s: float
    direct: bool


def measure_disk(path: Path) -> DiskRate:
    """Return the sequential read rate of the disk that holds `path`.

    A file of at least 32 MiB is read itself; for a folder a temporary file of up to 256 MiB is written there
    and removed. Reads are O_DIRECT requests of 4 MiB, two in flight, into anonymous memory; where O_DIRECT is
    refused (tmpfs, some network file systems) they are buffered, after asking the kernel to drop the file's
    pages. Raises InputError where the folder cannot be written to.
    """
    if path.is_file() and path.stat().st_size >= _LEAST_FILE_BYTES:
        return _read_rate(path)
    folder = path if path.is_dir() else path.parent
    try:
        handle, name = tempfile.mkstemp(prefix=".tierline-probe-", dir=folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot measure this disk: {error.strerror}") from None
    try:
        _fill(handle)
        os.close(handle)
        return _read_rate(Path(name))
    except OSError as error:
        raise InputError(f"{folder}: cannot measure this disk: {error.strerror}") from None
    finally:
        Path(name).unlink(missing_ok=True)


def measure_memory(free_bytes: int) -> float:
    """Return the bytes per second that all our cores together read from memory.

    Each core sums its own array, and all arrays together take 256 MiB or a quarter of `free_bytes`, so that
    they do not stay in the caches.
    """
    import numpy as np

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = max(min(256 * MIB, free_bytes // 4) // cores // 8, 1024)
    arrays = [np.ones(words, dtype=np.uint64) for _ in range(cores)]

    def read(array: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> int:
        done = 0
        while time.perf_counter() < deadline:
            np.add.reduce(array)
            done += array.nbytes
        return done

    with ThreadPoolExecutor(cores) as pool:
        start = time.perf_counter()
        deadline = start + _MEMORY_SECONDS
        total = sum(pool.map(read, arrays))
        return total / (time.perf_counter() - start)


def _fill(handle: int) -> None:
    """Write random bytes to the disk until the file is large enough or a second has passed."""
    block = os.urandom(REQUEST_BYTES)
    deadline = time.perf_counter() + _SECONDS
    written = 0
    while written < _FILE_BYTES and (written < _LEAST_FILE_BYTES or time.perf_counter() < deadline):
        written += os.write(handle, block)
        # Without this a fast page cache takes everything at once, and one long fsync follows.
        os.fdatasync(handle)


def _read_rate(path: Path) -> DiskRate:
    size = path.stat().st_size // REQUEST_BYTES * REQUEST_BYTES
    handle, direct = _open(path)
    try:
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            start = time.perf_counter()
            deadline = start + _SECONDS
            done = sum(pool.map(lambda lane: _read(handle, lane, size, deadline), range(_IN_FLIGHT)))
            return DiskRate(done / (time.perf_counter() - start), direct)
    finally:
        os.close(handle)


def _open(path: Path) -> tuple[int, bool]:
    direct_flag = getattr(os, "O_DIRECT", 0)
    if direct_flag:
        try:
            return os.open(path, os.O_RDONLY | direct_flag), True
        except OSError:  # EINVAL: the file system has no O_DIRECT
            pass
    handle = os.open(path, os.O_RDONLY)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    return handle, False


def _read(handle: int, lane: int, size: int, deadline: float) -> int:
    """Read every `_IN_FLIGHT`th request of the file from `lane` on, once, and return the bytes read."""
    done = 0
    with mmap.mmap(-1, REQUEST_BYTES) as buffer:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            buffer.madvise(mmap.MADV_HUGEPAGE)
        with memoryview(buffer) as view:
            for offset in range(lane * REQUEST_BYTES, size, _IN_FLIGHT * REQUEST_BYTES):
                if time.perf_counter() > deadline:
                    break
                done += os.preadv(handle, [view], offset)
    return done
