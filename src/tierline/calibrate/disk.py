"""A file on the disk to be measured, and its read rate by request size and number of readers."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from tierline.calibrate.budget import Budget
from tierline.calibrate.lanes import Lanes, Step
from tierline.errors import InputError
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory
from tierline.units import MIB, format_bytes

_LEAST_REQUESTS = 2  # of each reader in a sample
_BLOCK_BYTES = 4 * MIB


class Readable(Protocol):
    """What is read: `DirectFile`, or a stand-in."""

    footprint_bytes: int

    def read(self, extract: Extract, into: memoryview) -> memoryview:
        """Read `extract` into the front of `into`."""
        ...


class Disk:
    """Reads `file` from front to back and over again, by requests that follow one another in it."""

    def __init__(
        self,
        file: Readable,
        *,
        largest_bytes: int,
        most_readers: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._file = file
        self._buffers = [anonymous_memory(largest_bytes) for _ in range(most_readers)]
        self._lanes = Lanes(most_readers, clock=clock)
        self._position = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Stop the readers."""
        self._lanes.close()

    def rate(
        self,
        request_bytes: int,
        readers: int,
        seconds: float,
        *,
        meanwhile: Callable[[], object] | None = None,
    ) -> float:
        """Return the bytes/s of `readers` threads that read requests of this size, one after another.

        The caller's thread does `meanwhile` again and again. Raises FaultError where a read fails.
        """
        steps = self._steps(request_bytes, readers)
        return self._lanes.rate(steps, seconds, least=_LEAST_REQUESTS, meanwhile=meanwhile)

    @contextmanager
    def reading(self, request_bytes: int, readers: int) -> Iterator[None]:
        """Keep the disk busy while the block runs. Raises FaultError at its end where a read failed."""
        enough = threading.Event()
        running = self._lanes.run(self._steps(request_bytes, readers), enough)
        try:
            yield
        finally:
            enough.set()
            wait(running)
        for future in running:
            future.result()

    def _steps(self, request_bytes: int, readers: int) -> list[Step]:
        return [partial(self._read, request_bytes, buffer) for buffer in self._buffers[:readers]]

    def _read(self, request_bytes: int, buffer: memoryview) -> int:
        with self._lock:
            position = self._position
            if position + request_bytes > self._file.footprint_bytes:
                position = 0
            self._position = position + request_bytes
        self._file.read(Extract("calibration", position, request_bytes), buffer)
        return request_bytes


@contextmanager
def measured_file(path: Path, budget: Budget) -> Iterator[DirectFile]:
    """Lend a file on the disk that holds `path` to read from: `path` itself, or one that has no name.

    A file at `path` is read itself. In a folder a temporary file is written that has no name from the start
    (or loses it at once), so that nothing is left behind however this process ends. Where O_DIRECT is refused
    the kernel is asked to forget the file's pages first. Raises InputError where neither can be done.
    """
    least_bytes = max(budget.request_bytes) * max(budget.readers)
    with ExitStack() as stack:
        name = path
        if not path.is_file():
            folder = path if path.is_dir() else path.parent
            try:
                written = stack.enter_context(tempfile.TemporaryFile(dir=folder))
                _fill(written.fileno(), budget, least_bytes)
            except OSError as error:
                raise InputError(f"{folder}: cannot measure this disk: {error.strerror}") from None
            name = Path(f"/proc/self/fd/{written.fileno()}")
        file = stack.enter_context(DirectFile(name))
        if file.footprint_bytes < least_bytes:
            raise InputError(
                f"{path}: has {format_bytes(file.footprint_bytes)}, and readings take at least "
                f"{format_bytes(least_bytes)}; give a larger file, or a folder on the same disk"
            )
        if not file.direct:
            _forget(name)
        yield file


def _fill(handle: int, budget: Budget, least_bytes: int) -> None:
    """Write random bytes to the disk until the file is large enough and has taken long enough."""
    block = os.urandom(_BLOCK_BYTES)
    deadline = time.perf_counter() + budget.fill_s
    written = 0
    while written < least_bytes or (written < budget.file_bytes and time.perf_counter() < deadline):
        written += os.write(handle, block)
        # Without this a fast page cache takes everything at once, and one long fsync follows.
        os.fdatasync(handle)


def _forget(name: Path) -> None:
    handle = os.open(name, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
