"""What is pinned or streamed as a whole: a layer, or a tile of rows of a table larger than a layer."""

from collections.abc import Iterator
from dataclasses import dataclass

from tierline.cost.weights import LayerWeights, ModelWeights
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


def stored_layers(weights: ModelWeights) -> dict[str, StoredLayer]:
    """Return every layer that stores weights, by name.

    A unit is called after its layer, or `layer[start:stop]` for a tile of rows. Tables (embedding, head) are
    cut into tiles no larger than the largest other layer, so that a staging slot need not hold a table.
    """
    largest = max((e.weights.stored_bytes for e in weights.layers if not _is_table(e)), default=0)
    return {
        entry.layer.name: StoredLayer(entry.layer.name, tuple(_units(entry, largest)))
        for entry in weights.layers
        if entry.weights.stored_bytes
    }


def read_order(weights: ModelWeights, phase: Phase) -> tuple[str, ...]:
    """Return the names of the layers whose weights a pass of `phase` reads whole, in order of first use."""
    order: dict[str, None] = {}
    for entry in weights.of(phase.components):
        for read in entry.weights.reads:
            if not read.by_row:
                order.setdefault(read.owner or entry.layer.name)
    return tuple(order)


def _is_table(entry: LayerWeights) -> bool:
    matrices = [t for t in entry.weights.block.tensors if len(t.shape) > 1]
    return len(matrices) == 1 and matrices[0].kind in _TABLES


def _units(entry: LayerWeights, largest_bytes: int) -> Iterator[Unit]:
    name, total = entry.layer.name, entry.weights.stored_bytes
    if not _is_table(entry) or total <= largest_bytes or not largest_bytes:
        yield Unit(name, total)
        return
    rows = next(t.shape[0] for t in entry.weights.block.tensors if len(t.shape) > 1)
    step = max(1, largest_bytes * rows // total)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        yield Unit(f"{name}[{start}:{stop}]", total * stop // rows - total * start // rows)
