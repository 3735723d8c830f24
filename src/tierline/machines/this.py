"""This computer as a machine: what it has, by asking the kernel, and its rates, by a short measurement."""

import datetime as dt
import json
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from tierline.machines.calibrated import kept_folder, machine_key, processor, read_calibrated
from tierline.machines.measure import measure_disk, measure_memory
from tierline.machines.memory import read_memory

_RATES = ("disk_bytes_per_s", "memory_bytes_per_s")


def this_table(near: Path | None = None) -> dict[str, object]:
    """Return this computer in the form of a machine file's table.

    `near` is a file or folder on the disk to measure; by default the user's cache directory. Rates come from
    a measurement of about two seconds that is cached by version, kernel, processor and disk; capacities are
    asked for anew each time. Where `tierline calibrate` has measured this computer with that disk, all else
    is what it found. Raises InputError where the disk cannot be measured.
    """
    target = near if near is not None else kept_folder()
    calibrated = read_calibrated(target)
    if calibrated is not None:
        return {**calibrated, "tiers": _refreshed(calibrated.get("tiers"), capacities(target))}
    rates = _rates(target, read_memory().free_bytes)
    when = f"measured on {rates['date']} by tierline {version('tierline')}"
    tiers = capacities(target)
    sustained = _measured(f"{rates['memory_bytes_per_s']}B/s", f"all cores summing, {when}")
    notes = ["Rates of compute are not known: `tierline calibrate` measures them."]
    if not rates["direct"]:
        notes.append("O_DIRECT is refused on this disk: its rate was measured through the page cache.")
    return {
        "title": f"This computer ({processor()})",
        "notes": notes,
        "tiers": {**tiers, "dram": {**tiers["dram"], "sustained": sustained}},
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


def capacities(target: Path) -> dict[str, dict[str, object]]:
    """Return the tiers of a machine file with their capacities and what is free of them now."""
    memory, disk = read_memory(), shutil.disk_usage(target)
    free_from = "the kernel (MemAvailable) and the cgroup"
    return {
        "dram": {
            "capacity": _measured(f"{memory.capacity_bytes}B", memory.limited_by),
            "free": _measured(f"{max(memory.free_bytes, 1)}B", free_from),
        },
        "storage": {
            "capacity": _measured(f"{disk.total}B", "the file system"),
            "free": _measured(f"{max(disk.free, 1)}B", "the file system"),
        },
    }


def _refreshed(kept: object, now: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return the tiers of a kept file with the capacities of now."""
    tiers: dict[str, dict[str, object]] = kept if isinstance(kept, dict) else {}
    return {name: {**tiers.get(name, {}), **parts} for name, parts in now.items()}


def _measured(value: str, source: str) -> dict[str, object]:
    return {"value": value, "kind": "measured", "source": source}


def _rates(target: Path, free_bytes: int) -> dict[str, object]:
    """Return the cached rates of this computer and this disk, or measure and keep them."""
    file = kept_folder() / f"this-{machine_key(target)}.json"
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
