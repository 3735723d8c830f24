"""All products of a rehearsed step, though most of its weights are not there.

What products leave in the caches decides how long everything between them takes, so a step is rehearsed with
all of them: a tile that is pinned is multiplied itself, one that is streamed by another of its kind.
"""

from collections.abc import Iterable, Iterator
from itertools import cycle

import torch

from tierline.run.matrix import Matrix, PinnedTile
from tierline.run.staging import Staging

_Kind = tuple[str, tuple[int, ...]]  # format and shape of a matrix: others of the kind are cut alike
_Rows = tuple[memoryview, int]  # bytes of a tile, and its rows


class StandIns:
    """Multiplies with every tile of a matrix, or with one that stands in for it."""

    def __init__(self, matrices: Iterable[Matrix], staging: Staging | None = None) -> None:
        """Tiles are stood in for by the pinned ones of `matrices` in turn, or by a blank one where none is.

        For every tile that is streamed, one of `staging` is passed over if it has come: none is waited for.
        """
        pinned: dict[_Kind, list[_Rows]] = {}
        blank: dict[_Kind, list[_Rows]] = {}
        for matrix in matrices:
            for home in matrix.tiles:
                rows = home.tile.stop - home.tile.start
                if isinstance(home, PinnedTile):
                    pinned.setdefault(_kind(matrix), []).append((home.data, rows))
                elif _kind(matrix) not in blank:
                    blank[_kind(matrix)] = [(memoryview(bytearray(home.tile.footprint_bytes)), rows)]
        found = blank | pinned
        self._others: dict[_Kind, Iterator[_Rows]] = {kind: cycle(found[kind]) for kind in found}
        self._staging = staging

    def multiply(self, matrix: Matrix, rows: int, dtype: torch.dtype) -> None:
        """Multiply `rows` rows with as many tiles as `matrix` has, for the time that it takes."""
        x = torch.ones(rows, matrix.tensor.shape[1], dtype=dtype)
        for home in matrix.tiles:
            wanted = home.tile.stop - home.tile.start
            if isinstance(home, PinnedTile):
                matrix.kernel.matmul(x, home.data, wanted)
                continue
            raw, have = next(self._others[_kind(matrix)])
            count = min(wanted, have)  # one panel less at the most: cuts are as equal as can be
            matrix.kernel.matmul(x, raw[: len(raw) // have * count], count)
            if self._staging is not None:
                self._staging.pass_over()


def _kind(matrix: Matrix) -> _Kind:
    return matrix.tensor.format, matrix.tensor.shape
