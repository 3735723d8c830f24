"""Tiles on their way into a device's memory: host slots, a copy link, device slots, all ahead of compute.

The pipeline is that of `staging`, once more: a feeder follows the cycle of tiles that the device does not
keep, takes each from the host (where it is pinned, or arrives from disk in the host's own ring) and copies it
into the next free slot. Compute borrows slots in the same order. Both links work beside compute, so a pass
takes `max(compute, bytes copied / copy rate, bytes read / disk rate)`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn import functional

from tierline.errors import FaultError
from tierline.models.stored import StoredTensor
from tierline.run.copy_link import Copy
from tierline.run.device import Device, Slot, device_dtype
from tierline.run.matrix import Home, PinnedTile
from tierline.run.recorder import Recorder
from tierline.run.tiles import Tile

_WAIT_S = 1.0


@dataclass(slots=True)
class CopyMeter:
    """What crossed the copy link, and how long compute waited for it."""

    copied_bytes: int = 0
    stall_s: float = 0.0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class _Arriving:
    index: int
    slot: Slot
    copy: Copy


class DeviceStaging:
    """Slots of a device through which the tiles of `schedule` (homes on the host) pass, in a cycle."""

    def __init__(
        self, schedule: Sequence[Home], device: Device, slots: int, recorder: Recorder | None = None
    ) -> None:
        """Raise InputError where the device has no room for `slots` of the largest tile."""
        self._schedule, self._device = schedule, device
        self._recorder = recorder or Recorder()
        slot_bytes = max(home.tile.footprint_bytes for home in schedule)
        self._free: deque[Slot] = deque(device.slot(slot_bytes) for _ in range(slots))
        self._arriving: deque[_Arriving] = deque()
        self._head = 0  # what compute borrows next, if it keeps to the order
        self._next = self._generation = 0
        self._feeding = self._closed = self._draining = False
        self._fault: BaseException | None = None
        self._changed = threading.Condition()
        self.meter = CopyMeter()
        self._thread = threading.Thread(target=self._feed, name="device feeder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the feeder and wait for it; a second call does nothing. Close what feeds it afterwards."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @contextmanager
    def borrow(self, index: int) -> Iterator[Slot]:
        """Lend the slot with the tile at schedule `index` while the block runs.

        Products asked for in the block wait for the copy. Tiles asked for in schedule order come ahead;
        another order works but starts anew. Raises FaultError if a read or a copy failed.
        """
        arriving = self._wait_for(index)
        try:
            self._device.follow(arriving.copy)
            yield arriving.slot
        finally:
            self._device.used(arriving.slot)
            with self._changed:
                self._free.append(arriving.slot)
                self._changed.notify_all()

    def _wait_for(self, index: int) -> _Arriving:
        started_s = time.perf_counter()
        with self._changed:
            if index != self._head:
                self._restart(index)
            self._head = (index + 1) % len(self._schedule)
            self._until(lambda: bool(self._arriving))
            arriving = self._arriving.popleft()
            self.meter.stall_s += time.perf_counter() - started_s
            self._recorder.note("wait", "wait", self._schedule[index].tile.name, started_s)
            return arriving

    def _restart(self, index: int) -> None:
        """Forget what is on its way, and go on from schedule `index`."""
        self._generation += 1
        self._draining = True
        self._until(lambda: not self._feeding)
        self._draining = False
        self._free += [arriving.slot for arriving in self._arriving]
        self._arriving.clear()
        self._next = index
        self.meter.restarts += 1
        self._changed.notify_all()

    def _until(self, ready: Callable[[], bool]) -> None:
        while self._fault is None and not ready():
            if self._closed:
                raise FaultError("the weights were closed while a pass was using them")
            self._changed.wait(_WAIT_S)
        if self._fault is not None:
            if isinstance(self._fault, FaultError):
                raise self._fault
            raise FaultError(f"the device's feeder stopped: {self._fault}") from self._fault

    def _feed(self) -> None:
        try:
            while (taken := self._take()) is not None:
                self._send(*taken)
        except BaseException as fault:  # noqa: BLE001 - whatever it is, compute must hear of it, not hang
            with self._changed:
                self._fault, self._feeding = fault, False
                self._changed.notify_all()

    def _take(self) -> tuple[int, Slot, int] | None:
        """Return the next tile and a free slot for it, None when closed."""
        with self._changed:
            while not self._closed and (self._draining or not self._free):
                self._changed.wait()
            if self._closed:
                return None
            self._feeding = True
            index = self._next
            self._next = (index + 1) % len(self._schedule)
            return index, self._free.popleft(), self._generation

    def _send(self, index: int, slot: Slot, generation: int) -> None:
        home, started_s = self._schedule[index], time.perf_counter()
        with home.borrow() as data:
            copy = self._device.copy(data, slot)
            if not isinstance(home, PinnedTile):
                copy.wait()  # the ring may overwrite what was lent as soon as it is given back
        self._recorder.note("copy", "read", home.tile.name, started_s, home.tile.footprint_bytes)
        with self._changed:
            self._feeding = False
            if generation == self._generation:
                self._arriving.append(_Arriving(index, slot, copy))
                self.meter.copied_bytes += home.tile.footprint_bytes
            else:
                self._free.append(slot)
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class DeviceTile:
    """A tile that stays in the device's memory."""

    tile: Tile
    slot: Slot


@dataclass(frozen=True, slots=True)
class PassingTile:
    """A tile that passes through the device's slots: its place in the cycle is `index`."""

    tile: Tile
    index: int
    staging: DeviceStaging


@dataclass(frozen=True, slots=True)
class DeviceMatrix:
    """All tiles of a stored matrix of numbers that a device computes with, in row order."""

    tensor: StoredTensor
    tiles: Sequence[DeviceTile | PassingTile]
    device: Device

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x @ W.T`, shape `(..., rows)`, for `x` of shape `(..., columns)` on the device."""
        parts = [self._product(x, tile) for tile in self.tiles]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _product(self, x: torch.Tensor, tile: DeviceTile | PassingTile) -> torch.Tensor:
        if isinstance(tile, DeviceTile):
            return functional.linear(x, self._weights(tile.tile, tile.slot, x.dtype))
        with tile.staging.borrow(tile.index) as slot:
            return functional.linear(x, self._weights(tile.tile, slot, x.dtype))

    def _weights(self, tile: Tile, slot: Slot, dtype: torch.dtype) -> torch.Tensor:
        stored = device_dtype(self.tensor.format)
        return self.device.matrix(slot, stored, tile.stop - tile.start, self.tensor.shape[1]).to(dtype)


def pin_on_device(home: Home, device: Device) -> DeviceTile:
    """Return a tile copied to memory of its own on the device; raises InputError, FaultError."""
    slot = device.slot(home.tile.footprint_bytes)
    with home.borrow() as data:
        device.copy(data, slot).wait()
    return DeviceTile(home.tile, slot)
