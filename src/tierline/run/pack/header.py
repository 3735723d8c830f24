"""The header of a packed file: where every tensor goes, with room for checksums that come later."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tierline.errors import InputError
from tierline.models.packed_forms import FORMS, is_packed
from tierline.models.packed_layout import (
    ALIGNMENT_BYTES,
    CHECKSUM_BYTES,
    CPU_KEY,
    LAYOUT,
    LAYOUT_KEY,
    PADDING_PREFIX,
    TENSORS_KEY,
    VERSION,
    VERSION_KEY,
)
from tierline.models.safetensors_header import DTYPES, MAX_HEADER_BYTES, PREFIX_BYTES
from tierline.run.pack.contents import Item

# The first dtype of each width wins: unsigned integers are written by the name that a reader gives them.
_DTYPE_OF = {number_format: dtype for dtype, (number_format, _) in reversed(list(DTYPES.items()))}


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows `start` to `stop` of an item, `footprint_bytes` at `offset` of the packed file."""

    item: Item
    start: int
    stop: int
    offset: int
    footprint_bytes: int


@dataclass(frozen=True, slots=True)
class FilePlan:
    """Where everything goes: the header takes `header_bytes`, its length included, the file `file_bytes`."""

    items: tuple[Item, ...]
    panels: tuple[Panel, ...]
    header_bytes: int
    file_bytes: int

    def header(self, checksums: Sequence[int]) -> bytes:
        """Return the file's first `header_bytes`, given the CRC-32 of every panel in order."""
        crcs: dict[str, str] = {item.name: "" for item in self.items}
        for panel, checksum in zip(self.panels, checksums, strict=True):
            crcs[panel.item.name] += f"{checksum:0{2 * CHECKSUM_BYTES}x}"
        text = _text(self.items, crcs)
        text += b" " * (self.header_bytes - PREFIX_BYTES - len(text))
        return len(text).to_bytes(PREFIX_BYTES, "little") + text


def plan_file(items: tuple[Item, ...]) -> FilePlan:
    """Return where `items` go in their order; raise InputError if the header would be too long to read."""
    blank = {item.name: "0" * (2 * CHECKSUM_BYTES * _panel_count(item)) for item in items}
    header_bytes = _aligned(PREFIX_BYTES + len(_text(items, blank)))
    if header_bytes - PREFIX_BYTES > MAX_HEADER_BYTES:
        raise InputError(f"the packed file's header would take {header_bytes:,} bytes: too many tensors")
    panels, offset = [], header_bytes
    for item in items:
        panels += _panels(item, offset)
        offset = _aligned(offset + item.footprint_bytes)
    return FilePlan(items, tuple(panels), header_bytes, offset)


def _panels(item: Item, offset: int) -> list[Panel]:
    if not item.footprint_bytes:
        return []
    row_bytes = item.footprint_bytes // item.rows
    cuts = [(a, min(a + item.panel_rows, item.rows)) for a in range(0, item.rows, item.panel_rows)]
    return [Panel(item, a, b, offset + a * row_bytes, (b - a) * row_bytes) for a, b in cuts]


def _panel_count(item: Item) -> int:
    return -(-item.rows // item.panel_rows)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _text(items: Sequence[Item], crcs: dict[str, str]) -> bytes:
    """Return the header's JSON: tensors without holes, since safetensors allows none, and the metadata."""
    metadata = {"format": "pt", LAYOUT_KEY: LAYOUT, VERSION_KEY: VERSION}
    if any(is_packed(item.format) and FORMS[item.format].kind == "int4" for item in items):
        metadata[CPU_KEY] = torch.backends.cpu.get_cpu_capability()
    metadata[TENSORS_KEY] = json.dumps(
        {
            item.name: {
                "format": item.format,
                "shape": item.shape,
                "panel_rows": item.panel_rows,
                "crc32": crcs[item.name],
            }
            for item in items
        }
    )
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for item in items:
        end = offset + item.footprint_bytes
        dtype, shape = _stored_as(item)
        header[item.name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = _aligned(end)
        if offset > end:
            name = f"{PADDING_PREFIX}{len(header)}"
            header[name] = {"dtype": "U8", "shape": [offset - end], "data_offsets": [end, offset]}
    return json.dumps(header, separators=(",", ":")).encode()


def _stored_as(item: Item) -> tuple[str, list[int]]:
    if is_packed(item.format):
        return "U8", [item.rows, item.footprint_bytes // item.rows]
    return _DTYPE_OF[item.format], list(item.shape)
