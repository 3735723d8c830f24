"""A device with a memory of its own, fed from the host over a link: CUDA's, and one that stands for it.

Unmeasured: the CUDA side was written and type-checked where there was no device. What the pipeline does with
a device is exercised by `PacedDevice`, whose copies are real and take as long as another machine's would.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from tierline.errors import InputError
from tierline.run.copy_link import Copy, CopyLink
from tierline.run.direct_io import anonymous_memory
from tierline.run.kernels import DENSE_DTYPES
from tierline.units import format_bytes


class Slot(Protocol):
    """A piece of a device's memory."""

    @property
    def footprint_bytes(self) -> int:
        """Bytes that fit."""
        ...


class Device(Protocol):
    """Memory that products read, and the link into it."""

    def slot(self, footprint_bytes: int) -> "Slot":
        """Return memory of the device; raise InputError where there is not enough."""
        ...

    def lock(self, memory: memoryview) -> None:
        """Keep host memory in place, so that copies from it can go on by themselves."""
        ...

    def copy(self, source: memoryview, slot: Slot) -> Copy:
        """Begin to copy to the front of `slot` once what used it has ended; return at once."""
        ...

    def follow(self, copy: Copy) -> None:
        """Have products that are asked for from now on wait for a copy; return at once where that can be."""
        ...

    def matrix(self, slot: Slot, dtype: torch.dtype, rows: int, columns: int) -> torch.Tensor:
        """Return the matrix at the front of `slot`, where it lies."""
        ...

    def used(self, slot: Slot) -> None:
        """Take note that all use of `slot` so far has been asked for: a copy waits for its end."""
        ...

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        ...


class HostSlot:
    """Memory of this computer that stands for a device's."""

    def __init__(self, footprint_bytes: int) -> None:
        self.memory = anonymous_memory(footprint_bytes)

    @property
    def footprint_bytes(self) -> int:
        """Bytes that fit."""
        return len(self.memory)


class PacedDevice:
    """This computer's memory and products in the place of a device, behind a link that is paced."""

    def __init__(self, link: CopyLink, capacity_bytes: int) -> None:
        self._link, self._free_bytes = link, capacity_bytes

    def slot(self, footprint_bytes: int) -> HostSlot:
        """See Device: what was given never exceeds the capacity."""
        if footprint_bytes > self._free_bytes:
            raise InputError(
                f"the device has {format_bytes(self._free_bytes)} left, {format_bytes(footprint_bytes)} are "
                "wanted"
            )
        self._free_bytes -= footprint_bytes
        return HostSlot(footprint_bytes)

    def lock(self, memory: memoryview) -> None:
        """Do nothing: copies within this computer need no lock."""

    def copy(self, source: memoryview, slot: Slot) -> Copy:
        """See Device."""
        return self._link.copy(source, _host(slot).memory)

    def follow(self, copy: Copy) -> None:
        """See Device: products are this thread's, so it waits itself."""
        copy.wait()

    def matrix(self, slot: Slot, dtype: torch.dtype, rows: int, columns: int) -> torch.Tensor:
        """See Device."""
        memory = _host(slot).memory
        return torch.frombuffer(memory, dtype=dtype, count=rows * columns).view(rows, columns)

    def used(self, slot: Slot) -> None:
        """Do nothing: products end before they return."""

    def close(self) -> None:
        """See Device."""
        self._link.close()


def _host(slot: Slot) -> HostSlot:
    assert isinstance(slot, HostSlot)  # noqa: S101 - a device is given its own slots back
    return slot


class CudaSlot:
    """Memory of a CUDA device; `free` is the event after which it may be written."""

    def __init__(self, footprint_bytes: int, device: torch.device) -> None:
        self.memory = torch.empty(footprint_bytes, dtype=torch.uint8, device=device)
        self.free: torch.cuda.Event | None = None

    @property
    def footprint_bytes(self) -> int:
        """Bytes that fit."""
        return self.memory.numel()


class CudaDevice:
    """A CUDA device: copies on a stream of their own, from page-locked memory, beside the products'."""

    def __init__(self, index: int = 0) -> None:
        """Raise InputError where torch finds no such device."""
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise InputError(f"torch finds no CUDA device {index} on this computer")
        self._device = torch.device("cuda", index)
        self._copies = torch.cuda.Stream(self._device)
        self._locked: dict[int, memoryview] = {}

    def slot(self, footprint_bytes: int) -> CudaSlot:
        """See Device."""
        try:
            return CudaSlot(footprint_bytes, self._device)
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(
                f"{self._device} has no {format_bytes(footprint_bytes)} left: {error}"
            ) from error

    def lock(self, memory: memoryview) -> None:
        """See Device; raise InputError where the driver refuses."""
        address = _bytes(memory).data_ptr()
        runtime: Any = torch.cuda.cudart()
        code = int(runtime.cudaHostRegister(address, len(memory), 0))
        if code:
            raise InputError(f"{format_bytes(len(memory))} cannot be page-locked: CUDA error {code}")
        self._locked[address] = memory

    def copy(self, source: memoryview, slot: Slot) -> Copy:
        """See Device: the copy stream waits for the slot's last use, nobody else does."""
        target = _cuda(slot)
        with torch.cuda.stream(self._copies):
            if target.free is not None:
                self._copies.wait_event(target.free)
            target.memory[: len(source)].copy_(_bytes(source), non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._copies)
        return CudaCopy(done)

    def follow(self, copy: Copy) -> None:
        """See Device: the stream that computes waits, this thread does not."""
        assert isinstance(copy, CudaCopy)  # noqa: S101 - a device is given its own copies back
        torch.cuda.current_stream(self._device).wait_event(copy.done)

    def matrix(self, slot: Slot, dtype: torch.dtype, rows: int, columns: int) -> torch.Tensor:
        """See Device."""
        return _cuda(slot).memory[: rows * columns * dtype.itemsize].view(dtype).view(rows, columns)

    def used(self, slot: Slot) -> None:
        """See Device: an event on the stream that computes."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        _cuda(slot).free = event

    def close(self) -> None:
        """See Device."""
        torch.cuda.synchronize(self._device)
        runtime: Any = torch.cuda.cudart()
        for address in self._locked:
            runtime.cudaHostUnregister(address)
        self._locked.clear()


class CudaCopy:
    """A copy on the copy stream."""

    def __init__(self, done: torch.cuda.Event) -> None:
        self.done = done

    def wait(self) -> None:
        """Return once the bytes are there, and the source may be overwritten."""
        self.done.synchronize()


def _cuda(slot: Slot) -> CudaSlot:
    assert isinstance(slot, CudaSlot)  # noqa: S101 - a device is given its own slots back
    return slot


def _bytes(memory: memoryview) -> torch.Tensor:
    return torch.frombuffer(memory, dtype=torch.uint8)


def device_dtype(number_format: str, formats: Mapping[str, torch.dtype] = DENSE_DTYPES) -> torch.dtype:
    """Return what a stored format is on a device; raise InputError for one that only the CPU computes."""
    if number_format not in formats:
        raise InputError(
            f"weights in {number_format} have kernels for the CPU alone; a device computes with "
            f"{', '.join(formats)}"
        )
    return formats[number_format]
