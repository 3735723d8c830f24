"""How a run uses each stored tensor, by the model's description alone: no torch."""

from dataclasses import dataclass
from math import prod

from tierline.formats.parse import parse_format
from tierline.models.config_reader import reads
from tierline.models.description import Layer, Operation
from tierline.models.fields import Fields
from tierline.models.stored import StoredTensor
from tierline.run.direct_io import open_files
from tierline.run.needs import Needs, needs_of
from tierline.run.scratch import scratch_bytes
from tierline.run.source import Source
from tierline.run.staging import stream_settings

_TABLES = ("embedding", "positions")
_PLAIN = ("linear", "norm", "attention", "elementwise", *_TABLES)


@dataclass(frozen=True, slots=True)
class Parts:
    """Tensors of a decode step by use: multiplied with, read by the row, or small and held all the time."""

    matrices: tuple[StoredTensor, ...]
    tables: tuple[StoredTensor, ...]
    fixed: tuple[StoredTensor, ...]


def parts_of(source: Source) -> Parts | None:
    """Return the parts of a dense decoder; None where a description alone does not tell (experts, scans)."""
    if not reads(Fields(source.config, str(source.path))):  # what the probe saw, engines may hold otherwise
        return None
    kinds: dict[str, str] = {}
    for component in source.model.components:
        for layer in component.layers:
            for operation in layer.block.operations:
                if operation.kind not in _PLAIN:
                    return None
                kinds.update((name, operation.kind) for name in _weights(layer, operation))
    held: dict[str, list[StoredTensor]] = {"matrix": [], "table": [], "fixed": []}
    for placed in source.model.tensors():
        wide = len(placed.tensor.shape) > 1
        kind = kinds.get(placed.name, "")
        use = "table" if kind in _TABLES else "matrix" if kind == "linear" and wide else "fixed"
        held[use].append(source.stored(placed.name))
    return Parts(tuple(held["matrix"]), tuple(held["table"]), tuple(held["fixed"]))


def _weights(layer: Layer, operation: Operation) -> list[str]:
    own = {tensor.name for tensor in layer.block.tensors}
    return [layer.full_name(name) if name in own else name for name in operation.weights]


def needs_by_header(source: Source, links: int = 1) -> Needs | None:
    """Return what the engine will find that `source` needs, before it is built; None where that is unknown.

    `links` is over how many it is read at once.

    Raises InputError where a file cannot be opened.
    """
    parts = parts_of(source)
    if parts is None:
        return None
    compute_bytes = parse_format(source.compute_format).footprint_bytes((1,))
    _, readers = stream_settings(source.path)
    files = open_files(source.checkpoint.files)
    try:
        return needs_of(
            parts.matrices,
            parts.tables,
            files,
            fixed_bytes=compute_bytes * sum(prod(t.shape) for t in parts.fixed),
            scratch_bytes=scratch_bytes(
                (*parts.matrices, *parts.tables, *parts.fixed), source.compute_format
            ),
            slots=links * readers + 1,
        )
    finally:
        for file in files.values():
            file.close()
