"""The user's cache on disk: what can be made again, kept so that it need not be."""

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/tierline`, or `~/.cache/tierline`; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "tierline"


def read_cached(path: Path, limit_bytes: int) -> bytes | None:
    """Return what `path` holds, None where it cannot be read or has more than `limit_bytes`."""
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError:
        return None
    return content if len(content) <= limit_bytes else None


def write_cached(path: Path, content: bytes) -> None:
    """Keep `content` in `path`, whole or not at all; where that cannot be written it is done without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError:
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(partial).replace(path)
    except OSError:
        Path(partial).unlink(missing_ok=True)
