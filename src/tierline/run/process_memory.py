"""What this process holds in memory, as the kernel counts it."""

import ctypes
from mmap import PAGESIZE
from pathlib import Path

_STATUS = Path("/proc/self/status")
_IO = Path("/proc/self/io")
_COUNTS = Path("/proc/self/statm")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
_RETURNED_BYTES = 2**22  # oneDNN takes 1 to 2 MiB for some products, anew each time


def resident_bytes() -> int:
    """Return the bytes of this process that are in memory now, file-backed pages included (VmRSS)."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Return the most bytes that were in memory at once since the last reset (VmHWM)."""
    return _status_bytes("VmHWM")


def held_bytes() -> tuple[int, int]:
    """Return the bytes in memory now that are anonymous, and those that are pages of files or shared."""
    _, resident, shared, *_ = map(int, _COUNTS.read_text(encoding="ascii").split())
    return (resident - shared) * PAGESIZE, shared * PAGESIZE


def reset_peak() -> None:
    """Set the high-water mark to what is held now (Linux: 5 into clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


def fetched_bytes() -> int:
    """Return the bytes that storage gave this process so far, pages of libraries included.

    0 where the kernel does not count them, or does not tell.
    """
    try:
        lines = _IO.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), 0)


def return_freed() -> None:
    """Give memory that was freed but kept by the allocator back to the system (glibc; nothing elsewhere)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def bound_allocator() -> None:
    """Make the allocator give large pieces back when they are freed (glibc; nothing elsewhere).

    By default glibc raises the size from which it does so whenever a larger piece is freed, and a process
    then keeps tens of MB that nobody predicted. A fixed bound keeps what is held to what is used; where
    blocks are expanded, that costs up to a fifth of the speed.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_M_MMAP_THRESHOLD, _RETURNED_BYTES)
        option(_M_TRIM_THRESHOLD, _RETURNED_BYTES)
