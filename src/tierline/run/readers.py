"""Who reads into the ring: threads of C where the files allow it, of Python where not.

Reads are made in the order in which they are asked for, several at once.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from tierline.errors import FaultError
from tierline.run.direct_io import DirectFile, Extract
from tierline.run.meter import Outstanding

_LOOK_S = 1.0  # how long a wait lasts before it looks about


@dataclass(frozen=True, slots=True)
class Read:
    """One extract of a file, in whole sectors."""

    file: DirectFile
    extract: Extract
    span_bytes: int

    @classmethod
    def of(cls, file: DirectFile, extract: Extract) -> "Read":
        """Return `extract` of `file`, and what reading it takes."""
        return cls(file, extract, file.span_bytes(extract))


@dataclass(frozen=True, slots=True)
class Done:
    """When a read began and ended (of time.perf_counter), and which reader made it."""

    start_s: float
    stop_s: float
    reader: int


class Readers(Protocol):
    """Reads under way into one ring; those asked for are numbered, and the newest `most_kept` remembered."""

    @property
    def most_kept(self) -> int:
        """How many reads may be asked for, or done and not yet used."""
        ...

    @property
    def read_bytes(self) -> int:
        """Bytes read so far, in whole sectors."""
        ...

    @property
    def busy_s(self) -> float:
        """Seconds so far in which a read was under way."""
        ...

    def ask(self, read: Read, start: int) -> int:
        """Have `read` made into the ring at `start`; return its number, at once."""
        ...

    def wait(self, number: int, most_s: float) -> bool:
        """Return whether that read was made, waiting for it at most so long; raise what it raised.

        Raises FaultError once the readers are closed.
        """
        ...

    def done(self, number: int) -> Done:
        """Return how a read went that was waited for."""
        ...

    def drop(self) -> None:
        """Forget the reads that have not begun, and wait for those that have."""
        ...

    def close(self) -> None:
        """Stop, and end every wait; a second call does nothing."""
        ...


def start_readers(
    ring: memoryview, files: Iterable[DirectFile], count: int, outstanding: Outstanding | None = None
) -> Readers:
    """Return `count` readers of `files` into `ring`: threads of C, or of Python where `files` are not plain.

    Those that are paced, striped or watched by a test read in Python, as do those whose reads are counted as
    `outstanding` together with another's.
    """
    from tierline.run.native_reads import NativeReaders, native_reads

    plain = outstanding is None and all(type(file) is DirectFile for file in files)
    library = native_reads() if plain else None
    pool = None if library is None else library.start(count)
    if library is None or pool is None:
        return ThreadReaders(ring, count, outstanding)
    return NativeReaders(library, pool, ring)


class _Asked:
    """A read on its way."""

    def __init__(self, read: Read, start: int) -> None:
        self.read, self.start = read, start
        self.done: Done | None = None
        self.fault: BaseException | None = None


class ThreadReaders:
    """Threads of Python: they read whatever kind of file there is."""

    most_kept = 4096

    def __init__(self, ring: memoryview, count: int, outstanding: Outstanding | None = None) -> None:
        """Reads are counted as `outstanding` too."""
        self._ring, self._shared = ring, outstanding
        self._own = Outstanding()
        self._asked: dict[int, _Asked] = {}
        self._queue: deque[_Asked] = deque()
        self._number = self._under_way = 0
        self._closed = False
        self._changed = threading.Condition()
        self.read_bytes = 0
        self._threads = [
            threading.Thread(target=self._serve, args=(i,), name=reader_name(i), daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def busy_s(self) -> float:
        """Seconds so far in which a read was under way."""
        return self._own.busy_s

    def ask(self, read: Read, start: int) -> int:
        """Have `read` made into the ring at `start`; return its number, at once."""
        with self._changed:
            number, asked = self._number, _Asked(read, start)
            self._number += 1
            self._asked[number] = asked
            self._asked.pop(number - self.most_kept, None)
            self._queue.append(asked)
            self._changed.notify_all()
            return number

    def wait(self, number: int, most_s: float) -> bool:
        """Return whether that read was made, waiting at most so long; raise FaultError for what it raised."""
        asked = self._asked[number]
        with self._changed:
            self._changed.wait_for(lambda: self._closed or asked.done or asked.fault, most_s)
        if asked.fault is not None:
            if isinstance(asked.fault, FaultError):
                raise asked.fault
            raise FaultError(f"a reader stopped: {asked.fault}") from asked.fault
        if self._closed:
            raise closed_in_a_pass()
        return asked.done is not None

    def done(self, number: int) -> Done:
        """Return how a read went that was waited for."""
        done = self._asked[number].done
        assert done is not None  # noqa: S101 - it was waited for
        return done

    def drop(self) -> None:
        """Forget the reads that have not begun, and wait for those that have."""
        with self._changed:
            self._queue.clear()
            while self._under_way and not self._closed:
                self._changed.wait(_LOOK_S)

    def close(self) -> None:
        """Stop the readers and wait for them; a second call does nothing."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self, reader: int) -> None:
        while (asked := self._take()) is not None:
            started_s, read = time.perf_counter(), asked.read
            into = self._ring[asked.start : asked.start + read.span_bytes]
            try:
                with self._own, self._shared or _nobody():
                    read.file.read(read.extract, into)
            except BaseException as fault:  # noqa: BLE001 - whatever it is, compute must hear of it, not hang
                asked.fault = fault
            with self._changed:
                self._under_way -= 1
                if asked.fault is None:
                    asked.done = Done(started_s, time.perf_counter(), reader)
                    self.read_bytes += read.span_bytes
                self._changed.notify_all()

    def _take(self) -> _Asked | None:
        with self._changed:
            while not (self._queue or self._closed):
                self._changed.wait()
            if self._closed:
                return None
            self._under_way += 1
            return self._queue.popleft()


def _nobody() -> AbstractContextManager[None]:
    return nullcontext()


def reader_name(reader: int) -> str:
    """Return what a reader is called in traces."""
    return f"disk reader {reader}"


def closed_in_a_pass() -> FaultError:
    """Return what a pass is told whose weights were closed."""
    return FaultError("the weights were closed while a pass was using them")
