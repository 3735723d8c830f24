"""The layout of files that `tierline pack` writes: a legal safetensors file with more said in its metadata.

Tensors follow one another in the order of a decode step, each at a multiple of 4 KiB in the file, padding
tensors between them. A matrix in a kernel's own form (packed_forms) is stored as bytes, `[rows, bytes per
row]`, and cut into panels of whole rows: a panel holds the weights of its rows as the kernel wants them, then
their scales; blocks hold both, row by row.
Every panel has a checksum, so that any tile of whole panels can be checked by itself.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from tierline.errors import InputError
from tierline.formats.parse import parse_format
from tierline.models.fields import Fields, parse_json
from tierline.models.packed_forms import FORMS, INT8, SCALE_BYTES, fits, is_packed, is_panelled
from tierline.models.stored import MAX_DIMENSIONS, Scalar, StoredTensor, element_count

LAYOUT_KEY, VERSION_KEY, TENSORS_KEY, CPU_KEY = (
    "tierline.layout", "tierline.version", "tierline.tensors", "tierline.cpu",
)  # fmt: skip
LAYOUT, VERSION = "panels", "1"
PADDING_PREFIX = "tierline.padding."
ALIGNMENT_BYTES = 4096
CHECKSUM_BYTES = 4


def panel_count(tensor: StoredTensor) -> int:
    """Return the panels of a tensor, the last of which may have fewer rows."""
    rows = tensor.shape[0] if tensor.shape else 1
    return -(-rows // tensor.panel_rows)


def row_parts(tensor: StoredTensor, row: int) -> tuple[tuple[int, int], ...]:
    """Return where one row lies as (offset in the file, bytes): in one piece, or the weights and the scale.

    Together the pieces are a panel of one row. Raises InputError for a format that interleaves rows.
    """
    row_bytes = tensor.footprint_bytes // tensor.shape[0]
    if not is_panelled(tensor.format):
        return ((tensor.offset + row * row_bytes, row_bytes),)
    if tensor.format != INT8:
        raise InputError(f"{tensor.path}: rows of {tensor.name} ({tensor.format}) cannot be read one by one")
    first = row // tensor.panel_rows * tensor.panel_rows
    rows = min(tensor.panel_rows, tensor.shape[0] - first)
    panel, columns = tensor.offset + first * row_bytes, tensor.shape[1]
    scale = panel + rows * columns + (row - first) * SCALE_BYTES
    return ((panel + (row - first) * columns, columns), (scale, SCALE_BYTES))


def read_layout(tensors: dict[str, StoredTensor], metadata: Mapping[str, Scalar]) -> dict[str, StoredTensor]:
    """Return the tensors of one file as what they are packed from; those of other files are as they were.

    Raises InputError where the metadata cannot be true.
    """
    if LAYOUT_KEY not in metadata or not tensors:
        return tensors
    path = next(iter(tensors.values())).path
    version = (metadata[LAYOUT_KEY], metadata.get(VERSION_KEY))
    if version != (LAYOUT, VERSION):
        raise InputError(
            f"{path}: packed in layout {str(version[0])[:40]!r} version {str(version[1])[:40]!r}, and this "
            f"Tierline reads {LAYOUT!r} version {VERSION}: pack the model again"
        )
    where = f"{path}: {TENSORS_KEY}"
    entries = Fields(parse_json(str(metadata.get(TENSORS_KEY, "")).encode(), where), where)
    held = {name: tensor for name, tensor in tensors.items() if not name.startswith(PADDING_PREFIX)}
    if held.keys() != entries.values.keys():
        name = min(held.keys() ^ entries.values.keys())
        raise InputError(f"{where}: {name[:120]!r} is in the header or in the metadata, but not in both")
    return {name: _packed(tensor, entries.inner(name)) for name, tensor in held.items()}


def _packed(stored: StoredTensor, entry: Fields) -> StoredTensor:
    """Return the tensor that the bytes of `stored` are; raise InputError where `entry` contradicts them."""
    number_format = entry.text("format")
    shape = _shape(entry)
    if is_packed(number_format):
        if not fits(number_format, shape):
            raise entry.error("shape", list(shape), f"a shape that {number_format} can have")
        element_count(shape, entry.where)
        footprint_bytes = parse_format(number_format).footprint_bytes(shape)
        if stored.offset % ALIGNMENT_BYTES:
            raise InputError(f"{entry.where}: starts at {stored.offset:,}, no multiple of {ALIGNMENT_BYTES}")
        if stored.format != "uint8" or stored.footprint_bytes != footprint_bytes:
            raise InputError(
                f"{entry.where}: {list(shape)} in {number_format} takes {footprint_bytes:,} bytes, but "
                f"{stored.footprint_bytes:,} of {stored.format} are stored"
            )
    elif (number_format, shape) != (stored.format, stored.shape):
        raise entry.error("format", number_format, f"{stored.format} of {list(stored.shape)}, as stored")
    rows = max(1, shape[0]) if shape else 1
    panel_rows = entry.count("panel_rows", most=rows)
    unit = FORMS[number_format].panel_rows if is_packed(number_format) else 1
    if panel_rows % unit and panel_rows < rows:
        raise entry.error("panel_rows", panel_rows, f"a multiple of {unit}")
    packed = replace(stored, format=number_format, shape=shape, panel_rows=panel_rows)
    return replace(packed, panel_crc32=_checksums(entry, panel_count(packed)))


def _shape(entry: Fields) -> tuple[int, ...]:
    items = entry.items("shape") or []
    shape = tuple(n for n in items if isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= 2**60)
    if len(shape) != len(items) or len(shape) > MAX_DIMENSIONS:
        raise entry.error("shape", items, f"at most {MAX_DIMENSIONS} whole numbers")
    return shape


def _checksums(entry: Fields, count: int) -> bytes:
    text = entry.text("crc32")
    digits = count * CHECKSUM_BYTES * 2
    if not re.fullmatch("[0-9a-f]*", text) or len(text) != digits:
        raise entry.error("crc32", text, f"{digits:,} lower-case hexadecimal digits, 8 for each panel")
    return bytes.fromhex(text)
