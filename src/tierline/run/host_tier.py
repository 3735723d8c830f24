"""Three tiers: tiles that the device does not hold are kept by the host or read from disk, and copied over.

```
  disk ──read──► host slots ──┐
                 host arena ──┴──copy link──► device ring ──► compute
```

Without a device, a paced copy within this computer's memory stands for its link (`copy_link.py`).
"""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tierline.errors import BudgetError
from tierline.place.placement import Placement, Unit, place
from tierline.run.copy_link import CopyLink
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory
from tierline.run.loading import read_tiles
from tierline.run.staging import place_bytes
from tierline.run.tiles import Tile
from tierline.units import format_bytes

_SAMPLE_S = 0.5


@dataclass(frozen=True, slots=True)
class HostRates:
    """Bytes/s of the disk into host slots (None where all is kept), and of the copy link, each alone."""

    disk_bytes_per_s: float | None
    copy_bytes_per_s: float


class HostTier:
    """`capacity_bytes` of a host's memory before a device: what it keeps, and slots for what passes.

    `readers` tiles pass at once: while one is copied, another is read.
    """

    def __init__(self, capacity_bytes: int, link: CopyLink, *, readers: int) -> None:
        self.capacity_bytes, self.link, self._readers = capacity_bytes, link, readers
        self.placement: Placement | None = None
        self.disk_read_bytes = 0
        self._lock = threading.Lock()
        self._kept: dict[tuple[Path, int], memoryview] = {}
        self._slots: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._passing: tuple[tuple[DirectFile, Extract], ...] = ()

    def close(self) -> None:
        """End copies that are under way; a second call does nothing."""
        self.link.close()

    def stage(self, tiles: Sequence[Tile], files: Mapping[Path, DirectFile]) -> Mapping[Path, DirectFile]:
        """Read what is kept of `tiles`, spread evenly, and return files whose reads end in device slots.

        Raises BudgetError where not even the slots fit, FaultError where a read fails.
        """
        sizes = {tile.name: place_bytes(files[tile.tensor.path], tile) for tile in tiles}
        units = [Unit(name, footprint_bytes) for name, footprint_bytes in sizes.items()]
        placement = place(units, self.capacity_bytes, slots=self._readers)
        if placement is None:
            least_bytes = self._readers * max(sizes.values())
            raise BudgetError(
                f"--host {format_bytes(self.capacity_bytes)} is too little: {self._readers} tiles on their "
                f"way to the device take {format_bytes(least_bytes)}. Give --host {least_bytes}B or more"
            )
        self.placement = placement
        self._keep(tiles, sizes, {u.name for u in placement.pinned}, files)
        room = anonymous_memory(placement.staging_bytes)
        for start in range(0, placement.staging_bytes, placement.slot_bytes or 1):
            self._slots.put(room[start : start + placement.slot_bytes])
        return {path: HostedFile(file, self) for path, file in files.items()}

    @property
    def pass_reads(self) -> dict[str, int]:
        """What a pass reads from disk, by tile, in whole sectors."""
        return {extract.name: file.span_bytes(extract) for file, extract in self._passing}

    def passes_by(self, tile: Tile) -> bool:
        """Return whether `tile` comes from disk in every pass."""
        return (tile.tensor.path, tile.offset) not in self._kept

    def fetch(self, file: DirectFile, extract: Extract, into: memoryview) -> memoryview:
        """Bring one tile into a device slot, from the host's memory or through it; return its bytes there."""
        target = into[: extract.footprint_bytes]
        kept = self._kept.get((file.path, extract.offset))
        if kept is not None:
            self.link.copy(kept, target).wait()
            return target
        slot = self._slots.get()
        try:
            data = file.read(extract, slot)
            with self._lock:
                self.disk_read_bytes += file.span_bytes(extract)
            self.link.copy(data, target).wait()
        finally:
            self._slots.put(slot)
        return target

    def measure(self) -> HostRates:
        """Return the rates of both links, each alone; nothing may be streaming meanwhile."""
        slots = [self._slots.get() for _ in range(self._slots.qsize())]
        try:
            return HostRates(self._disk_rate(slots), self._copy_rate(slots))
        finally:
            for slot in slots:
                self._slots.put(slot)

    def _keep(
        self,
        tiles: Sequence[Tile],
        sizes: Mapping[str, int],
        names: set[str],
        files: Mapping[Path, DirectFile],
    ) -> None:
        kept = [tile for tile in tiles if tile.name in names]
        arena, places, used = anonymous_memory(sum(sizes[t.name] for t in kept)), [], 0
        for tile in kept:
            places.append((tile, arena[used : used + sizes[tile.name]]))
            used += sizes[tile.name]
        with closing(read_tiles(places, files, self._readers)) as found:
            for tile, data in zip(kept, found, strict=True):
                self._kept[tile.tensor.path, tile.offset] = data
        self._passing = tuple(
            (files[t.tensor.path], Extract(t.name, t.offset, t.footprint_bytes))
            for t in tiles
            if self.passes_by(t)
        )

    def _disk_rate(self, slots: Sequence[memoryview]) -> float | None:
        if not self._passing:
            return None
        free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for slot in slots:
            free.put(slot)

        def read(file: DirectFile, extract: Extract) -> int:
            slot = free.get()
            try:
                file.read(extract, slot)
            finally:
                free.put(slot)
            return file.span_bytes(extract)

        started_s, read_bytes = time.perf_counter(), 0
        with ThreadPoolExecutor(len(slots), "disk sample") as pool:
            while time.perf_counter() - started_s < _SAMPLE_S:
                read_bytes += sum(pool.map(read, *zip(*self._passing[: 8 * len(slots)], strict=True)))
        return read_bytes / (time.perf_counter() - started_s)

    def _copy_rate(self, slots: Sequence[memoryview]) -> float:
        source = slots[0] if slots else next(iter(self._kept.values()))
        target = anonymous_memory(len(source))
        started_s, copied_bytes = time.perf_counter(), 0
        while time.perf_counter() - started_s < _SAMPLE_S / 2:
            self.link.copy(source, target).wait()
            copied_bytes += len(source)
        return copied_bytes / (time.perf_counter() - started_s)


class HostedFile(DirectFile):
    """A file whose reads end in a device slot: staging of a device reads it like any other."""

    def __init__(self, file: DirectFile, tier: HostTier) -> None:
        """`file` stays whose it is; this one opens and closes nothing."""
        self._file, self._tier = file, tier
        self.path, self.direct = file.path, file.direct
        self.footprint_bytes, self.alignment_bytes = file.footprint_bytes, 1

    def close(self) -> None:
        """Do nothing: the file is closed by who opened it."""

    def span_bytes(self, extract: Extract) -> int:
        """Return the bytes that cross the device's link: those of the extract alone."""
        return extract.footprint_bytes

    def read(self, extract: Extract, into: memoryview) -> memoryview:
        """Bring `extract` to the front of `into`, as `HostTier.fetch` does."""
        return self._tier.fetch(self._file, extract, into)
