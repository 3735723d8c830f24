"""Matrix products with weights as they are stored: dense, in GGUF blocks, or packed for torch's kernels."""

import torch

from tierline.errors import InputError
from tierline.models.packed_forms import FORMS, is_panelled
from tierline.models.stored import StoredTensor
from tierline.run.kernels.blocks import BlockKernel
from tierline.run.kernels.compiled import compiled
from tierline.run.kernels.compiled_panels import compiled_panels
from tierline.run.kernels.expansions import Blocks, half_blocks, runnable_blocks
from tierline.run.kernels.kernel import DenseKernel, Kernel
from tierline.run.kernels.packed import PanelKernel, panels_of
from tierline.run.scratch import CHUNK_ELEMENTS, expanded_bytes

__all__ = ["DENSE_DTYPES", "Kernel", "Kernels"]

DENSE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Kernels:
    """The kernels of one compute dtype; those that expand blocks share one scratch: compute is one thread."""

    def __init__(self, compute: torch.dtype) -> None:
        self.compute = compute
        self._made: dict[tuple[str, int], Kernel] = {}
        self._scratch = torch.empty(0, dtype=compute)
        self._expanded_bytes = 0

    @property
    def scratch_bytes(self) -> int:
        """Bytes that weights are expanded into, of all kernels made so far."""
        return self._scratch.nbytes + self._expanded_bytes

    def of(self, tensor: StoredTensor) -> Kernel:
        """Return the kernel for a tensor's stored format; raise InputError where there is none."""
        packed = is_panelled(tensor.format)
        key = (tensor.format, tensor.panel_rows if packed else 1)
        if packed:
            self._expanded_bytes = max(self._expanded_bytes, expanded_bytes(tensor))
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _make(self, stored: str, panel_rows: int) -> Kernel:
        if stored in DENSE_DTYPES:
            if stored == "fp32" or DENSE_DTYPES[stored] == self.compute:
                return DenseKernel(DENSE_DTYPES[stored], self.compute)
            return self._block_kernel(half_blocks(stored))
        if is_panelled(stored):
            if self.compute != torch.bfloat16:
                raise InputError(
                    f"weights in {stored} are computed in bf16, but this model in {self.compute}"
                )
            return PanelKernel(panels_of(stored, compiled_panels()), panel_rows)
        runnable = runnable_blocks()
        if stored in runnable:
            return self._block_kernel(runnable[stored])
        known = ", ".join([*sorted(DENSE_DTYPES), *sorted(runnable), *filter(is_panelled, FORMS)])
        raise InputError(f"weights in {stored} cannot be run: known are {known}")

    def _block_kernel(self, blocks: Blocks) -> Kernel:
        self._scratch = self._scratch.resize_(CHUNK_ELEMENTS)
        return BlockKernel(blocks, self._scratch, compiled())
