"""Products straight from packed panels, by our kernels in C or torch's; wide passes expand pieces."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from tierline.errors import InputError
from tierline.models.packed_forms import FORMS
from tierline.models.packed_layout import CPU_KEY
from tierline.run.kernels.compiled_panels import CompiledPanels
from tierline.run.kernels.int4 import Int4Panels
from tierline.run.kernels.int8 import Int8GroupPanels, Int8Panels

# Rows of x that torch's kernels are given at most, and ours at once. Measured on two cores with AVX512, an
# 8192 x 2048 matrix, ms at 16 rows and at 128: torch's int8 2.2 and 15.4, int4 1.9 and 14.5, plain bf16 1.9
# and 7.2.
WIDEST_PASS = 16


class Panels(Protocol):
    """How one form's panels are read and multiplied with; compute is in bf16."""

    @property
    def widest(self) -> int:
        """Rows of x up to which `tile`, some at a time, is quicker than `wide`."""
        ...

    def row_bytes(self, columns: int) -> int:
        """Return the bytes of a row, its scales included."""
        ...

    def tile(self, x: torch.Tensor, raw: memoryview, rows: int, panel_rows: int) -> torch.Tensor | None:
        """Return `x @ W.T` of at most WIDEST_PASS rows with all panels of a tile, None where we cannot."""
        ...

    def parts(
        self, raw: memoryview, offset: int, shape: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights and the scales of the panel of `shape` that starts at `offset`."""
        ...

    def product(self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return `x @ W.T` of at most WIDEST_PASS rows, by torch's kernel."""
        ...

    def wide(self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return `x @ W.T` of any number of rows, a piece of the panel expanded at a time."""
        ...

    def pieces(self, weights: torch.Tensor, scales: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the rows of a panel expanded to bf16, some at a time."""
        ...


def panels_of(form: str, compiled: CompiledPanels | None) -> Panels:
    """Return how panels of `form` (a key of FORMS that is panelled) are computed with: torch's way without
    `compiled`.
    """
    kind, group = FORMS[form].kind, FORMS[form].group
    if kind == "int4":
        return Int4Panels(group, compiled)
    return Int8GroupPanels(group) if group else Int8Panels(compiled)


@dataclass(frozen=True, slots=True)
class PanelKernel:
    """A matrix in panels of `panel_rows` rows, the last of which may have fewer."""

    panels: Panels
    panel_rows: int

    def matmul(self, x: torch.Tensor, raw: memoryview, rows: int) -> torch.Tensor:
        """See Kernel."""
        x = x.contiguous()
        own = self._own(x, raw, rows) if x.shape[0] <= self.panels.widest else None
        if own is not None:
            return own
        product = self.panels.product if x.shape[0] <= WIDEST_PASS else self.panels.wide
        parts = [product(x, *panel) for panel in self._cut(raw, rows, x.shape[-1])]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def expand(self, raw: memoryview, rows: int, columns: int) -> torch.Tensor:
        """See Kernel."""
        cut = self._cut(raw, rows, columns)
        return torch.cat([piece for panel in cut for piece in self.panels.pieces(*panel)])

    def _own(self, x: torch.Tensor, raw: memoryview, rows: int) -> torch.Tensor | None:
        """Return the product by our kernel, None where there is none."""
        parts = [self.panels.tile(some, raw, rows, self.panel_rows) for some in x.split(WIDEST_PASS)]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            return None
        return found[0] if len(found) == 1 else torch.cat(found)

    def _cut(self, raw: memoryview, rows: int, columns: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        row_bytes = self.panels.row_bytes(columns)
        for start in range(0, rows, self.panel_rows):
            count = min(self.panel_rows, rows - start)
            yield self.panels.parts(raw, start * row_bytes, (count, columns))


def refuse_other_cpu(metadata: Mapping[str, object], path: Path) -> None:
    """Raise InputError if the int4 panels of a file were packed for another kind of CPU than this one."""
    packed_for, here = metadata.get(CPU_KEY), torch.backends.cpu.get_cpu_capability()
    if packed_for is not None and packed_for != here:
        raise InputError(
            f"{path}: its int4 weights are packed for the kernels of {str(packed_for)[:40]}, and torch uses "
            f"those of {here} here: run `tierline pack` on this computer, from the original model"
        )
