"""Our own kernels in C (blocks.c), built by this computer's compiler when they are first needed, then kept.

Where there is no compiler, or what it makes does not load, torch does the same work several times slower.
Nothing is compiled but the file that comes with this package, and nothing is loaded that another user could
have written (docs/decisions/010-kernels-in-c.md).
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch

from tierline.cache import cache_folder

WIDEST = 16  # rows of x in one product; blocks.c has it too
COMPILED = (
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "mxfp4", "mxfp8", "fp16", "bf16",
)  # fmt: skip
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fPIC")
_NATIVE, _THREADS = ("-march=native",), ("-fopenmp",)
_TIMEOUT_S = 60
_OTHERS_WRITE = 0o022
_POINTER, _COUNT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_EXPAND = (_POINTER, _COUNT, _POINTER, _INT, _INT)
_PRODUCT = (_POINTER, _COUNT, _COUNT, _POINTER, _INT, _POINTER, _INT)


class Compiled:
    """The loaded library. `packed` is contiguous bytes, whole blocks of the format `name`."""

    def __init__(self, path: Path) -> None:
        """Raise OSError or AttributeError where `path` is not the library."""
        library = ctypes.CDLL(str(path))
        self._expand = {name: getattr(library, f"expand_{name}") for name in COMPILED}
        self._product = {name: getattr(library, f"product_{name}") for name in COMPILED}
        for functions, arguments in ((self._expand, _EXPAND), (self._product, _PRODUCT)):
            for function in functions.values():
                function.argtypes, function.restype = arguments, None

    def expand(self, name: str, packed: torch.Tensor, blocks: int, out: torch.Tensor) -> None:
        """Fill `out` (contiguous, fp32 or bf16) with the values of `blocks` blocks."""
        as_bf16 = int(out.dtype == torch.bfloat16)
        self._expand[name](packed.data_ptr(), blocks, out.data_ptr(), as_bf16, torch.get_num_threads())

    def product(
        self, name: str, packed: torch.Tensor, rows: int, row_blocks: int, x: torch.Tensor
    ) -> torch.Tensor:
        """Return `x @ W.T` in fp32 for at most WIDEST rows `x` (contiguous fp32) and `rows` rows of blocks.

        An element is the same bits however many rows there are of either, and however many threads.
        """
        out, threads = torch.empty(x.shape[0], rows), torch.get_num_threads()
        self._product[name](
            packed.data_ptr(), rows, row_blocks, x.data_ptr(), x.shape[0], out.data_ptr(), threads
        )
        return out


@cache
def compiled() -> Compiled | None:
    """Return the library, built where this version of it is not kept yet; None where that cannot be done."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        return None
    return load_or_build(cache_folder(), Path(compiler), _omp_runtime())


def load_or_build(folder: Path, compiler: Path, omp: Path | None) -> Compiled | None:
    """Return the library from `folder`, or built there by `compiler` to run on the threads of `omp`.

    Where `folder` cannot be written, or others can write it, the library is built in a private folder and
    used for this process alone. Returns None where no way of building it works.
    """
    source = (files("tierline") / "run" / "kernels" / "blocks.c").read_bytes()
    kept = folder / f"kernels-{_key(source, compiler, omp)}.so"
    if _ours(folder) and _ours(kept):
        return _loaded(kept)
    with tempfile.TemporaryDirectory(prefix="tierline-") as private:
        built = _build(Path(private), source, compiler, omp)
        library = None if built is None else _loaded(built)
        if built is not None and library is not None:
            _keep(built, kept)
        return library


def _key(source: bytes, compiler: Path, omp: Path | None) -> str:
    """Return what a build depends on, hashed: the source, the versions, the compiler, the processor."""
    real = compiler.resolve()
    status = real.stat()
    parts = (version("tierline"), torch.__version__, str(real), str(status.st_size), str(status.st_mtime_ns))
    text = "\n".join((*parts, str(omp), *_FLAGS, *_NATIVE, *_THREADS, _processor_flags()))
    return hashlib.blake2b(source + text.encode(), digest_size=12).hexdigest()


def _processor_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _ours(path: Path) -> bool:
    """Return whether `path` is there, belongs to us (or to root) and nobody else can write it."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & _OTHERS_WRITE


def _build(folder: Path, source: bytes, compiler: Path, omp: Path | None) -> Path | None:
    """Return the library built in `folder`: with all that helps, then with less, None where nothing works."""
    text, made, library = folder / "blocks.c", folder / "blocks.o", folder / "blocks.so"
    text.write_bytes(source)
    ways = [(native, threads) for threads in (bool(omp), False) for native in (_NATIVE, ())]
    for native, threaded in dict.fromkeys(ways):
        flags = (*_FLAGS, *native, *(_THREADS if threaded else ()))
        # The runtime that torch has loaded is named: a second one would fight with it for the cores.
        threads = (str(omp),) if threaded else ()
        commands = (
            (str(compiler), *flags, "-c", str(text), "-o", str(made)),
            (str(compiler), "-shared", str(made), *threads, "-Wl,-z,defs", "-o", str(library)),
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


def _loaded(path: Path) -> Compiled | None:
    try:
        return Compiled(path)
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


def _omp_runtime() -> Path | None:
    """Return the OpenMP runtime that torch computes with, as this process has it loaded."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"(/\S*/lib(?:gomp|iomp5|omp)[^/\s]*\.so[^/\s]*)$", maps, re.MULTILINE)
    return Path(found[1]) if found else None
