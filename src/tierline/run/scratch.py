"""What weights are expanded into while they are used: how much of it, and of which formats. No torch."""

from collections.abc import Iterable

from tierline.formats.parse import parse_format
from tierline.models.packed_forms import FORMS, INT4, is_panelled
from tierline.models.stored import StoredTensor

# 2 MiB of expanded fp32 at a time: larger chunks fall out of the cache, smaller ones pay more per call.
CHUNK_ELEMENTS = 2**19
_EXPANDED_BYTES = 8  # of an element of a packed panel: its code twice, its value in fp32 and in bf16


def scratch_bytes(tensors: Iterable[StoredTensor], compute: str) -> int:
    """Return the bytes that the kernels of `tensors` expand weights into, in the format `compute`.

    Blocks, and halves that are computed in another format, share one chunk of it; of packed panels it is the
    most that a wide pass expands at once.
    """
    tensors = tuple(tensors)
    expands = any(t.format not in ("fp32", compute) and not is_panelled(t.format) for t in tensors)
    chunk = parse_format(compute).footprint_bytes((CHUNK_ELEMENTS,)) if expands else 0
    return chunk + max((expanded_bytes(t) for t in tensors if is_panelled(t.format)), default=0)


def expanded_bytes(tensor: StoredTensor) -> int:
    """Return the most bytes that a wide pass expands of a `tensor` in panels at once."""
    columns = tensor.shape[1]
    piece = max(CHUNK_ELEMENTS, FORMS[INT4].panel_rows * columns)
    return _EXPANDED_BYTES * min(piece, tensor.panel_rows * columns)
