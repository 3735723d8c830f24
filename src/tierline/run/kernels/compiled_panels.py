"""Our own products with panels of int8 and int4 in C (panels.c), on processors that multiply bytes.

Elsewhere, and where there is no compiler, torch's kernels do it (docs/decisions/016-panels-in-c.md).
"""

import ctypes
from functools import cache
from pathlib import Path

import torch

from tierline.cache import cache_folder
from tierline.run.kernels.building import load_or_build, omp_runtime, processor_flags
from tierline.run.library import find_compiler

INT4_BLOCK_ROWS = 64
MOST_COLUMNS = 2**16  # of more, a sum of whole numbers could overflow
_POINTER, _COUNT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_INT8 = (_POINTER, _POINTER, _COUNT, _COUNT, _POINTER, _INT, _POINTER, _INT)
_INT4 = (_POINTER, _POINTER, _COUNT, _COUNT, _COUNT, _POINTER, _INT, _POINTER, _INT)
_NEEDED = ({"avx512_vnni", "avx512bw"}, {"avx_vnni"})  # one of these


class CompiledPanels:
    """The loaded library. Rows of x are bf16, as is what comes out; an element's bits depend on nothing else
    than its row of x and its row of weights.
    """

    def __init__(self, path: Path) -> None:
        """Raise OSError or AttributeError where `path` is not the library."""
        library = ctypes.CDLL(str(path))
        self._int8, self._int4 = library.product_int8, getattr(library, "product_int4", None)
        self._int8.argtypes, self._int8.restype = _INT8, _INT
        if self._int4 is not None:
            self._int4.argtypes, self._int4.restype = _INT4, _INT

    def int8(self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor | None:
        """Return `x @ W.T` for int8 `weights` of shape `(n, columns)` with a scale for each row.

        None where it cannot be computed here: ask torch then.
        """
        rows, columns = weights.shape
        if columns > MOST_COLUMNS:
            return None
        out = torch.empty(x.shape[0], rows, dtype=torch.bfloat16)
        failed = self._int8(
            weights.data_ptr(), scales.data_ptr(), rows, columns,
            x.data_ptr(), x.shape[0], out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return None if failed else out

    def int4(
        self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor, group: int
    ) -> torch.Tensor | None:
        """Return `x @ W.T` for int4 `weights` of shape `(n, columns / 2)` in the order that torch gives them.

        None where it cannot be computed here: blocks of fewer than 64 rows have another order.
        """
        rows, columns = weights.shape[0], weights.shape[1] * 2
        if self._int4 is None or rows % INT4_BLOCK_ROWS or columns > MOST_COLUMNS:
            return None
        out = torch.empty(x.shape[0], rows, dtype=torch.bfloat16)
        failed = self._int4(
            weights.data_ptr(), scales.data_ptr(), rows, columns, group,
            x.data_ptr(), x.shape[0], out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return None if failed else out


@cache
def compiled_panels() -> CompiledPanels | None:
    """Return the library, built where this version of it is not kept yet; None where that cannot be done."""
    compiler, can = find_compiler(), set(processor_flags().split())
    if compiler is None or not any(needed <= can for needed in _NEEDED):
        return None
    return load_or_build("panels.c", cache_folder(), compiler, omp_runtime(), CompiledPanels)
