"""Our own products with panels of int8 and int4 in C (panels.c), on processors that multiply bytes.

Elsewhere, and where there is no compiler, torch's kernels do it (docs/decisions/016-panels-in-c.md).
"""

import ctypes
from functools import cache
from pathlib import Path

import torch

from tierline.cache import cache_folder
from tierline.models.packed_forms import SCALE_BYTES
from tierline.run.kernels.building import load_or_build, omp_runtime, processor_flags
from tierline.run.library import find_compiler

INT4_BLOCK_ROWS = 64
MOST_COLUMNS = 2**16  # of more, a sum of whole numbers could overflow
_POINTER, _COUNT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_INT8 = (_POINTER, _COUNT, _COUNT, _COUNT, _POINTER, _INT, _POINTER, _INT)
_INT4 = (_POINTER, _COUNT, _COUNT, _COUNT, _COUNT, _POINTER, _INT, _POINTER, _INT)
_NEEDED = ({"avx512_vnni", "avx512bw"}, {"avx_vnni"})  # one of these


class CompiledPanels:
    """The loaded library. A tile is panels of `panel_rows` rows, the last of which may have fewer.

    Rows of x are contiguous bf16, as is what comes out. An element's bits depend on its row of x and its row
    of weights alone.
    """

    def __init__(self, path: Path) -> None:
        """Raise OSError or AttributeError where `path` is not the library."""
        library = ctypes.CDLL(str(path))
        self._int8, self._int4 = library.product_int8, getattr(library, "product_int4", None)
        self._int8.argtypes, self._int8.restype = _INT8, _INT
        if self._int4 is not None:
            self._int4.argtypes, self._int4.restype = _INT4, _INT

    def int8(self, x: torch.Tensor, tile: memoryview, rows: int, panel_rows: int) -> torch.Tensor | None:
        """Return `x @ W.T` for `rows` rows of Int8Panels; None where torch has to do it."""
        width, columns = x.shape
        panel_rows = min(panel_rows, rows)
        if columns > MOST_COLUMNS or not _fits(x, tile, rows * (columns + SCALE_BYTES)):
            return None
        out = torch.empty(width, rows, dtype=torch.bfloat16)
        at, threads = _address(tile), torch.get_num_threads()
        failed = self._int8(at, rows, panel_rows, columns, x.data_ptr(), width, out.data_ptr(), threads)
        return None if failed else out

    def int4(
        self, x: torch.Tensor, tile: memoryview, rows: int, panel_rows: int, group: int
    ) -> torch.Tensor | None:
        """Return `x @ W.T` for `rows` rows of Int4Panels in the order that torch gives them on AVX512.

        None where torch has to do it: blocks of fewer than 64 rows have another order.
        """
        width, columns = x.shape
        panel_rows = min(panel_rows, rows)
        if self._int4 is None or (rows | panel_rows) % INT4_BLOCK_ROWS or columns > MOST_COLUMNS:
            return None
        if not _fits(x, tile, rows * (columns // 2 + columns // group * 2 * SCALE_BYTES)):
            return None
        out = torch.empty(width, rows, dtype=torch.bfloat16)
        at, threads = _address(tile), torch.get_num_threads()
        failed = self._int4(
            at, rows, panel_rows, columns, group, x.data_ptr(), width, out.data_ptr(), threads
        )
        return None if failed else out


def _fits(x: torch.Tensor, tile: memoryview, tile_bytes: int) -> bool:
    """Return whether memory holds what C is about to read there."""
    return x.dtype is torch.bfloat16 and tile.nbytes >= tile_bytes


def _address(tile: memoryview) -> int:
    return torch.frombuffer(tile, dtype=torch.uint8).data_ptr()


@cache
def compiled_panels() -> CompiledPanels | None:
    """Return the library, built where this version of it is not kept yet; None where that cannot be done."""
    compiler, can = find_compiler(), set(processor_flags().split())
    if compiler is None or not any(needed <= can for needed in _NEEDED):
        return None
    return load_or_build("panels.c", cache_folder(), compiler, omp_runtime(), CompiledPanels)
