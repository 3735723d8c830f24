"""This computer as a machine: what it has, by asking the kernel, and its rates, by a short measurement."""

import datetime as dt
import hashlib
import json
import os
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from tierline.cache import cache_folder
from tierline.machines.measure import measure_disk, measure_memory
from tierline.machines.memory import read_memory

_RATES = ("disk_bytes_per_s", "memory_bytes_per_s")


def this_table(near: Path | None = None) -> dict[str, object]:
    """Return this computer in the form of a machine file's table.

    `near` is a file or folder on the disk to measure; by default the user's cache directory. Rates come from
    a measurement of about two seconds that is cached by version, kernel, processor and disk; capacities are
    asked for anew each time. Raises InputError where the disk cannot be measured.
    """
    target = near if near is not None else _cache_folder()
    memory = read_memory()
    rates = _rates(target, memory.free_bytes)
    when = f"measured on {rates['date']} by tierline {version('tierline')}"
    disk = shutil.disk_usage(target)
    notes = ["Rates of compute are not known: running a model measures them."]
    if not rates["direct"]:
        notes.append("O_DIRECT is refused on this disk: its rate was measured through the page cache.")
    return {
        "title": f"This computer ({_processor()})",
        "notes": notes,
        "tiers": {
            "dram": {
                "capacity": _measured(f"{memory.capacity_bytes}B", memory.limited_by),
                "free": _measured(
                    f"{max(memory.free_bytes, 1)}B", "the kernel (MemAvailable) and the cgroup"
                ),
                "sustained": _measured(f"{rates['memory_bytes_per_s']}B/s", f"all cores summing, {when}"),
            },
            "storage": {
                "capacity": _measured(f"{disk.total}B", "the file system"),
                "free": _measured(f"{max(disk.free, 1)}B", "the file system"),
            },
        },
        "links": {
            "disk": {
                "from": "storage",
                "to": "dram",
                "sustained": _measured(
                    f"{rates['disk_bytes_per_s']}B/s", f"reads of 4 MiB, 2 in flight, {when}"
                ),
            }
        },
    }


def _measured(value: str, source: str) -> dict[str, object]:
    return {"value": value, "kind": "measured", "source": source}


def _rates(target: Path, free_bytes: int) -> dict[str, object]:
    """Return the cached rates of this computer and this disk, or measure and keep them."""
    file = _cache_folder() / f"this-{_key(target)}.json"
    cached = _read_cache(file)
    if cached is not None:
        return cached
    sys.stderr.write("measuring this computer (about 2 s; kept for next time)\n")
    disk = measure_disk(target)
    rates: dict[str, object] = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "direct": disk.direct,
        "disk_bytes_per_s": round(disk.bytes_per_s),
        "memory_bytes_per_s": round(measure_memory(free_bytes)),
    }
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        partial.write_text(json.dumps(rates), encoding="utf-8")
        partial.replace(file)
    except OSError:  # a cache that cannot be written costs the next start two seconds, nothing more
        partial.unlink(missing_ok=True)
    return rates


def _read_cache(file: Path) -> dict[str, object] | None:
    """Return what `file` holds, or None where it is missing or not what we write."""
    try:
        rates = json.loads(file.read_bytes()[:4096])
    except (OSError, ValueError, RecursionError):
        return None
    sane = (
        isinstance(rates, dict)
        and isinstance(rates.get("date"), str)
        and isinstance(rates.get("direct"), bool)
        and all(type(rates.get(name)) is int and 0 < rates[name] < 10**15 for name in _RATES)
    )
    return rates if sane else None


def _key(target: Path) -> str:
    parts = (version("tierline"), platform.release(), _processor(), str(target.stat().st_dev))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """Return the processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())[:100]


def _cache_folder() -> Path:
    """Return the user's cache directory for Tierline, or a temporary one where it cannot be made."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        import tempfile

        return Path(tempfile.gettempdir())
    return folder
