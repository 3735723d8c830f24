"""How our kernels in C are built: with all that helps, then with less, on the threads of torch."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from tierline.run.library import Recipe, Way
from tierline.run.library import load_or_build as library_from

_FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fPIC")
_NATIVE, _THREADS = ("-march=native",), ("-fopenmp",)
_FOLDER = "run/kernels"

Loaded = TypeVar("Loaded")


def load_or_build(
    source: str, folder: Path, compiler: Path, omp: Path | None, load: Callable[[Path], Loaded]
) -> Loaded | None:
    """Return what `load` makes of the library of the C file `source` of this folder.

    It comes from `folder`, or is built there by `compiler` to run on the threads of `omp`. None where no way
    of building it works.
    """
    # The runtime that torch has loaded is named: a second one would fight with it for the cores.
    threaded = () if omp is None else tuple(Way((*_FLAGS, *n, *_THREADS), (str(omp),)) for n in (_NATIVE, ()))
    ways = (*threaded, *(Way((*_FLAGS, *n)) for n in (_NATIVE, ())))
    depends_on = (torch.__version__, processor_flags())
    recipe = Recipe(Path(source).stem, f"{_FOLDER}/{source}", ways, depends_on)
    return library_from(recipe, folder, compiler, load)


def processor_flags() -> str:
    """Return what the processor can do, as Linux says it; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def omp_runtime() -> Path | None:
    """Return the OpenMP runtime that torch computes with, as this process has it loaded."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"(/\S*/lib(?:gomp|iomp5|omp)[^/\s]*\.so[^/\s]*)$", maps, re.MULTILINE)
    return Path(found[1]) if found else None
