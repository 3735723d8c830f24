"""Read the header of a GGUF file (versions 2 and 3), bounds first; arrays are skipped, not built.

The layout is that of ggml's docs/gguf.md: magic, version, counts, metadata, tensor infos, padding to the
alignment, data. Block types and their bytes come from `formats.ggml`.
"""

import os
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO

from tierline.errors import InputError
from tierline.formats.ggml import GgmlBlocks, ggml_type
from tierline.models.stored import Checkpoint, Scalar, StoredArray, StoredTensor, check_layout, element_count

MAX_TENSORS = 2**16
MAX_KEYS = 2**16
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 2**16 - 1
MAX_TEXT_BYTES = 2**24
MAX_STRINGS = 2**22  # in all arrays together: five times the largest vocabulary with its merges
MAX_HEADER_BYTES = 2**28
MAX_ALIGNMENT = 2**20
DEFAULT_ALIGNMENT = 32
SUPPORTED_VERSIONS = (2, 3)

_CHUNK_BYTES = 2**21
_STRING, _ARRAY, _BOOL = 8, 9, 7
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_NUMBERS: Mapping[int, struct.Struct] = {number: struct.Struct(f"<{code}") for number, code in _CODES.items()}
_U32, _U64 = _NUMBERS[4], _NUMBERS[10]
_SMALLEST_TENSOR_INFO = 8 + 1 + 4 + 8 + 4 + 8


class _Header:
    """A cursor over the start of a file, which it reads as far as it is asked to and no further."""

    __slots__ = ("_buffer", "_file", "file_bytes", "path", "position", "strings")

    def __init__(self, file: BinaryIO, path: Path, file_bytes: int) -> None:
        self._file = file
        self._buffer = bytearray()
        self.path = path
        self.position = 0
        self.file_bytes = file_bytes
        self.strings = 0

    def advance(self, count: int, what: str) -> int:
        """Return where the next `count` bytes start, in memory, and step over them."""
        start, end = self.position, self.position + count
        if end > len(self._buffer):
            self._read_to(end, what)
        self.position = end
        return start

    def _read_to(self, end: int, what: str) -> None:
        if end > self.file_bytes:
            raise InputError(
                f"{self.path}: {what} would end at byte {end:,}, but the file has {self.file_bytes:,}: "
                f"it is truncated or no GGUF file"
            )
        if end > MAX_HEADER_BYTES:
            raise InputError(f"{self.path}: the header is over {MAX_HEADER_BYTES:,} bytes at {what}")
        while len(self._buffer) < end:
            chunk = self._file.read(max(_CHUNK_BYTES, end - len(self._buffer)))
            if not chunk:
                raise InputError(
                    f"{self.path}: ends after {len(self._buffer):,} bytes, in the middle of {what}"
                )
            self._buffer += chunk

    def number(self, kind: struct.Struct, what: str) -> int | float:
        """Return the next number."""
        start = self.advance(kind.size, what)
        value: int | float = kind.unpack_from(self._buffer, start)[0]
        return value

    def count(self, kind: struct.Struct, what: str, most: int) -> int:
        """Return the next whole number, at most `most`."""
        value = int(self.number(kind, what))
        if value > most:
            raise InputError(f"{self.path}: {what} is {value:,}, more than {most:,}")
        return value

    def text(self, what: str, most: int) -> bytes:
        """Return the next text of at most `most` bytes."""
        length = self.count(_U64, f"the length of {what}", most)
        start = self.advance(length, what)
        return bytes(self._buffer[start : self.position])

    def name(self, what: str) -> str:
        """Return the next text as a name, which has to be UTF-8."""
        raw = self.text(what, MAX_NAME_BYTES)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: {what} is not UTF-8: {raw[:40]!r}") from error

    def expect(self, count: int, claim: str) -> None:
        """Raise InputError, before anything is read, if fewer than `count` bytes are left of the file."""
        left = self.file_bytes - self.position
        if count > left:
            raise InputError(
                f"{self.path}: {claim}, at least {count:,} bytes, but {left:,} are left of the file: it is "
                "truncated or no GGUF file"
            )

    def skip_strings(self, count: int, what: str) -> None:
        """Step over `count` texts without building them: a vocabulary has hundreds of thousands."""
        self.strings += count
        if self.strings > MAX_STRINGS:
            raise InputError(
                f"{self.path}: {what} claims {count:,} texts, more than the {MAX_STRINGS:,} that are read"
            )
        self.expect(count * 8, f"{what} claims {count:,} texts")
        unpack = _U64.unpack_from
        position, buffer = self.position, self._buffer
        for _ in range(count):
            if position + 8 > len(buffer):
                self._read_to(position + 8, what)
            position += 8 + unpack(buffer, position)[0]
            if position > len(buffer):
                self._read_to(position, what)
        self.position = position


def read_gguf(path: Path) -> Checkpoint:
    """Return what the header of a GGUF file says, shapes with the rows' width last.

    Metadata that are numbers and texts are read; arrays are located (`read_array` reads one). Raises
    InputError for a header that cannot be true of this file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open("rb", buffering=0) as file:
            return read_gguf_start(file, path, _file_bytes(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def read_gguf_start(file: BinaryIO, path: Path, file_bytes: int) -> Checkpoint:
    """Return what `read_gguf` does of a file of `file_bytes` of which `file` has at least the header.

    `path` names it in errors. No array of what is returned can be read unless it is the file at `path`.
    """
    return _read(_Header(file, path, file_bytes))


def _file_bytes(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def read_array(array: StoredArray) -> list[Scalar]:
    """Return the elements of a metadata array; texts that are not UTF-8 keep a replacement character."""
    with array.path.open("rb", buffering=0) as file:
        file.seek(array.offset)
        header = _Header(file, array.path, _file_bytes(file) - array.offset)
        return [_scalar(header, array.element_type, "an array element") for _ in range(array.count)]


def _read(header: _Header) -> Checkpoint:
    tensor_count, key_count = _counts(header)
    metadata: dict[str, Scalar | StoredArray] = {}
    for _ in range(key_count):
        key = header.name("a metadata key")
        if key in metadata:
            raise InputError(f"{header.path}: the metadata key {key[:120]!r} occurs twice")
        metadata[key] = _value(header, f"metadata {key[:120]!r}")
    header.expect(tensor_count * _SMALLEST_TENSOR_INFO, f"the header claims {tensor_count:,} tensors")
    infos = [_tensor_info(header) for _ in range(tensor_count)]
    alignment = _alignment(metadata, header.path)
    data_start = -(-header.position // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    for info in infos:
        if info.name in tensors:
            raise InputError(f"{header.path}: tensor {info.name[:120]!r} occurs twice")
        if info.offset % alignment:
            raise InputError(
                f"{header.path}: tensor {info.name[:120]!r} starts at {info.offset:,}, no multiple of the "
                f"alignment {alignment}"
            )
        tensors[info.name] = StoredTensor(
            info.name, info.format, info.shape, info.path, data_start + info.offset, info.footprint_bytes
        )
    check_layout(tensors.values(), header.file_bytes, header.path)
    return Checkpoint("gguf", header.path, tensors, metadata)


def _counts(header: _Header) -> tuple[int, int]:
    """Return the numbers of tensors and of metadata keys, after checking magic and version."""
    start = header.advance(4, "the magic")
    magic = header._buffer[start : header.position]  # noqa: SLF001 - the cursor's own module
    if magic != b"GGUF":
        raise InputError(f"{header.path}: starts with {bytes(magic)!r}, not with b'GGUF': no GGUF file")
    version = int(header.number(_U32, "the version"))
    if version not in SUPPORTED_VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in SUPPORTED_VERSIONS
        why = "is big-endian" if swapped else f"has version {version}"
        raise InputError(f"{header.path}: {why}; little-endian versions 2 and 3 are read")
    return (
        header.count(_U64, "the number of tensors", MAX_TENSORS),
        header.count(_U64, "the number of metadata keys", MAX_KEYS),
    )


def _value(header: _Header, what: str) -> Scalar | StoredArray:
    """Return the next metadata value, arrays located only."""
    kind = int(header.number(_U32, f"the type of {what}"))
    if kind != _ARRAY:
        return _scalar(header, kind, what)
    element = int(header.number(_U32, f"the element type of {what}"))
    count = header.count(_U64, f"the number of elements of {what}", MAX_HEADER_BYTES)
    header.expect(count, f"{what} claims {count:,} elements")
    array = StoredArray(element, count, header.path, header.position)
    if element == _STRING:
        header.skip_strings(count, what)
    elif element in _NUMBERS:
        header.advance(count * _NUMBERS[element].size, what)
    else:
        nested = "nested arrays are not read" if element == _ARRAY else "there is no such type"
        raise InputError(f"{header.path}: {what} has elements of type {element}: {nested}")
    return array


def _scalar(header: _Header, kind: int, what: str) -> Scalar:
    if kind == _STRING:
        return header.text(what, MAX_TEXT_BYTES).decode(errors="replace")
    if kind not in _NUMBERS:
        raise InputError(f"{header.path}: {what} has type {kind}, which GGUF does not have")
    number = header.number(_NUMBERS[kind], what)
    return bool(number) if kind == _BOOL else number


def _tensor_info(header: _Header) -> StoredTensor:
    """Return the next tensor info, its offset still relative to the data."""
    name = header.name("a tensor's name")
    where = f"tensor {name[:120]!r}"
    dimensions = header.count(_U32, f"the number of dimensions of {where}", MAX_DIMENSIONS)
    sizes = [int(header.number(_U64, f"a dimension of {where}")) for _ in range(dimensions)]
    shape = tuple(reversed(sizes))
    if not all(shape):
        raise InputError(f"{header.path}: {where} has shape {list(shape)}: dimensions are at least 1")
    elements = element_count(shape, f"{header.path}: {where}")
    try:
        stored = ggml_type(int(header.number(_U32, f"the type of {where}")))
    except InputError as error:
        raise InputError(f"{header.path}: {where}: {error}") from error
    if isinstance(stored, GgmlBlocks) and not stored.divides(prod(shape[-1:])):
        raise InputError(
            f"{header.path}: {where} has rows of {list(shape[-1:])} elements, no multiple of the "
            f"blocks of {stored.name}, of {stored.block_elements}"
        )
    offset = int(header.number(_U64, f"the offset of {where}"))
    return StoredTensor(name, stored.name, shape, header.path, offset, stored.footprint_bytes((elements,)))


def _alignment(metadata: Mapping[str, object], path: Path) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):  # type: ignore[operator]
        raise InputError(
            f"{path}: general.alignment is {str(value)[:40]}: want a power of two up to 1,048,576"
        )
    return int(value)  # type: ignore[call-overload,no-any-return]
