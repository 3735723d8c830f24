"""The link from the host's memory to a device's: copies in order, one after another, beside compute.

On a device it is a copy stream from page-locked slots; without one, `PacedCopyLink` stands for it: a real
copy within this computer's memory that takes as long as another machine's link would.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from tierline.errors import FaultError
from tierline.run.pace import Pace, PacedLink

Copying = Callable[[memoryview, memoryview], None]


class Copy(Protocol):
    """A copy under way."""

    def wait(self) -> None:
        """Return once the bytes are there; raise FaultError where they will never be."""
        ...


class CopyLink(Protocol):
    """Copies from host slots to device slots; one link is shared by all who copy."""

    @property
    def name(self) -> str:
        """The link's name, as plans and traces have it."""
        ...

    def copy(self, source: memoryview, target: memoryview) -> Copy:
        """Begin to copy `source` to the front of `target` and return at once.

        Copies end in the order in which they began. `source` must stay as it is, and `target` must not be
        looked at, until the copy has been waited for.
        """
        ...

    def close(self) -> None:
        """Give back what the link holds; copies that are under way fail. A second call does nothing."""
        ...


class PacedCopyLink:
    """Stands for a device's link: copies within this computer's memory, at the pace of another machine's.

    One thread copies, in order. The time of the copy itself is part of the pace, unless it is longer.
    """

    def __init__(self, pace: Pace, *, link: PacedLink | None = None) -> None:
        """`link` is the pace as something that can be waited for: by default one on the real clock."""
        self._link = link or PacedLink(pace)
        self._asked: queue.SimpleQueue[tuple[memoryview, memoryview, float, Future[None]] | None] = (
            queue.SimpleQueue()
        )
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=f"{pace.link} copies", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The name of the link that this one stands for."""
        return self._link.pace.link

    def copy(self, source: memoryview, target: memoryview) -> "PacedCopy":
        """Begin to copy as `CopyLink.copy` says. Raises ValueError where `target` is too small."""
        if target.nbytes < source.nbytes:
            raise ValueError(f"{source.nbytes:,} B do not fit into {target.nbytes:,} B")
        done: Future[None] = Future()
        if self._closed:
            done.set_exception(_closed())
        else:
            self._asked.put((source, target, self._link.ask(source.nbytes), done))
        return PacedCopy(done)

    def close(self) -> None:
        """Stop the thread; a second call does nothing."""
        self._closed = True
        self._link.stop()
        self._asked.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (asked := self._asked.get()) is not None:
            source, target, crossed_s, done = asked
            if not self._closed:
                copy_bytes(source, target)
                self._link.until(crossed_s)
            if self._closed:
                done.set_exception(_closed())
            else:
                done.set_result(None)


class PacedCopy:
    """A copy over a paced link."""

    def __init__(self, done: Future[None]) -> None:
        self._done = done

    def wait(self) -> None:
        """Return once the bytes are there, and would be on the machine that is stood for."""
        self._done.result()


def copy_bytes(source: memoryview, target: memoryview) -> None:
    """Copy `source` to the front of `target`, other threads going on meanwhile (a slice would stop them)."""
    import numpy as np

    np.copyto(np.frombuffer(target, np.uint8, source.nbytes), np.frombuffer(source, np.uint8))


def _closed() -> FaultError:
    return FaultError("the copy link was closed while a copy was under way")
