"""Readers of C (reads.c): what they do takes none of the time in which Python computes.

Threads of Python that read need Python's lock before and after each read, and take it from compute: with four
of them a step of many small tiles was a quarter longer (docs/decisions/015-reads-in-c.md).
"""

import ctypes
import weakref
from functools import cache
from pathlib import Path

from tierline.cache import cache_folder
from tierline.run.direct_io import address_of
from tierline.run.library import Recipe, Way, find_compiler, load_or_build
from tierline.run.readers import Done, Read, closed_in_a_pass

MOST_KEPT = 256  # reads.c has it too
_READ, _UNDER_WAY, _CLOSED = 0, -1, -3
_LOOK_S = 0.05  # a wait in C hears no Ctrl-C: it is made in parts
_FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-pthread")
_RECIPE = Recipe("reads", "run/reads.c", (Way(_FLAGS, ("-pthread",)),))
_POOL, _COUNT, _INT, _SECONDS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_double


class NativeReads:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        """Raise OSError or AttributeError where `path` is not the library."""
        library = ctypes.CDLL(str(path))
        counts, seconds = ctypes.POINTER(_COUNT), ctypes.POINTER(_SECONDS)
        for name, result, arguments in (
            ("start", _POOL, (_INT,)),
            ("ask", _COUNT, (_POOL, _INT, ctypes.c_void_p, _COUNT, _COUNT, _COUNT, _COUNT)),
            ("wait", _INT, (_POOL, _COUNT, _SECONDS)),
            ("drop", _INT, (_POOL, _SECONDS)),
            ("count", None, (_POOL, counts, seconds)),
            ("times", _INT, (_POOL, _COUNT, seconds, seconds)),
            ("stop", None, (_POOL,)),
            ("free", None, (_POOL,)),
        ):
            function = getattr(library, f"reads_{name}")
            function.argtypes, function.restype = arguments, result
        self.library = library

    def start(self, readers: int) -> int | None:
        """Return a pool of so many readers, None where the system does not give them."""
        pool: int | None = self.library.reads_start(readers)
        return pool


@cache
def native_reads() -> NativeReads | None:
    """Return the library, built where this version of it is not kept yet; None where that cannot be done."""
    compiler = find_compiler()
    return None if compiler is None else load_or_build(_RECIPE, cache_folder(), compiler, NativeReads)


class NativeReaders:
    """Readers of one pool of the library."""

    most_kept = MOST_KEPT

    def __init__(self, library: NativeReads, pool: int, ring: memoryview) -> None:
        """`pool` is what `library` started; it is stopped and freed with this."""
        self._library, self._pool, self._ring = library.library, pool, ring
        self._address = address_of(ring)
        self._reads: dict[int, tuple[Read, int]] = {}
        # The ring must outlive the readers, however this ends.
        self._end = weakref.finalize(self, _free, self._library, pool, ring)

    @property
    def read_bytes(self) -> int:
        """Bytes read so far, in whole sectors."""
        return self._counts()[0]

    @property
    def busy_s(self) -> float:
        """Seconds so far in which a read was under way."""
        return self._counts()[1]

    def ask(self, read: Read, start: int) -> int:
        """Have `read` made into the ring at `start`; return its number, at once."""
        file, extract = read.file, read.extract
        offset = file.aligned_start(extract)
        number: int = self._library.reads_ask(
            self._pool,
            file.descriptor,
            self._address + start,
            offset,
            read.span_bytes,
            extract.offset - offset + extract.footprint_bytes,
            file.request_bytes,
        )
        self._reads[number] = read, start
        self._reads.pop(number - MOST_KEPT, None)
        return number

    def wait(self, number: int, most_s: float) -> bool:
        """Return whether that read was made, waiting at most so long; raise FaultError where it failed."""
        while (state := self._library.reads_wait(self._pool, number, min(most_s, _LOOK_S))) == _UNDER_WAY:
            most_s -= _LOOK_S
            if most_s <= 0:
                return False
        if state == _CLOSED:
            raise closed_in_a_pass()
        if state != _READ:  # made once more where what is wrong can be said
            read, start = self._reads[number]
            read.file.read(read.extract, self._ring[start : start + read.span_bytes])
        return True

    def done(self, number: int) -> Done:
        """Return how a read went that was waited for."""
        start_s, stop_s = ctypes.c_double(), ctypes.c_double()
        reader = self._library.reads_times(self._pool, number, ctypes.byref(start_s), ctypes.byref(stop_s))
        return Done(start_s.value, stop_s.value, reader)

    def drop(self) -> None:
        """Forget the reads that have not begun, and wait for those that have."""
        while self._library.reads_drop(self._pool, _LOOK_S):
            pass

    def close(self) -> None:
        """Stop the readers and wait for them; a second call does nothing."""
        self._library.reads_stop(self._pool)

    def _counts(self) -> tuple[int, float]:
        read_bytes, busy_s = ctypes.c_int64(), ctypes.c_double()
        self._library.reads_count(self._pool, ctypes.byref(read_bytes), ctypes.byref(busy_s))
        return read_bytes.value, busy_s.value


def _free(library: ctypes.CDLL, pool: int, ring: memoryview) -> None:
    """Stop and free `pool`; until then `ring` is kept, whose memory it writes."""
    library.reads_stop(pool)
    library.reads_free(pool)
    del ring
