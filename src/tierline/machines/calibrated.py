"""Where `tierline calibrate` keeps what it measured, so that `this` finds it again."""

import hashlib
import os
import platform
import tempfile
import tomllib
from importlib.metadata import version
from pathlib import Path

from tierline.cache import cache_folder, read_cached
from tierline.errors import InputError
from tierline.machines.cgroups import read_limit
from tierline.machines.draft import read_draft

_MOST_BYTES = 2**20


def calibration_file(target: Path) -> Path:
    """Return the file for this computer's calibration with the disk that holds `target`."""
    return kept_folder() / f"calibration-{machine_key(target)}.toml"


def read_calibrated(target: Path) -> dict[str, object] | None:
    """Return the calibrated machine file's table for the disk that holds `target`.

    None where this computer, kernel, version, disk or its limit has not been calibrated, and for a file that
    is not a machine file any more.
    """
    content = read_cached(calibration_file(target), _MOST_BYTES)
    if content is None:
        return None
    try:
        table = tomllib.loads(content.decode("utf-8"))
        draft = read_draft("this", table, "calibration", None)
    except (ValueError, RecursionError, InputError):
        return None
    return table if draft.calibration is not None else None


def machine_key(target: Path) -> str:
    """Return what rates hold for, hashed: version, kernel, processor, disk, and our cgroups' limit on it."""
    disk, limit = str(target.stat().st_dev), str(read_limit(target) or "")
    parts = (version("tierline"), platform.release(), processor(), disk, limit)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def processor() -> str:
    """Return the processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())[:100]


def kept_folder() -> Path:
    """Return the user's cache directory for Tierline, or a temporary one where it cannot be made."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    except OSError:
        return Path(tempfile.gettempdir())
