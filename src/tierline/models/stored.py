"""What lies in a checkpoint and where: header readers fill it, the engine reads weights by it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tierline.errors import InputError
from tierline.models.description import PlacedTensor

JOIN, EXPERT = " + ", "{e}"  # in a stored name: see stored_parts
MX_CODES, MX_SCALES = "mxfp4_codes", "mxfp4_scales"  # a matrix of MXFP4 in two tensors (GPT-OSS)
_MX_BLOCK, _MX_BYTES = 32, 16
MAX_TENSORS = 2**20
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 2**60
Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint: `footprint_bytes` from byte `offset` of the file `path` on.

    `format` is a number format's name (`bf16`, `q4_1`); `shape` has the rows' width last, as in torch.
    Rows belong together in panels of `panel_rows` (see packed_layout); `panel_crc32` has four bytes for each
    panel, most significant first, and is empty where the file has no checksums.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    footprint_bytes: int
    panel_rows: int = 1
    panel_crc32: bytes = b""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """A list in a GGUF file's metadata, left where it is: `gguf_header.read_array` reads it when asked."""

    element_type: int
    count: int
    path: Path
    offset: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The header of a checkpoint: every stored tensor by its name, and the metadata beside them.

    `path` is what was opened (a file, an index or a directory); the tensors say which file each is in.
    """

    kind: Literal["safetensors", "gguf"]
    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, Scalar | StoredArray]

    @property
    def footprint_bytes(self) -> int:
        """Bytes of all tensors, without headers and padding between them."""
        return sum(t.footprint_bytes for t in self.tensors.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors, sorted."""
        return tuple(sorted({t.path for t in self.tensors.values()}))


def element_count(shape: Iterable[int], where: str) -> int:
    """Return the product of `shape`; raise InputError before it grows past MAX_ELEMENTS."""
    count = 1
    for size in shape:
        count *= size
        if count > MAX_ELEMENTS:
            raise InputError(f"{where}: shape {list(shape)} has more than 2^60 elements")
    return count


def check_layout(tensors: Iterable[StoredTensor], file_bytes: int, path: Path) -> None:
    """Raise InputError if a tensor of one file lies outside it or over another."""
    end, previous = 0, ""
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.footprint_bytes)):
        stop = tensor.offset + tensor.footprint_bytes
        if stop > file_bytes:
            raise InputError(
                f"{path}: tensor {tensor.name[:120]!r} ends at byte {stop:,}, but the file has "
                f"{file_bytes:,}: it is truncated; fetch it again"
            )
        if tensor.footprint_bytes and tensor.offset < end:
            raise InputError(f"{path}: tensors {previous[:120]!r} and {tensor.name[:120]!r} overlap")
        end, previous = max(end, stop), tensor.name


def stored_parts(placed: PlacedTensor) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every stored tensor that makes up one tensor of a module.

    Mostly that is one. ` + ` in a stored name joins tensors along the last dimension but one (gate and up),
    and `{e}` stands for each index of the first dimension (experts that a file holds apart).
    """
    names, shape = placed.stored_name.split(JOIN), placed.tensor.shape
    if len(names) > 1:
        shape = (*shape[:-2], shape[-2] // len(names), shape[-1])
    apart = shape if EXPERT not in placed.stored_name else shape[1:]
    yield from ((name, apart) for _, name in expert_parts(placed))


def expert_parts(placed: PlacedTensor) -> Iterator[tuple[int | None, str]]:
    """Yield the stored names that make up a tensor, each with its expert: None where one holds them all."""
    names = placed.stored_name.split(JOIN)
    if EXPERT not in placed.stored_name:
        yield from ((None, name) for name in names)
        return
    for expert in range(placed.tensor.shape[0]):
        yield from ((expert, name.replace(EXPERT, str(expert))) for name in names)


def split_mx(
    tensors: Mapping[str, StoredTensor], name: str, shape: tuple[int, ...]
) -> tuple[StoredTensor, StoredTensor] | None:
    """Return the codes and the scales in which a file holds experts of `shape` in MXFP4, None where not.

    GPT-OSS is published so: the module's matrices are `(experts, in, out)`, stored are
    `NAME_blocks (experts, out, in / 32, 16)` and `NAME_scales (experts, out, in / 32)`, in bytes. Raises
    InputError where the shapes disagree.
    """
    codes, scales = tensors.get(f"{name}_blocks"), tensors.get(f"{name}_scales")
    if codes is None or scales is None or len(shape) != 3:
        return None
    count, columns, rows = shape
    wanted = (count, rows, columns // _MX_BLOCK)
    for stored, expected in ((codes, (*wanted, _MX_BYTES)), (scales, wanted)):
        if columns % _MX_BLOCK or stored.shape != expected or stored.format != "uint8":
            raise InputError(
                f"{stored.path}: {stored.name[:120]!r} is {stored.format} {list(stored.shape)}, but the "
                f"configuration makes it uint8 {list(expected)}, {columns} elements to a row"
            )
    return codes, scales


def split_expert(codes: StoredTensor, scales: StoredTensor, expert: int) -> tuple[StoredTensor, StoredTensor]:
    """Return the codes and the scales of one expert, in the module's shape `(in, out)`."""
    count, rows, blocks = scales.shape

    def part(tensor: StoredTensor, form: str, shape: tuple[int, int]) -> StoredTensor:
        footprint_bytes = tensor.footprint_bytes // count
        return replace(
            tensor,
            name=f"{tensor.name}[{expert}]",
            format=form,
            shape=shape,
            offset=tensor.offset + expert * footprint_bytes,
            footprint_bytes=footprint_bytes,
        )

    return part(codes, MX_CODES, (blocks * _MX_BLOCK, rows)), part(scales, MX_SCALES, (blocks, rows))


def slice_of(tensor: StoredTensor, expert: int, count: int) -> StoredTensor:
    """Return one expert's matrix of a tensor `[count, rows, columns]` that holds them all."""
    if len(tensor.shape) != 3 or tensor.shape[0] != count:
        raise InputError(
            f"{tensor.path}: {tensor.name} has shape {list(tensor.shape)}: want {count} matrices, one for "
            "each expert"
        )
    footprint_bytes = tensor.footprint_bytes // count
    return replace(
        tensor,
        name=f"{tensor.name}[{expert}]",
        shape=tensor.shape[1:],
        offset=tensor.offset + expert * footprint_bytes,
        footprint_bytes=footprint_bytes,
        panel_rows=1,
        panel_crc32=b"",
    )
