"""`tierline pack`: rewrite a model once, in the order and the form in which it is streamed and computed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tierline.errors import FaultError, InputError
from tierline.models.checkpoint import SINGLE_NAME, find_checkpoint
from tierline.models.packed_forms import is_packed
from tierline.models.packed_layout import LAYOUT_KEY
from tierline.models.stored import StoredTensor
from tierline.run.direct_io import DirectFile, Extract, anonymous_memory, open_files
from tierline.run.pack.companions import write_companions
from tierline.run.pack.contents import PANEL_BYTES, WEIGHTS, Item, contents
from tierline.run.pack.encode import Encoder
from tierline.run.pack.header import FilePlan, Panel, plan_file
from tierline.run.pack.partial import PartialFile
from tierline.run.source import Source
from tierline.run.tiles import whole
from tierline.run.weights import Progress


@dataclass(frozen=True, slots=True)
class Packed:
    """A finished pack: the file, its bytes, and bytes of tensors by format."""

    path: Path
    file_bytes: int
    bytes_by_format: Mapping[str, int]


def pack(
    source: Source, folder: Path, weights: str, progress: Progress, *, panel_bytes: int = PANEL_BYTES
) -> Packed:
    """Write `source` to `folder` as a packed model directory; return what was written.

    `weights` is a key of WEIGHTS. Memory stays bounded: a panel of about `panel_bytes` at a time. The file
    gets its name only when it is whole and on the disk; a start after a kill goes on where that one was.
    `progress` is told the bytes written and those in all. Raises InputError for a source that cannot be
    packed or a `folder` that holds a model already, FaultError where a read or write fails.
    """
    _check(source, folder, weights)
    plan = plan_file(contents(source, weights, panel_bytes))
    before = _fingerprint(source, plan)
    folder.mkdir(parents=True, exist_ok=True)
    files = open_files(source.checkpoint.files)
    encoder = Encoder()
    try:
        with PartialFile(folder / SINGLE_NAME, before, plan.file_bytes) as partial:
            partial.resume(plan.panels)
            for panel in plan.panels[len(partial.checksums) :]:
                raw = _read(files, panel)
                item = panel.item
                partial.write(panel, encoder.panel(raw, item.source, panel.stop - panel.start, item.format))
                progress(panel.offset + panel.footprint_bytes, plan.file_bytes)
            if _fingerprint(source, plan) != before:
                raise FaultError(f"{source.path} was changed while it was packed: start again")
            write_companions(source, folder, _compute_format(source, plan))
            partial.finish(plan.header(partial.checksums))
    finally:
        for file in files.values():
            file.close()
    return Packed(folder / SINGLE_NAME, plan.file_bytes, _bytes_by_format(plan))


def _check(source: Source, folder: Path, weights: str) -> None:
    if weights not in WEIGHTS:
        raise InputError(f"--weights {weights[:60]!r}: want one of {', '.join(WEIGHTS)}")
    if LAYOUT_KEY in source.checkpoint.metadata:
        raise InputError(f"{source.path} is packed already: pack the original model instead")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file is there; name a directory to pack into")
    held = find_checkpoint(folder) if folder.is_dir() else None
    if held is not None:
        raise InputError(f"{held}: the directory holds a model already; name another, or remove that first")


def _fingerprint(source: Source, plan: FilePlan) -> str:
    """Return a line that tells this pack from any other: the sources as they are, and the whole layout."""
    digest = hashlib.blake2b(plan.header([0] * len(plan.panels)), digest_size=16)
    for path in source.checkpoint.files:
        status = path.stat()
        digest.update(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _read(files: Mapping[Path, DirectFile], panel: Panel) -> memoryview:
    """Return the source's bytes of a panel's rows, rotary pairs taken apart."""
    item = panel.item
    if item.joined:
        return _read_joined(files, item, panel.start, panel.stop)
    file = files[item.source.path]
    if not item.pair_heads:
        return _read_rows(file, item.source, panel.start, panel.stop)
    head_rows = item.rows // item.pair_heads
    first, last = panel.start // head_rows, -(-panel.stop // head_rows)
    raw = _read_rows(file, item.source, first * head_rows, last * head_rows)
    pairs = torch.frombuffer(raw, dtype=torch.uint8).view(last - first, head_rows // 2, 2, -1)
    rows = pairs.transpose(1, 2).reshape((last - first) * head_rows, -1)
    wanted = rows[panel.start - first * head_rows : panel.stop - first * head_rows]
    array: Any = wanted.reshape(-1).numpy()
    return memoryview(array)


def _read_joined(files: Mapping[Path, DirectFile], item: Item, start: int, stop: int) -> memoryview:
    """Return rows of tensors that follow one another."""
    found, first = bytearray(), 0
    for tensor in (item.source, *item.joined):
        begin, end = max(start - first, 0), min(stop - first, tensor.shape[0])
        if begin < end:
            found += _read_rows(files[tensor.path], tensor, begin, end)
        first += tensor.shape[0]
    return memoryview(found)


def _read_rows(file: DirectFile, tensor: StoredTensor, start: int, stop: int) -> memoryview:
    tile = whole(tensor).rows(start, stop - start)
    extract = Extract(tile.name, tile.offset, tile.footprint_bytes)
    return file.read(extract, anonymous_memory(file.span_bytes(extract)))


def _compute_format(source: Source, plan: FilePlan) -> str:
    """Return the format that the packed model is computed in: bf16, unless all was kept as it is."""
    kept = all(item.format == item.source.format for item in plan.items)
    packed = any(is_packed(item.format) for item in plan.items)
    return source.compute_format if kept and not packed else "bf16"


def _bytes_by_format(plan: FilePlan) -> dict[str, int]:
    held: dict[str, int] = {}
    for item in plan.items:
        held[item.format] = held.get(item.format, 0) + item.footprint_bytes
    return held
