"""Read the headers of safetensors files, bounds first, without the safetensors library.

The layout: 8 bytes little-endian length, that many bytes of JSON, then the data to which the offsets in the
JSON are relative (https://github.com/huggingface/safetensors, format section of the README).
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tierline.errors import InputError
from tierline.models.fields import Fields, parse_json, read_json
from tierline.models.packed_layout import read_layout
from tierline.models.stored import (
    MAX_DIMENSIONS,
    MAX_TENSORS,
    Checkpoint,
    Scalar,
    StoredTensor,
    check_layout,
    element_count,
)

PREFIX_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
INDEX_NAME = "model.safetensors.index.json"
# Unsigned integers go by the signed name of their width: they are packed data, of which only bytes count.
DTYPES: Mapping[str, tuple[str, int]] = {
    "F64": ("fp64", 8), "F32": ("fp32", 4), "F16": ("fp16", 2), "BF16": ("bf16", 2),
    "F8_E4M3": ("fp8", 1), "F8_E5M2": ("fp8_e5m2", 1), "F8_E8M0": ("fp8_e8m0", 1),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1),
    "U64": ("int64", 8), "U32": ("int32", 4), "U16": ("int16", 2), "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}  # fmt: skip
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,200}\.safetensors")


@dataclass(frozen=True, slots=True)
class RawHeader:
    """The header of a safetensors file as it lies there: its JSON, and the length of the whole file."""

    content: bytes
    file_bytes: int


Fetch = Callable[[Path], RawHeader]  # the header of one file, wherever that is


def read_safetensors(path: Path, fetch: Fetch | None = None) -> Checkpoint:
    """Return what the header of one safetensors file says; raise InputError if it cannot be true.

    `fetch` gets the header where it is not in the file `path`.
    """
    tensors, metadata = _read_file(path, fetch or read_header)
    return Checkpoint("safetensors", path, tensors, metadata)


def read_safetensors_index(path: Path) -> Checkpoint:
    """Return what the shards that an index names hold; raise InputError for a shard or tensor amiss."""
    return indexed_checkpoint(path, Fields(read_json(path), str(path)), read_header)


def indexed_checkpoint(path: Path, index: Fields, fetch: Fetch) -> Checkpoint:
    """Return what the shards of the parsed `index` at `path` hold; raise InputError as above.

    Only plain file names beside the index are followed. A tensor that a shard holds and the index does not
    list is left out, as loaders do.
    """
    held: dict[str, dict[str, StoredTensor]] = {}
    metadata: dict[str, Scalar] = {}
    tensors = {}
    for name, shard in shards(path, index).items():
        if shard not in held:
            held[shard], said = _read_file(path.parent / shard, fetch)
            metadata |= said
        if name not in held[shard]:
            raise InputError(f"{path}: {name[:120]!r} is not in {shard}, where the index says it is")
        tensors[name] = held[shard][name]
    return Checkpoint("safetensors", path, tensors, metadata)


def shards(path: Path, index: Fields) -> dict[str, str]:
    """Return the plain file name of the shard that each tensor is in, by the index at `path`."""
    weight_map = index.inner("weight_map").values
    if len(weight_map) > MAX_TENSORS:
        raise InputError(f"{path}: lists {len(weight_map):,} tensors, more than {MAX_TENSORS:,}")
    found = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not PLAIN_NAME.fullmatch(shard):
            raise InputError(
                f"{path}: {name[:120]!r} is said to be in {str(shard)[:120]!r}: want the plain name of a "
                f".safetensors file in the same directory"
            )
        found[name] = shard
    return found


def _read_file(path: Path, fetch: Fetch) -> tuple[dict[str, StoredTensor], dict[str, Scalar]]:
    """Return the tensors and the text metadata of one file."""
    raw = fetch(path)
    header = parse_json(raw.content, f"{path}: header")
    said = header.pop("__metadata__", None)
    texts = said.items() if isinstance(said, dict) else ()
    metadata: dict[str, Scalar] = {k: v for k, v in texts if isinstance(v, str)}
    if len(header) > MAX_TENSORS:
        raise InputError(f"{path}: names {len(header):,} tensors, more than {MAX_TENSORS:,}")
    start = PREFIX_BYTES + len(raw.content)
    tensors = {name: _tensor(name, entry, path, start) for name, entry in header.items()}
    check_layout(tensors.values(), raw.file_bytes, path)
    return read_layout(tensors, metadata), metadata


def read_header(path: Path) -> RawHeader:
    """Return the header of the file `path`; raise InputError where there is none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            length = header_bytes(file.read(PREFIX_BYTES), file_bytes, str(path))
            return RawHeader(file.read(length), file_bytes)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def header_bytes(prefix: bytes, file_bytes: int, where: str, limit_bytes: int = MAX_HEADER_BYTES) -> int:
    """Return the header's length that the first 8 bytes give; raise InputError if it cannot be true."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) != PREFIX_BYTES or length > min(file_bytes - PREFIX_BYTES, limit_bytes):
        raise InputError(
            f"{where}: claims a header of {length:,} bytes in a file of {file_bytes:,} (at most "
            f"{limit_bytes:,} are read): it is truncated or no safetensors file"
        )
    return length


def _tensor(name: str, entry: object, path: Path, data_start: int) -> StoredTensor:
    """Return one tensor of the header; raise InputError if its shape, dtype and offsets disagree."""
    where = f"{path}: tensor {name[:120]!r}"
    if not isinstance(entry, dict):
        raise InputError(f"{where}: want an object with dtype, shape and data_offsets")
    fields = Fields(entry, where)
    dtype = fields.text("dtype")
    if dtype not in DTYPES:
        raise fields.error("dtype", dtype, "one of " + ", ".join(DTYPES))
    shape = _whole_numbers(fields, "shape", MAX_DIMENSIONS)
    offsets = _whole_numbers(fields, "data_offsets", 2)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise fields.error("data_offsets", list(offsets), "[start, end] with start <= end")
    number_format, size = DTYPES[dtype]
    footprint_bytes = element_count(shape, where) * size
    if footprint_bytes != offsets[1] - offsets[0]:
        raise InputError(
            f"{where}: shape {list(shape)} of {dtype} takes {footprint_bytes:,} bytes, but its offsets span "
            f"{offsets[1] - offsets[0]:,}"
        )
    return StoredTensor(name, number_format, shape, path, data_start + offsets[0], footprint_bytes)


def _whole_numbers(fields: Fields, name: str, most: int) -> tuple[int, ...]:
    """Return a list of at most `most` whole numbers below 2^60."""
    found = fields.items(name)
    if found is None or len(found) > most:
        raise fields.error(name, found, f"a list of at most {most} whole numbers")
    for number in found:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 2**60:
            raise fields.error(name, number, "whole numbers from 0 to 2^60")
    return tuple(n for n in found if isinstance(n, int))
