"""Routed experts as they lie in the files: each one's matrices, and the reads that bring it in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tierline.models.packed_forms import MXFP4
from tierline.models.packed_layout import ALIGNMENT_BYTES
from tierline.models.stored import MX_CODES, StoredTensor
from tierline.run.direct_io import DirectFile, Extract
from tierline.run.source import Source

CORRECTION_BYTES = 4  # fp32, of what a router adds to the score of an expert
LEAST_SLOTS = 2  # one in use, one being read
_PAGE_BYTES = 4096  # reads start on pages, which satisfies every sector size


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert of one layer.

    `parts` has, for each weight of the module (gate and up, down), the stored matrices that make it up: one
    that the file holds fused, or several (gate and up apart) whose rows follow one another.
    """

    name: str
    parts: tuple[tuple[StoredTensor, ...], ...]

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """Every stored matrix, in the module's order."""
        return tuple(tensor for part in self.parts for tensor in part)

    @property
    def footprint_bytes(self) -> int:
        """Bytes of its weights, without what reads take beside them."""
        return sum(tensor.footprint_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """All experts of one module `path`, of which a token visits `per_token`."""

    path: str
    experts: tuple[Expert, ...]
    per_token: int


@dataclass(frozen=True, slots=True)
class ExpertRead:
    """One read of an expert's bytes: `extract` of `path`, to byte `place` of its slot.

    `tensors` are those that lie in it.
    """

    path: Path
    extract: Extract
    place: int
    tensors: tuple[StoredTensor, ...]

    def view(self, data: memoryview, tensor: StoredTensor) -> memoryview:
        """Return the bytes of one of the tensors in the bytes of the read."""
        start = tensor.offset - self.extract.offset
        return data[start : start + tensor.footprint_bytes]


def expert_layer(source: Source, path: str, weights: Sequence[str], per_token: int) -> ExpertLayer:
    """Return the experts of the module `path`, whose fused parameters are `weights`.

    Raises InputError where the checkpoint does not hold them.
    """
    by_weight = [source.experts(f"{path}.{name}") for name in weights]
    return ExpertLayer(
        path,
        tuple(Expert(f"{path}[{e}]", parts) for e, parts in enumerate(zip(*by_weight, strict=True))),
        per_token,
    )


def reads_of(expert: Expert, files: Mapping[Path, DirectFile]) -> tuple[ExpertRead, ...]:
    """Return the reads of `expert`, one after another in its slot.

    Matrices that follow one another in a file are one read: the padding of packed files is read too.
    """
    reads: list[ExpertRead] = []
    place = 0
    for run in _runs(expert.tensors):
        first, last = run[0], run[-1]
        extract = Extract(expert.name, first.offset, last.offset + last.footprint_bytes - first.offset)
        reads.append(ExpertRead(first.path, extract, place, tuple(run)))
        place += -(-files[first.path].span_bytes(extract) // _PAGE_BYTES) * _PAGE_BYTES
    return tuple(reads)


def read_bytes_of(reads: Sequence[ExpertRead], files: Mapping[Path, DirectFile]) -> int:
    """Return the bytes that the reads take from the disk: in whole sectors."""
    return sum(files[read.path].span_bytes(read.extract) for read in reads)


def slot_bytes_of(reads: Sequence[ExpertRead], files: Mapping[Path, DirectFile]) -> int:
    """Return the bytes of memory that an expert read by `reads` takes: whole pages."""
    last = reads[-1]
    span_bytes = files[last.path].span_bytes(last.extract)
    return last.place + -(-span_bytes // _PAGE_BYTES) * _PAGE_BYTES


def joined(tensors: Sequence[StoredTensor]) -> tuple[StoredTensor, ...]:
    """Return the matrices that `tensors` make up, codes and scales as one in MXFP4, as a kernel takes it."""
    if tensors[0].format != MX_CODES:
        return tuple(tensors)
    codes, scales = tensors
    return (
        replace(
            codes,
            format=MXFP4,
            shape=codes.shape[::-1],
            footprint_bytes=codes.footprint_bytes + scales.footprint_bytes,
        ),
    )


def largest_slot_bytes(layers: Sequence[ExpertLayer], files: Mapping[Path, DirectFile]) -> int:
    """Return the bytes of a slot that any expert fits in."""
    return max(slot_bytes_of(reads_of(e, files), files) for layer in layers for e in layer.experts)


def least_slots_bytes(layers: Sequence[ExpertLayer], files: Mapping[Path, DirectFile]) -> int:
    """Return the fewest bytes in which the experts of all `layers` can be used, 0 where there are none."""
    count = sum(len(layer.experts) for layer in layers)
    return min(LEAST_SLOTS, count) * largest_slot_bytes(layers, files) if layers else 0


def _runs(tensors: Sequence[StoredTensor]) -> Iterator[list[StoredTensor]]:
    run: list[StoredTensor] = []
    for tensor in sorted(tensors, key=lambda t: (t.path, t.offset)):
        if run:
            last = run[-1]
            gap = tensor.offset - last.offset - last.footprint_bytes
            if tensor.path != last.path or gap >= ALIGNMENT_BYTES:
                yield run
                run = []
        run.append(tensor)
    yield run
