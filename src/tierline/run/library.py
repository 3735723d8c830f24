"""A file of C that comes with this package, built by this computer's compiler when first needed, then kept.

Where there is no compiler, or what it makes does not load, one does without. Nothing is compiled but what
comes with this package, and nothing is loaded that another user could have written
(docs/decisions/010-kernels-in-c.md).
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

_COMPILERS = ("cc", "gcc", "clang")
_TIMEOUT_S = 60
_OTHERS_WRITE = 0o022

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class Way:
    """How to build: flags of the compiler, and what is linked with."""

    flags: tuple[str, ...]
    linked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A C file of the package `tierline`, the ways to build it, best first, and what a build depends on.

    `name` is what the library is kept as.
    """

    name: str
    source: str
    ways: tuple[Way, ...]
    depends_on: tuple[str, ...] = ()


def find_compiler() -> Path | None:
    """Return this computer's C compiler, None without one."""
    found = next(filter(None, map(shutil.which, _COMPILERS)), None)
    return None if found is None else Path(found)


def load_or_build(
    recipe: Recipe, folder: Path, compiler: Path, load: Callable[[Path], Loaded]
) -> Loaded | None:
    """Return what `load` makes of the library in `folder`, or of one built there by `compiler`.

    Where `folder` cannot be written, or others can write it, the library is built in a private folder and
    used for this process alone. Returns None where no way of building it works, or where `load` raises
    OSError or AttributeError for what was built.
    """
    source = files("tierline").joinpath(recipe.source).read_bytes()
    kept = folder / f"{recipe.name}-{_key(recipe, source, compiler)}.so"
    if _ours(folder) and _ours(kept):
        return _loaded(kept, load)
    with tempfile.TemporaryDirectory(prefix="tierline-") as private:
        built = _build(Path(private), recipe, source, compiler)
        library = None if built is None else _loaded(built, load)
        if built is not None and library is not None:
            _keep(built, kept)
        return library


def _key(recipe: Recipe, source: bytes, compiler: Path) -> str:
    """Return what a build depends on, hashed: the source, the versions, the compiler, the flags."""
    real = compiler.resolve()
    status = real.stat()
    parts = (version("tierline"), str(real), str(status.st_size), str(status.st_mtime_ns))
    text = "\n".join((*parts, repr(recipe.ways), *recipe.depends_on))
    return hashlib.blake2b(source + text.encode(), digest_size=12).hexdigest()


def _ours(path: Path) -> bool:
    """Return whether `path` is there, belongs to us (or to root) and nobody else can write it."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & _OTHERS_WRITE


def _build(folder: Path, recipe: Recipe, source: bytes, compiler: Path) -> Path | None:
    """Return the library built in `folder` by the first way that works, None where none does."""
    text, made, library = (folder / f"{recipe.name}.{ending}" for ending in ("c", "o", "so"))
    text.write_bytes(source)
    for way in recipe.ways:
        commands = (
            (str(compiler), *way.flags, "-c", str(text), "-o", str(made)),
            (str(compiler), "-shared", str(made), *way.linked, "-Wl,-z,defs", "-o", str(library)),
        )
        if all(map(_succeeds, commands)):
            return library
    return None


def _succeeds(command: tuple[str, ...]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _loaded(path: Path, load: Callable[[Path], Loaded]) -> Loaded | None:
    try:
        return load(path)
    except (OSError, AttributeError):
        return None


def _keep(built: Path, kept: Path) -> None:
    """Put the library where the next process finds it, whole or not at all; do without where that fails."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not _ours(kept.parent):
            return
        partial = kept.with_name(f".{kept.name}.{os.getpid()}.part")
        with partial.open("wb") as file:
            file.write(built.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o700)
        partial.replace(kept)
    except OSError:
        return
