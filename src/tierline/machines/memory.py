"""How much memory this computer lets us have: the kernel's figures and the limits of our cgroup."""

import os
from dataclasses import dataclass
from pathlib import Path

from tierline.machines.cgroups import ROOT, cgroup_folders

_WHOLE = "the kernel (MemTotal)"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory we may use at most, bytes of it that are free now, and what sets the limit.

    `is_cgroup` says that the limit is a cgroup's, which counts what the kernel holds for us too.
    """

    capacity_bytes: int
    free_bytes: int
    limited_by: str
    is_cgroup: bool = False


def read_memory(root: Path = ROOT) -> Memory:
    """Return this process's memory: the least of the computer's memory and every cgroup limit above us.

    Free is MemAvailable, and no more than each cgroup's limit - usage + inactive file pages (cached file
    pages are charged to the cgroup, and the inactive ones are given up first). Both count clean pages of
    mapped files as free: a model that is run through a memory map has to budget for its own pages. `root`
    is where /proc and /sys are, for tests.
    """
    total, available = _kernel(root)
    capacity, free, limited_by = total, available, _WHOLE
    for folder in cgroup_folders("memory", root):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if limit is None or limit >= total:
            continue
        usage = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        if limit < capacity:
            capacity, limited_by = limit, "the cgroup's limit"
        free = min(free, max(0, limit - usage + _inactive_file(folder)))
    return Memory(capacity, min(free, capacity), limited_by, is_cgroup=limited_by != _WHOLE)


def _kernel(root: Path) -> tuple[int, int]:
    """Return the computer's memory and its available bytes; the physical pages where there is no /proc."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return pages * page, pages * page
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total = kib["MemTotal"] * 1024
    return total, kib.get("MemAvailable", kib["MemFree"]) * 1024


def _number(file: Path) -> int | None:
    """Return the whole number in `file`, or None where there is no file or no limit (`max`)."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _inactive_file(folder: Path) -> int:
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    stat = dict(line.split(maxsplit=1) for line in lines if " " in line)
    # In v1 the plain key leaves the children out.
    return int(stat.get("total_inactive_file", stat.get("inactive_file", "0")))
