"""Our own kernels for blocks in C (blocks.c), built by this computer's compiler when first needed, then kept.

Where there is no compiler, or what it makes does not load, torch does the same work several times slower
(docs/decisions/010-kernels-in-c.md).
"""

import ctypes
from functools import cache
from pathlib import Path

import torch

from tierline.cache import cache_folder
from tierline.run.kernels.building import load_or_build, omp_runtime
from tierline.run.library import find_compiler

WIDEST = 16  # rows of x in one product; blocks.c has it too
COMPILED = (
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "mxfp4", "mxfp8", "fp16", "bf16",
)  # fmt: skip
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
    compiler = find_compiler()
    if compiler is None:
        return None
    return load_or_build("blocks.c", cache_folder(), compiler, omp_runtime(), Compiled)
