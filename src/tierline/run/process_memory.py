"""What this process holds in memory, as the kernel counts it."""

import ctypes
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Return the bytes of this process that are in memory now, file-backed pages included (VmRSS)."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Return the most bytes that were in memory at once since the last reset (VmHWM)."""
    return _status_bytes("VmHWM")


def reset_peak() -> None:
    """Set the high-water mark to what is held now (Linux: 5 into clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


def return_freed() -> None:
    """Give memory that was freed but kept by the allocator back to the system (glibc; nothing elsewhere)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
