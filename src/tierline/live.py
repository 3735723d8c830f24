"""Runs that can be watched while they go: each says how it stands in a small file of the user's own.

The files are in the user's runtime folder, which nobody else can enter: `$XDG_RUNTIME_DIR/tierline`, or
`tierline-UID` among the temporary files. Whoever writes replaces the whole file; whoever reads believes only
plain files of this user, below a bound.
"""

import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tierline.errors import InputError

Stage = Literal["loading", "answering", "waiting", "done", "failed"]  # waiting: for the next question
_NAME = re.compile(r"run-([0-9]{1,10})\.json")
_MOST_BYTES = 2**16
_MOST_RUNS = 64
_KEPT_S = 600.0


@dataclass(frozen=True, slots=True)
class TierNow:
    """What a run holds of a tier, and the most that it may (None: no limit was given)."""

    name: str
    used_bytes: int
    allowed_bytes: int | None


@dataclass(frozen=True, slots=True)
class LinkNow:
    """What crosses a link: bytes since the first token was asked for, their rate of late, the link's own."""

    name: str
    read_bytes: int
    bytes_per_s: float
    limit_bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class RunNow:
    """How a run stands. Rates are of late (the last seconds); `predicted_tokens_per_s` is the plan's.

    `stall_fraction` is the part of that time in which compute waited for a read.
    """

    run: str
    model: str
    stage: Stage
    updated_s: float
    elapsed_s: float
    tokens: int
    most_tokens: int
    tokens_per_s: float | None
    predicted_tokens_per_s: float | None
    stall_s: float
    stall_fraction: float | None
    tiers: tuple[TierNow, ...]
    links: tuple[LinkNow, ...]


def runtime_folder() -> Path:
    """Return the folder of this user's runs, made if it is not there.

    Raises InputError where it belongs to somebody else or others can enter it.
    """
    given = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if given.is_absolute() and given.is_dir():
        folder = given / "tierline"
    else:
        folder = Path(tempfile.gettempdir()) / f"tierline-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(f"{folder}: has to be a folder of yours that only you can enter: remove it")
    return folder


class Publisher:
    """Writes how one run stands, for whoever watches."""

    def __init__(self, folder: Path) -> None:
        self.run = str(os.getpid())
        self._path = folder / f"run-{self.run}.json"

    def publish(self, now: RunNow) -> None:
        """Replace what the file says."""
        part = self._path.with_suffix(".part")
        with suppress(FileNotFoundError):
            part.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(part, flags, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(now), file, allow_nan=False)
        part.replace(self._path)


def runs(folder: Path) -> list[dict[str, Any]]:
    """Return the newest runs as they stood last, newest first; what ended long ago is removed."""
    found = sorted(_read_all(folder), key=lambda run: -run["updated_s"])
    return found[:_MOST_RUNS]


def read_run(folder: Path, run: str) -> dict[str, Any] | None:
    """Return how the run called `run` stands, None where there is none."""
    name = f"run-{run}.json"
    return _read(folder / name) if _NAME.fullmatch(name) else None


def _read_all(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.iterdir():
        found = _read(path) if _NAME.fullmatch(path.name) else None
        if found is None:
            continue
        if time.time() - found["updated_s"] > _KEPT_S and not _alive(found["run"]):
            path.unlink(missing_ok=True)
            continue
        yield found


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a file says if it is a plain one of this user's and all that belongs there is there."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid():
                return None
            found = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != set(RunNow.__slots__):
        return None
    named = f"run-{found['run']}.json" == path.name
    if not named or not isinstance(found["updated_s"], int | float):
        return None
    if found["stage"] not in ("done", "failed") and not _alive(found["run"]):
        found["stage"] = "failed"
    return found


def _alive(run: str) -> bool:
    try:
        os.kill(int(run), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
