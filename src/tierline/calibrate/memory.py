"""Memory to measure in, larger than the caches, and the rates at which all cores read and copy it."""

import os
import re
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from tierline.calibrate.lanes import Lanes, Step
from tierline.run.direct_io import anonymous_memory
from tierline.units import MIB

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words = npt.NDArray[np.uint64]

# As fp32, bf16, fp16, a block's scale or a code this is an ordinary small number.
_FILLING = 0x3C
_PIECE_BYTES = 4 * MIB
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def largest_cache_bytes(caches: Path = _CACHES) -> int:
    """Return the size of the largest cache that the kernel knows of, 0 where it knows none."""
    sizes = (file.read_text(encoding="ascii").strip() for file in caches.glob("index*/size"))
    return max((int(size[:-1]) * 1024 for size in sizes if re.fullmatch("[0-9]+K", size)), default=0)


def arena_bytes(free_bytes: int, least_bytes: int, cache_bytes: int) -> int:
    """Return how much memory to measure in: twice the largest cache, at most a quarter of what is free."""
    return max(1, min(max(least_bytes, 2 * cache_bytes), free_bytes // 4) // MIB) * MIB


def filled_arena(footprint_bytes: int) -> memoryview:
    """Return that much memory, written to, so that every page is there."""
    import numpy as np

    arena = anonymous_memory(footprint_bytes)
    np.frombuffer(arena, dtype=np.uint8)[:] = _FILLING
    return arena


class Memory:
    """Reads and copies of an arena by all cores, each in its own part of it."""

    def __init__(self, arena: memoryview, *, clock: Callable[[], float] = time.perf_counter) -> None:
        import numpy as np

        count = cores()
        words = np.frombuffer(arena, dtype=np.uint64)
        share = len(words) // count
        parts = [words[i * share : (i + 1) * share] for i in range(count)]
        self._reads, self._copies = [_reading(part) for part in parts], [_copying(part) for part in parts]
        self._lanes = Lanes(count, clock=clock)

    def close(self) -> None:
        """Stop the threads."""
        self._lanes.close()

    def read(self, seconds: float) -> float:
        """Return the bytes/s that all cores read together."""
        return self._lanes.rate(self._reads, seconds)

    def copy(self, seconds: float) -> float:
        """Return the bytes/s that all cores copy together, each copied byte counted once."""
        return self._lanes.rate(self._copies, seconds)


def _pieces(words: "Words") -> "list[Words]":
    step = _PIECE_BYTES // words.itemsize
    return [words[i : i + step] for i in range(0, max(len(words) - step, 1), step)]


def _reading(words: "Words") -> Step:
    import numpy as np

    pieces = cycle(_pieces(words))

    def step() -> int:
        piece = next(pieces)
        np.add.reduce(piece)
        return piece.nbytes

    return step


def _copying(words: "Words") -> Step:
    half = len(words) // 2
    pairs = cycle(zip(_pieces(words[:half]), _pieces(words[half : 2 * half]), strict=True))

    def step() -> int:
        source, target = next(pairs)
        target[:] = source
        return source.nbytes

    return step
