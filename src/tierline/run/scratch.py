"""What weights are expanded into while they are used: how much of it, and of which formats. No torch."""

from collections.abc import Iterable

from tierline.formats.ggml import ggml_blocks
from tierline.models.packed_layout import INT4, PANEL_ROWS_OF, is_packed
from tierline.models.stored import StoredTensor

# 2 MiB of expanded fp32 at a time: larger chunks fall out of the cache, smaller ones pay more per call.
CHUNK_ELEMENTS = 2**19
_EXPANDED_BYTES = 8  # of an element of a packed panel: its code twice, its value in fp32 and in bf16


def scratch_bytes(tensors: Iterable[StoredTensor], compute_bytes: int) -> int:
    """Return the bytes that the kernels of `tensors` expand weights into, at `compute_bytes` an element.

    GGUF blocks share one chunk; of packed panels it is the most that a wide pass expands at once.
    """
    tensors = tuple(tensors)
    blocks = {blocks.name for blocks in ggml_blocks().values()}
    chunk = CHUNK_ELEMENTS * compute_bytes if any(t.format in blocks for t in tensors) else 0
    return chunk + max((expanded_bytes(t) for t in tensors if is_packed(t.format)), default=0)


def expanded_bytes(tensor: StoredTensor) -> int:
    """Return the most bytes that a wide pass expands of a packed `tensor` at once."""
    columns = tensor.shape[1]
    piece = max(CHUNK_ELEMENTS, PANEL_ROWS_OF[INT4] * columns)
    return _EXPANDED_BYTES * min(piece, tensor.panel_rows * columns)
