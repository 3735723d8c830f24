"""What is pinned or streamed as a whole: a layer, or a tile of rows of a table larger than a layer."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tierline.cost.weights import BlockWeights, LayerWeights, ModelWeights
from tierline.models.description import Phase
from tierline.place.placement import Unit

_TABLES = ("embeddings", "head", "positions")


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer's weights as units, in order; more than one where a table is cut into tiles."""

    layer: str
    units: tuple[Unit, ...]

    @property
    def footprint_bytes(self) -> int:
        """Bytes of all its units."""
        return sum(u.footprint_bytes for u in self.units)


def stored_layers(weights: ModelWeights, unit_bytes: int | None = None) -> dict[str, StoredLayer]:
    """Return every layer that stores weights, by name.

    A unit is a layer and is called after it, except that tables (embedding, head) are cut into tiles of rows,
    `layer.tensor[start:stop]`, no larger than the largest other layer. With `unit_bytes`, every tensor is a
    unit or tiles of at most that many bytes (one row at least).
    """
    tables = {id(kind) for kind, _ in weights.kinds(tuple(weights.kinds_of)) if _is_table(kind)}
    others = (e.weights.stored_bytes for e in weights.layers if id(e.weights) not in tables)
    largest = max(others, default=0) or weights.stored_bytes
    found = {}
    for entry in weights.layers:
        name, held = entry.layer.name, entry.weights.stored_bytes
        if not held:
            continue
        if unit_bytes is None and (held <= largest or id(entry.weights) not in tables):
            units: tuple[Unit, ...] = (Unit(name, held),)
        else:
            units = tuple(_tiles(entry, unit_bytes or largest))
        found[name] = StoredLayer(name, units)
    return found


def read_order(weights: ModelWeights, phase: Phase) -> tuple[str, ...]:
    """Return the names of the layers whose weights a pass of `phase` reads whole, in order of first use."""
    order: dict[str, None] = {}
    for entry in weights.of(phase.components):
        for owner in entry.weights.whole_owners:
            order.setdefault(owner or entry.layer.name)
    return tuple(order)


def layer_of(unit: str, layers: Collection[str]) -> str:
    """Return the layer that a unit (`layer`, `layer.tensor` or `layer.tensor[start:stop]`) is part of.

    Empty where it is part of none of `layers`.
    """
    name = unit.partition("[")[0]
    while name and name not in layers:
        name = name.rpartition(".")[0]
    return name


def _is_table(weights: BlockWeights) -> bool:
    matrices = [t for t in weights.block.tensors if len(t.shape) > 1]
    return len(matrices) == 1 and matrices[0].kind in _TABLES


def _tiles(entry: LayerWeights, limit_bytes: int) -> Iterator[Unit]:
    tensors = entry.weights.tensors
    for name, total in entry.weights.tensor_bytes.items():
        full = entry.layer.full_name(name)
        rows = tensors[name].shape[0] if tensors[name].shape else 1
        if total <= limit_bytes or rows < 2:
            yield Unit(full, total)
            continue
        step = max(1, limit_bytes * rows // total)
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            yield Unit(f"{full}[{start}:{stop}]", total * stop // rows - total * start // rows)
