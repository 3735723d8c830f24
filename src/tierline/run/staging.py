"""Streamed tiles, read ahead of compute by threads into a ring of staging memory.

The schedule is a cycle: after the last tile of one pass comes the first of the next, so the link does not
idle between tokens. Tiles that only some prompts need (what looks at images) come before it as a prelude:
once asked for, they are read and the cycle follows, and nothing of them is read until they are asked for
again. Reader threads only read; positions in the schedule are handed out in order, each with its place in the
ring, and compute takes them back in the same order.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tierline.errors import FaultError
from tierline.machines.calibration import read_settings
from tierline.machines.load import load_calibrated
from tierline.run.direct_io import DEFAULT_REQUEST_BYTES, DirectFile, Extract
from tierline.run.meter import Outstanding
from tierline.run.recorder import Recorder
from tierline.run.slowdown import Slowdown
from tierline.run.tiles import Tile

_PLACE_BYTES = 4096  # places in the ring start on pages, which satisfies every sector size
READERS = 4  # reads in flight: two leave a disk that is far away half idle
_WAIT_S = 1.0  # how long compute waits before it looks whether the readers are still alive


@dataclass(slots=True)
class StreamMeter:
    """What crossed the link so far, and how long compute waited for it."""

    read_bytes: int = 0
    link_busy_s: float = 0.0
    stall_s: float = 0.0
    restarts: int = 0


@dataclass(slots=True)
class _Place:
    """One tile on its way through the ring; `start` to `stop` are running byte counts, never wrapped."""

    tile: Tile
    start: int
    stop: int
    data: memoryview | None = None


class Staging:
    """The ring, its readers and the cycle of tiles they follow."""

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
        """Reads are made within `outstanding`, whoever else's are too.

        The first `prelude` tiles of `schedule` are read when they are asked for; the cycle is of the others.
        """
        self._schedule, self._files, self._ring = schedule, files, ring
        self.prelude = prelude
        self.ring_bytes = len(ring)
        # The schedule index that is handed out next, None after a prelude that no cycle follows.
        self._next: int | None = self._start()
        self._places: deque[_Place] = deque()  # in schedule order: being read, read, or in use at the front
        self._head = self._tail = 0  # running byte counts: the ring holds [tail, head)
        self._reading = 0
        self._busy_since = 0.0
        self._fault: BaseException | None = None
        self._closed = self._draining = False
        self._changed = threading.Condition()
        self._recorder = recorder or Recorder()
        self._outstanding = outstanding or Outstanding()
        self.meter = StreamMeter()
        self.slowdown: Slowdown | None = None  # who is told of the rate while compute waits
        self._threads = [
            threading.Thread(target=self._read_ahead, name=f"disk reader {i}", daemon=True)
            for i in range(readers)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the readers and wait for them; a second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def rewind(self, *, prelude: bool = False) -> None:
        """Read ahead from the start until the ring is full, then begin to measure anew.

        The start is that of the cycle, or of the `prelude`. Raises FaultError if a read failed.
        """
        with self._changed:
            self._restart(0 if prelude else self._start())
            self._until(lambda: self._reading == 0 and self._is_full())
            self.meter = StreamMeter()

    def busy_s(self) -> float:
        """Return how long a read was outstanding so far, with the one that is under way."""
        with self._changed:
            going_s = time.perf_counter() - self._busy_since if self._reading else 0.0
            return self.meter.link_busy_s + going_s

    def settled_read_bytes(self) -> int:
        """Return the bytes read so far, less those that lie ready for what comes next."""
        with self._changed:
            ahead = (p for p in self._places if p.data is not None)
            return self.meter.read_bytes - sum(self._span_bytes(p.tile) for p in ahead)

    @contextmanager
    def borrow(self, index: int) -> Iterator[memoryview]:
        """Lend the bytes of the tile at schedule `index` while the block runs; they are overwritten after it.

        Tiles asked for in schedule order are prefetched; another order works but restarts the read-ahead.
        Raises FaultError if a read failed.
        """
        place = self._wait_for(index)
        assert place.data is not None  # noqa: S101 - _wait_for returns only places that were read
        try:
            yield place.data
        finally:
            with self._changed:
                self._places.popleft()
                self._tail = place.stop
                self._changed.notify_all()

    def _wait_for(self, index: int) -> _Place:
        wanted = self._schedule[index]
        started_s = time.perf_counter()
        with self._changed:
            if self._ahead() is not wanted:
                self._restart(index)
            self._until(lambda: bool(self._places) and self._places[0].data is not None)
            place = self._places[0]
            waited_s = time.perf_counter() - started_s
            self.meter.stall_s += waited_s
            self._recorder.note("wait", "wait", wanted.name, started_s)
            return place

    def _start(self) -> int | None:
        """Return where the cycle begins, None where there is a prelude alone."""
        return self.prelude if self.prelude < len(self._schedule) else None

    def _is_full(self) -> bool:
        """Return whether nothing more can be read ahead before something is used."""
        return self._next is None or self._find_room(self._next) is None

    def _ahead(self) -> Tile | None:
        """Return what the next that is borrowed will be, if it is the one that was read ahead."""
        if self._places:
            return self._places[0].tile
        return None if self._next is None else self._schedule[self._next]

    def _restart(self, index: int | None) -> None:
        """Forget what was read ahead and begin again at schedule `index`."""
        self._draining = True
        self._until(lambda: self._reading == 0)
        self._places.clear()
        self._tail = self._head
        self._next = index
        self._draining = False
        self.meter.restarts += 1
        self._changed.notify_all()

    def _until(self, ready: Callable[[], bool]) -> None:
        """Wait, holding the lock, until `ready`; raise what a reader raised."""
        while self._fault is None and not ready():
            if self._closed:
                raise FaultError("the weights were closed while a pass was using them")
            self._changed.wait(_WAIT_S)
            if self.slowdown is not None:
                self.slowdown.look(self.meter.read_bytes, self.busy_s())
        if self._fault is not None:
            if isinstance(self._fault, FaultError):
                raise self._fault
            raise FaultError(f"a reader stopped: {self._fault}") from self._fault

    def _read_ahead(self) -> None:
        try:
            while (place := self._take_place()) is not None:
                self._fill(place)
        except BaseException as fault:  # noqa: BLE001 - whatever it is, compute must hear of it, not hang
            with self._changed:
                self._fault = self._fault or fault
                self._reading = 0
                self._changed.notify_all()

    def _fill(self, place: _Place) -> None:
        tile, started_s = place.tile, time.perf_counter()
        start = place.start % len(self._ring)
        into = self._ring[start : start + place.stop - place.start]
        with self._outstanding:
            data = self._files[tile.tensor.path].read(_extract(tile), into)
        span_bytes = self._span_bytes(tile)
        with self._changed:
            place.data = data
            self._reading -= 1
            if self._reading == 0:
                self.meter.link_busy_s += time.perf_counter() - self._busy_since
            self.meter.read_bytes += span_bytes
            self._recorder.note(threading.current_thread().name, "read", tile.name, started_s, span_bytes)
            self._changed.notify_all()

    def _take_place(self) -> _Place | None:
        """Return the next tile's place in the ring once there is room for it, None when closed."""
        with self._changed:
            while not (self._closed or self._fault):
                index = self._next
                if not self._draining and index is not None and (place := self._find_room(index)) is not None:
                    self._places.append(place)
                    self._head = place.stop
                    self._next = index + 1 if index + 1 < len(self._schedule) else self._start()
                    if self._reading == 0:
                        self._busy_since = time.perf_counter()
                    self._reading += 1
                    return place
                self._changed.wait()
        return None

    def _find_room(self, index: int) -> _Place | None:
        tile = self._schedule[index]
        need = place_bytes(self._files[tile.tensor.path], tile)
        start = self._head
        if start % len(self._ring) + need > len(self._ring):  # would run over the end: leave the end unused
            start += -start % len(self._ring)
        if not self._places:
            self._tail = start
        return _Place(tile, start, start + need) if start + need - self._tail <= len(self._ring) else None

    def _span_bytes(self, tile: Tile) -> int:
        return self._files[tile.tensor.path].span_bytes(_extract(tile))


def stream_settings(near: Path) -> tuple[int, int]:
    """Return (bytes per request, reads in flight) that calibration found best for the disk that holds `near`.

    Where nothing was calibrated they are the defaults.
    """
    calibrated = load_calibrated(near)
    return read_settings(calibrated) if calibrated else (DEFAULT_REQUEST_BYTES, READERS)


def place_bytes(file: DirectFile, tile: Tile) -> int:
    """Return the bytes that `tile` takes in the ring: whole sectors, rounded up to whole pages."""
    return -(-file.span_bytes(_extract(tile)) // _PLACE_BYTES) * _PLACE_BYTES


def _extract(tile: Tile) -> Extract:
    return Extract(tile.name, tile.offset, tile.footprint_bytes)
