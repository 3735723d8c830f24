"""The control groups that this process is in, and what they limit."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def cgroup_folders(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Yield the folder of our cgroup for `controller` and of each one above it, for cgroup v2 and v1.

    `root` is where /proc and /sys are, for tests.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount = root / "sys/fs/cgroup"
        if controllers and controller not in controllers.split(","):
            continue
        if controllers:
            mount = mount / controller
        # Inside a container the path is often that of the host, and only the mount itself can be seen.
        folder = mount / path.lstrip("/")
        while folder != mount:
            yield folder
            folder = folder.parent
        yield mount


def read_limit(path: Path, root: Path = ROOT) -> int | None:
    """Return the most bytes/s that our cgroups let us read from the disk that holds `path`, None if all."""
    disk = _disk_of(path, root)
    limits = [
        limit
        for folder in cgroup_folders("blkio", root)
        for limit in (
            _limit(folder / "blkio.throttle.read_bps_device", disk, ""),
            _limit(folder / "io.max", disk, "rbps="),
        )
        if limit is not None
    ]
    return min(limits, default=None)


def _disk_of(path: Path, root: Path) -> str:
    """Return the `major:minor` of the whole disk that holds `path`: limits are set on disks."""
    number = path.stat().st_dev
    own = f"{os.major(number)}:{os.minor(number)}"
    folder = (root / "sys/dev/block" / own).resolve()
    if not (folder / "partition").exists():
        return own
    try:
        return (folder.parent / "dev").read_text(encoding="ascii").strip()
    except OSError:
        return own


def _limit(file: Path, disk: str, key: str) -> int | None:
    """Return the limit that `file` sets for `disk`: the field after its number that begins with `key`."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = (line.split() for line in lines if line.strip())
    values = (f.removeprefix(key) for number, *rest in fields if number == disk for f in rest if key in f)
    return next((int(value) for value in values if value.isdigit()), None)
