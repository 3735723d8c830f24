"""Streamed tiles, read ahead of compute into a ring of staging memory.

The schedule is a cycle: after the last tile of one pass comes the first of the next, so the link does not
idle between tokens. Tiles that only some prompts need (what looks at images) come before it as a prelude:
once asked for, they are read and the cycle follows, and nothing of them is read until they are asked for
again. Whenever compute gives a tile's place back, all reads that now have room are asked for; readers only
read, in that order, and compute takes tiles back in the same order.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tierline.machines.calibration import read_settings
from tierline.machines.load import load_calibrated
from tierline.run.direct_io import DEFAULT_REQUEST_BYTES, DirectFile, Extract
from tierline.run.meter import Outstanding
from tierline.run.readers import Read, reader_name, start_readers
from tierline.run.recorder import Recorder
from tierline.run.slowdown import Slowdown
from tierline.run.tiles import Tile

_PLACE_BYTES = 4096  # places in the ring start on pages, which satisfies every sector size
# Tiles that staging holds besides those that are being read: one in use, and one that a reader can begin
# as soon as it is done with another (docs/decisions/015-reads-in-c.md).
SPARE_TILES = 2
READERS = 4  # reads in flight: two leave a disk that is far away half idle
_SHORT_S, _WAIT_S = 0.01, 1.0  # a wait that is longer looks at the rate, and again after so long


@dataclass(frozen=True, slots=True)
class StreamMeter:
    """What crossed the link so far, and how long compute waited for it."""

    read_bytes: int = 0
    link_busy_s: float = 0.0
    stall_s: float = 0.0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class _Place:
    """One tile on its way through the ring; `start` to `stop` are running byte counts, never wrapped."""

    index: int
    number: int
    start: int
    stop: int


class Staging:
    """The ring, its readers and the cycle of tiles they follow; one thread at a time takes tiles from it."""

    def __init__(
        self,
        schedule: Sequence[Tile],
        files: Mapping[Path, DirectFile],
        ring: memoryview,
        *,
        readers: int = READERS,
        recorder: Recorder | None = None,
        outstanding: Outstanding | None = None,
        prelude: int = 0,
    ) -> None:
        """Reads are counted as `outstanding`, whoever else's are too.

        The first `prelude` tiles of `schedule` are read when they are asked for; the cycle is of the others.
        """
        self._schedule, self._ring = schedule, ring
        self._reads = [Read.of(files[tile.tensor.path], _extract(tile)) for tile in schedule]
        self.prelude = prelude
        self.ring_bytes = len(ring)
        # The schedule index that is asked for next, None after a prelude that no cycle follows.
        self._next: int | None = self._start()
        self._places: deque[_Place] = deque()  # in schedule order: asked for, read, or in use at the front
        self._head = self._tail = 0  # running byte counts: the ring holds [tail, head)
        self._recorder = recorder or Recorder()
        self._stall_s, self._restarts = 0.0, 0
        self._taken_bytes = self._taken_before = 0  # read and used, or read and dropped
        self.settled_tiles = 0
        self._read_before, self._busy_before_s = 0, 0.0
        self.slowdown: Slowdown | None = None  # who is told of the rate while compute waits
        self._readers = start_readers(ring, files.values(), readers, outstanding)
        self._ask_ahead()

    def close(self) -> None:
        """Stop the readers and wait for them; a second call does nothing."""
        self._readers.close()

    def rewind(self, *, prelude: bool = False) -> None:
        """Read ahead from the start until the ring is full, then begin to measure anew.

        The start is that of the cycle, or of the `prelude`. Raises FaultError if a read failed.
        """
        self._restart(0 if prelude else self._start())
        self.fill()
        self._stall_s, self._restarts, self._taken_before = 0.0, 0, self._taken_bytes
        self._read_before, self._busy_before_s = self._readers.read_bytes, self._readers.busy_s

    def fill(self) -> None:
        """Wait until all that there is room for is read. Raises FaultError if a read failed."""
        for place in self._places:
            self._arrive(place)

    @property
    def meter(self) -> StreamMeter:
        """What was done since the start, or since the last rewind."""
        read_bytes = self._readers.read_bytes - self._read_before
        return StreamMeter(read_bytes, self.busy_s(), self._stall_s, self._restarts)

    def busy_s(self) -> float:
        """Return how long a read was under way since the last rewind, with those that are now."""
        return self._readers.busy_s - self._busy_before_s

    def settled_read_bytes(self) -> int:
        """Return the bytes read since the last rewind for what compute took, or dropped, in whole sectors."""
        return self._taken_bytes - self._taken_before

    @contextmanager
    def borrow(self, index: int) -> Iterator[memoryview]:
        """Lend the bytes of the tile at schedule `index` while the block runs; they are overwritten after it.

        Tiles asked for in schedule order are prefetched; another order works but restarts the read-ahead.
        Raises FaultError if a read failed.
        """
        place = self._wait_for(index)
        try:
            yield self._data(place)
        finally:
            self._give_back(place)

    def pass_over(self) -> bool:
        """Give back the next tile unused if it is read already; return whether it was."""
        place = self._places[0] if self._places else None
        if place is None or not self._readers.wait(place.number, 0.0):
            return False
        self._taken_bytes += self._reads[place.index].span_bytes
        self._give_back(place)
        return True

    def _give_back(self, place: _Place) -> None:
        self._places.popleft()
        self._tail = place.stop
        self.settled_tiles += 1
        self._ask_ahead()

    def _wait_for(self, index: int) -> _Place:
        started_s = time.perf_counter()
        if not self._places or self._schedule[self._places[0].index] is not self._schedule[index]:
            self._restart(index)
        place = self._places[0]
        self._arrive(place)
        self._stall_s += time.perf_counter() - started_s
        read = self._reads[place.index]
        self._taken_bytes += read.span_bytes
        if self._recorder.on:
            done, name = self._readers.done(place.number), self._schedule[index].name
            self._recorder.note("wait", "wait", name, started_s)
            who = reader_name(done.reader)
            self._recorder.note(who, "read", name, done.start_s, read.span_bytes, stopped_s=done.stop_s)
        return place

    def _arrive(self, place: _Place) -> None:
        """Wait until `place` is read; raise what its reader raised."""
        if self._readers.wait(place.number, _SHORT_S):
            return
        arrived = False
        while not arrived:
            arrived = self._readers.wait(place.number, _WAIT_S)
            if self.slowdown is not None:
                self.slowdown.look(self.meter.read_bytes, self.busy_s())

    def _data(self, place: _Place) -> memoryview:
        read = self._reads[place.index]
        first = place.start % len(self._ring) + read.extract.offset - read.file.aligned_start(read.extract)
        return self._ring[first : first + read.extract.footprint_bytes]

    def _start(self) -> int | None:
        """Return where the cycle begins, None where there is a prelude alone."""
        return self.prelude if self.prelude < len(self._schedule) else None

    def _restart(self, index: int | None) -> None:
        """Forget what was read ahead and begin again at schedule `index`."""
        self._readers.drop()
        self._taken_bytes = self._readers.read_bytes
        self._places.clear()
        self._tail, self._next = self._head, index
        self._restarts += 1
        self._ask_ahead()

    def _ask_ahead(self) -> None:
        """Ask for all reads that there is room for."""
        while self._next is not None:
            index, read = self._next, self._reads[self._next]
            need = _whole_pages(read.span_bytes)
            start = self._head
            if start % len(self._ring) + need > len(self._ring):  # over the end: leave the end unused
                start += -start % len(self._ring)
            if not self._places:
                self._tail = start
            if start + need - self._tail > len(self._ring) or len(self._places) == self._readers.most_kept:
                return
            number = self._readers.ask(read, start % len(self._ring))
            self._places.append(_Place(index, number, start, start + need))
            self._head = start + need
            self._next = index + 1 if index + 1 < len(self._schedule) else self._start()


def stream_settings(near: Path) -> tuple[int, int]:
    """Return (bytes per request, reads in flight) that calibration found best for the disk that holds `near`.

    Where nothing was calibrated they are the defaults.
    """
    calibrated = load_calibrated(near)
    return read_settings(calibrated) if calibrated else (DEFAULT_REQUEST_BYTES, READERS)


def place_bytes(file: DirectFile, tile: Tile) -> int:
    """Return the bytes that `tile` takes in the ring: whole sectors, rounded up to whole pages."""
    return _whole_pages(file.span_bytes(_extract(tile)))


def _whole_pages(footprint_bytes: int) -> int:
    return -(-footprint_bytes // _PLACE_BYTES) * _PLACE_BYTES


def _extract(tile: Tile) -> Extract:
    return Extract(tile.name, tile.offset, tile.footprint_bytes)
