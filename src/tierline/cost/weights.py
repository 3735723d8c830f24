"""The weights of a model under a precision: bytes of every tensor, and what each operation reads of them.

Layers that share a block share its costs, so that 80 layers alike are costed once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tierline.cost.amount import Amount, Values
from tierline.cost.traffic import experts_read_bytes, row_bytes, table_read_bytes
from tierline.errors import InputError
from tierline.formats.format import Format
from tierline.formats.mix import Mix
from tierline.formats.precision import Precision
from tierline.formats.weight import Weight
from tierline.models.description import Block, Component, Layer, Model, Operation, Tensor

_LOOKUPS = ("embedding", "positions")


@dataclass(frozen=True, slots=True)
class WeightRead:
    """What one operation reads of one tensor. `owner` is the layer that stores it, None for its own layer."""

    operation: Operation
    owner: str | None
    footprint_bytes: int
    table_rows: int
    row_bytes: int

    @property
    def by_row(self) -> bool:
        """Whether rows of the tensor are looked up, rather than all of it read."""
        return self.operation.kind in _LOOKUPS

    def traffic_bytes(self, values: Values) -> Amount:
        """Return the bytes read in one pass: looked-up rows, the experts visited, or the whole tensor."""
        rows = self.operation.rows.evaluate(values)
        if self.by_row:
            return table_read_bytes(rows, self.table_rows, self.row_bytes, self.footprint_bytes)
        if self.operation.experts is not None:
            return experts_read_bytes(self.operation.experts, rows, self.footprint_bytes)
        return self.footprint_bytes


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """One kind of layer: bytes of its stored tensors, its bytes without tied copies, its reads in order."""

    block: Block
    tensor_bytes: Mapping[str, int]
    tied_bytes: int
    reads: tuple[WeightRead, ...]

    @property
    def stored_bytes(self) -> int:
        """Footprint of the tensors that the checkpoint holds."""
        return sum(self.tensor_bytes.values())

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by their name in the block."""
        return {t.name: t for t in self.block.tensors}


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """A layer in its place."""

    layer: Layer
    component: str
    weights: BlockWeights


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Every layer of a model under one precision, in module order."""

    layers: tuple[LayerWeights, ...]

    @property
    def stored_bytes(self) -> int:
        """Footprint of the tensors as the checkpoint holds them (a tied pair twice where it stores both)."""
        return sum(entry.weights.stored_bytes for entry in self.layers)

    @property
    def tied_bytes(self) -> int:
        """Footprint with every tied tensor once."""
        return sum(entry.weights.tied_bytes for entry in self.layers)

    def by_component_bytes(self) -> dict[str, int]:
        """Return the stored footprint of each component."""
        totals: dict[str, int] = {}
        for entry in self.layers:
            totals[entry.component] = totals.get(entry.component, 0) + entry.weights.stored_bytes
        return totals

    def of(self, components: tuple[str, ...]) -> Iterator[LayerWeights]:
        """Yield the layers of `components`, in the order in which a pass runs through them."""
        for name in components:
            yield from (entry for entry in self.layers if entry.component == name)


def weigh(model: Model, precision: Precision) -> ModelWeights:
    """Return the weights of `model` under `precision`; bytes are exact, scales and padding included."""
    places = _Places.of(model, precision)
    by_index = isinstance(precision.weights, Mix)  # a mix may choose by a layer's place
    made: dict[tuple[int, str, int], BlockWeights] = {}
    layers = []
    for component in model.components:
        for layer in component.layers:
            key = (id(layer.block), component.name, layer.index if by_index else 0)
            if key not in made:
                made[key] = places.block_weights(component, layer)
            layers.append(LayerWeights(layer, component.name, made[key]))
    return ModelWeights(tuple(layers))


@dataclass(frozen=True, slots=True)
class _Places:
    """What the cost of one block needs to know of the rest of the model."""

    precision: Precision
    tied: frozenset[str]
    depths: Mapping[str, int]
    elsewhere: Mapping[str, tuple[Component, Layer, Tensor]]

    @classmethod
    def of(cls, model: Model, precision: Precision) -> "_Places":
        shared = {t.alias_of for c in model.components for x in c.layers for t in x.block.tensors} - {""}
        named = shared | {
            name
            for c in model.components
            for x in c.layers
            for operation in x.block.operations
            for name in operation.weights
        }
        depths = {c.name: 1 + max((x.index for x in c.layers), default=0) for c in model.components}
        return cls(precision, frozenset(shared), depths, _find(model, named))

    def block_weights(self, component: Component, layer: Layer) -> BlockWeights:
        sizes = {t.name: self._bytes(component, layer, t) for t in layer.block.tensors}
        return BlockWeights(
            layer.block,
            {t.name: sizes[t.name] for t in layer.block.tensors if t.in_file},
            sum(sizes[t.name] for t in layer.block.tensors if not t.alias_of),
            tuple(self._reads(component, layer)),
        )

    def _reads(self, component: Component, layer: Layer) -> Iterator[WeightRead]:
        own = {t.name: t for t in layer.block.tensors}
        whole: set[str] = set()
        for operation in layer.block.operations:
            for name in operation.weights:
                if name in whole:  # read once in a pass of the layer, however many operations use it
                    continue
                if operation.kind not in _LOOKUPS:
                    whole.add(name)
                yield self._read(component, layer, operation, own.get(name), name)

    def _read(
        self, component: Component, layer: Layer, operation: Operation, own: Tensor | None, name: str
    ) -> WeightRead:
        owner: str | None = None
        tensor = own
        if tensor is None or (tensor.alias_of and not tensor.in_file):
            target = name if tensor is None else tensor.alias_of
            if target not in self.elsewhere:
                raise InputError(f"{layer.full_name(operation.name)} reads {target!r}, which the model lacks")
            component, layer, tensor = self.elsewhere[target]
            owner = layer.name
        size = self._bytes(component, layer, tensor)
        rows = tensor.shape[0] if tensor.shape else 1
        by_row = operation.kind in _LOOKUPS
        row = row_bytes(self._format(component, layer, tensor), tensor.shape, tensor.kind) if by_row else 0
        return WeightRead(operation, owner, size, rows, row)

    def _format(self, component: Component, layer: Layer, tensor: Tensor) -> Format:
        return self.precision.format_of(self._weight(component, layer, tensor))

    def _bytes(self, component: Component, layer: Layer, tensor: Tensor) -> int:
        return self.precision.footprint_bytes(self._weight(component, layer, tensor))

    def _weight(self, component: Component, layer: Layer, tensor: Tensor) -> Weight:
        name = layer.full_name(tensor.name)
        routed = (o.experts.count for o in layer.block.operations if o.experts)
        return Weight(
            component.name,
            tensor.kind,
            name,
            tensor.shape,
            tensor.stored,
            layer=layer.index,
            layers=self.depths[component.name],
            tied=name in self.tied,
            experts=next(routed, 0),
        )


def _find(model: Model, names: set[str]) -> dict[str, tuple[Component, Layer, Tensor]]:
    """Return where the tensors with these full names are."""
    found = {}
    for component in model.components:
        for layer in component.layers:
            for tensor in layer.block.tensors:
                name = layer.full_name(tensor.name)
                if name in names:
                    found[name] = (component, layer, tensor)
    return found
