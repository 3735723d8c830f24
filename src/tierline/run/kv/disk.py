"""A file of our own that cache rows are written to and read from past the page cache, ahead of use."""

import errno
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tierline.errors import FaultError, InputError
from tierline.run.direct_io import LARGEST_SECTOR_BYTES, anonymous_memory
from tierline.run.recorder import Recorder
from tierline.units import format_bytes

_REQUEST_BYTES = 2**20


@dataclass(slots=True)
class KvMeter:
    """What of the cache crossed the disk for the steps taken, and how long compute waited for it."""

    read_bytes: int = 0
    write_bytes: int = 0
    stall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Region:
    """A layer's stretch of the file; `index` counts layers in their order of use."""

    index: int
    offset: int
    footprint_bytes: int


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A read that was started before its layer asked."""

    region: Region
    read_bytes: int
    done: "Future[None]"
    into: memoryview


class KvDisk:
    """One nameless file in `folder`, two buffers and the thread that moves rows between them.

    While one layer computes from its buffer, the next layer's rows come into the other. The thread takes one
    job after the other, so a buffer is written out before it is filled again.
    """

    def __init__(self, folder: Path, recorder: Recorder | None = None) -> None:
        """Raises InputError where no file can be made in `folder`."""
        self.folder = folder
        self._recorder = recorder or Recorder()
        self._fd = _open_nameless(folder)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="cache disk")
        self._regions: list[Region] = []
        self._lengths: list[Callable[[], int]] = []
        self._buffers = [memoryview(b""), memoryview(b"")]
        self._in_use = 0
        self._ahead: _Ahead | None = None
        self._written: Future[None] | None = None
        self.meter = KvMeter()

    def close(self) -> None:
        """Stop the thread and give the file back; a second call does nothing."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def region(self, footprint_bytes: int, stored_bytes: Callable[[], int]) -> Region:
        """Return room for `footprint_bytes`, whole sectors; `stored_bytes` says how many of them hold rows.

        Raises InputError where the disk has no such room.
        """
        last = self._regions[-1] if self._regions else Region(-1, 0, 0)
        offset = last.offset + last.footprint_bytes
        try:
            os.posix_fallocate(self._fd, offset, footprint_bytes)
        except OSError as error:
            raise InputError(
                f"{self.folder}: no room for the cache: layer {last.index + 1} needs "
                f"{format_bytes(footprint_bytes)} more ({error.strerror}). Set XDG_CACHE_HOME to a disk with "
                "room, or ask for fewer tokens"
            ) from error
        self._regions.append(Region(last.index + 1, offset, footprint_bytes))
        self._lengths.append(stored_bytes)
        return self._regions[-1]

    def load(self, region: Region, read_bytes: int) -> memoryview:
        """Return a buffer of the region's size whose first `read_bytes` are what the file holds.

        It is valid until the next but one `load`. Raises FaultError if the disk failed.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.region != region or ahead.read_bytes < read_bytes:
            if ahead is not None:
                ahead.done.result()
            ahead = self._start(region, read_bytes)
        started_s = time.perf_counter()
        ahead.done.result()
        self.meter.stall_s += time.perf_counter() - started_s
        self.meter.read_bytes += ahead.read_bytes
        self._in_use = 1 - self._in_use
        return ahead.into

    def prefetch_after(self, region: Region) -> None:
        """Begin to read the rows of the layer that is used after `region`."""
        after = (region.index + 1) % len(self._regions)
        if after != region.index and (stored := self._lengths[after]()):
            self._ahead = self._start(self._regions[after], stored)

    def store(self, region: Region, position: int, data: memoryview) -> None:
        """Write `data`, whole sectors, at `position` of the region; it must not change until the next load.

        Raises FaultError if what was written before did not reach the disk.
        """
        self._settle()
        self.meter.write_bytes += len(data)
        self._written = self._worker.submit(self._move, os.pwritev, "write", region, position, data)

    def fetch(self, region: Region, position: int, footprint_bytes: int) -> bytes:
        """Return `footprint_bytes` from sector-aligned `position` of the region."""
        into = anonymous_memory(-(-footprint_bytes // LARGEST_SECTOR_BYTES) * LARGEST_SECTOR_BYTES)
        self._worker.submit(self._move, os.preadv, "read", region, position, into).result()
        return bytes(into[:footprint_bytes])

    def _start(self, region: Region, read_bytes: int) -> _Ahead:
        spare = 1 - self._in_use
        if len(self._buffers[spare]) < region.footprint_bytes:
            self._buffers[spare] = anonymous_memory(region.footprint_bytes)
        into = self._buffers[spare]
        done = self._worker.submit(self._move, os.preadv, "read", region, 0, into[:read_bytes])
        return _Ahead(region, read_bytes, done, into)

    def _settle(self) -> None:
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _move(
        self,
        call: Callable[[int, list[memoryview], int], int],
        verb: Literal["read", "write"],
        region: Region,
        position: int,
        data: memoryview,
    ) -> None:
        """Read into or write from all of `data`; raise FaultError where the disk does less."""
        started_s, done, offset = time.perf_counter(), 0, region.offset + position
        while done < len(data):
            reason = "the disk moved nothing"
            try:
                count = call(self._fd, [data[done : done + _REQUEST_BYTES]], offset + done)
            except OSError as error:
                count, reason = 0, str(error.strerror)
            if count <= 0:
                raise FaultError(
                    f"{self.folder}: cannot {verb} the cache of layer {region.index} at offset "
                    f"{offset + done:,}: {reason}. Set XDG_CACHE_HOME to another disk, or do without "
                    "--kv-offload"
                )
            done += count
        self._recorder.note("cache disk", verb, f"kv of layer {region.index}", started_s, len(data))


def _open_nameless(folder: Path) -> int:
    """Return a new file's descriptor, for direct transfers where the file system has them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix="kv-")
        try:
            direct = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return descriptor
        finally:
            Path(name).unlink()
    except OSError as error:
        raise InputError(f"{folder}: no file for the cache can be made there: {error.strerror}") from error
    os.close(descriptor)
    return direct
