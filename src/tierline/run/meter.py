"""What a run has done by some moment."""

import threading
import time
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes read for the steps that were taken, seconds compute waited, seconds a read was outstanding.

    `host_read_bytes` are those that a host tier before the device read from disk so far.

    Of routed experts: those that were in memory, those that were read, their bytes, and the bytes that were
    read ahead on guesses that turned out wrong.
    """

    read_bytes: int = 0
    stall_s: float = 0.0
    link_busy_s: float = 0.0
    host_read_bytes: int = 0
    expert_hits: int = 0
    expert_misses: int = 0
    expert_read_bytes: int = 0
    wasted_read_bytes: int = 0


class Outstanding:
    """The seconds in which at least one read is outstanding, of all who enter it around theirs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._since_s = self._busy_s = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._count:
                self._since_s = time.perf_counter()
            self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._count -= 1
            if not self._count:
                self._busy_s += time.perf_counter() - self._since_s

    @property
    def busy_s(self) -> float:
        """Seconds so far, with the reads that are under way."""
        with self._lock:
            return self._busy_s + (time.perf_counter() - self._since_s if self._count else 0.0)
