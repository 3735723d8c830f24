"""How a run uses each stored tensor, by the model's description alone: no torch."""

from dataclasses import dataclass
from math import prod

from tierline.formats.parse import parse_format
from tierline.models.config_reader import reads
from tierline.models.decoder import CORRECTION
from tierline.models.description import Layer, Operation, PlacedTensor
from tierline.models.fields import Fields
from tierline.models.stored import StoredTensor
from tierline.run.direct_io import open_files
from tierline.run.experts.stored import (
    CORRECTION_BYTES,
    ExpertLayer,
    expert_layer,
    joined,
    least_slots_bytes,
)
from tierline.run.needs import Needs, needs_of
from tierline.run.scratch import scratch_bytes
from tierline.run.source import Source
from tierline.run.staging import SPARE_TILES, stream_settings

_TABLES = ("embedding", "positions")
_HELD_WHOLE = ("llama4", "llama4_text")  # transformers' module of their experts lets nobody else compute them
_PLAIN = ("linear", "norm", "attention", "elementwise", "experts", *_TABLES)


@dataclass(frozen=True, slots=True)
class Parts:
    """Tensors of a decode step by use: multiplied with, read by the row, or small and held all the time.

    `experts` are those that a router chooses from, layer by layer; routers hold `corrections_bytes`.
    """

    matrices: tuple[StoredTensor, ...]
    tables: tuple[StoredTensor, ...]
    fixed: tuple[StoredTensor, ...]
    experts: tuple[ExpertLayer, ...] = ()
    corrections_bytes: int = 0

    @property
    def kinds(self) -> tuple[StoredTensor, ...]:
        """Every tensor as a kernel takes it, of the experts one of each kind."""
        chosen = (t for x in self.experts for e in x.experts for part in e.parts for t in joined(part))
        alike = {(t.format, t.shape): t for t in chosen}
        return (*self.matrices, *self.tables, *self.fixed, *alike.values())


def parts_of(source: Source) -> Parts | None:
    """Return the parts of a decoder; None where a description alone does not tell (scans)."""
    if not reads(Fields(source.config, str(source.path))):  # what the probe saw, engines may hold otherwise
        return None
    if source.config.get("model_type") in _HELD_WHOLE:
        return None
    kinds: dict[str, str] = {}
    layers: list[ExpertLayer] = []
    for component in source.model.components:
        for layer in component.layers:
            for operation in layer.block.operations:
                if operation.kind not in _PLAIN:
                    return None
                kinds.update((name, operation.kind) for name in _weights(layer, operation))
                if operation.experts is not None:
                    layers.append(_experts(source, layer, operation, operation.experts.per_token))
    corrections_bytes = 0
    held: dict[str, list[StoredTensor]] = {"matrix": [], "table": [], "fixed": []}
    for placed in source.model.tensors():
        if placed.tensor.kind == "experts":
            continue
        if placed.name.endswith(CORRECTION):
            corrections_bytes += CORRECTION_BYTES * prod(placed.tensor.shape)
            continue
        wide = len(placed.tensor.shape) > 1
        kind = kinds.get(placed.name, "")
        is_matrix = kind == "linear" and wide and not _is_router(placed)
        use = "table" if kind in _TABLES else "matrix" if is_matrix else "fixed"
        held[use].append(source.stored(placed.name))
    return Parts(
        tuple(held["matrix"]),
        tuple(held["table"]),
        tuple(held["fixed"]),
        tuple(layers),
        corrections_bytes,
    )


def _is_router(placed: PlacedTensor) -> bool:
    """Whether it is held in a router, which is no linear module; the gate of shared experts is one."""
    return placed.tensor.kind == "router" and "shared" not in placed.tensor.name


def _experts(source: Source, layer: Layer, operation: Operation, per_token: int) -> ExpertLayer:
    fused = [tensor.name for tensor in layer.block.tensors if tensor.kind == "experts"]
    own = [name.rpartition(".")[2] for name in operation.weights if name in fused]
    return expert_layer(source, layer.full_name(operation.name), own, per_token)


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
            scratch_bytes=scratch_bytes(parts.kinds, source.compute_format),
            slots=links * readers + SPARE_TILES,
            experts_bytes=least_slots_bytes(parts.experts, files) + parts.corrections_bytes,
        )
    finally:
        for file in files.values():
            file.close()
