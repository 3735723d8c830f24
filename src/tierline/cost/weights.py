"""The weights of a model under a precision: bytes of every tensor, and what each operation reads of them.

Layers that share a block share its costs, so that 80 layers alike are costed once.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from tierline.cost.amount import Amount, Values, nearest
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
    tensor: Tensor
    footprint_bytes: int
    row_bytes: int
    format_name: str

    @property
    def by_row(self) -> bool:
        """Whether rows of the tensor are looked up, rather than all of it read."""
        return self.operation.kind in _LOOKUPS

    @property
    def is_matrix(self) -> bool:
        """Whether it is a weight matrix, rather than a norm's scale or a bias."""
        return len(self.tensor.shape) > 1 and self.tensor.kind not in ("norms", "biases")

    def traffic_bytes(self, values: Values, expert_shares: Sequence[float] | None = None) -> Amount:
        """Return the bytes read in one pass: looked-up rows, the experts visited, or the whole tensor.

        The expected bytes of experts are rounded to whole ones. An operation without rows reads nothing.
        """
        if self.by_row:
            rows = self.operation.rows.evaluate(values)
            return table_read_bytes(rows, self.tensor.shape[0], self.row_bytes, self.footprint_bytes)
        if self.operation.experts is not None:
            rows = self.operation.rows.evaluate(values)
            how = self.operation.experts
            return nearest(experts_read_bytes(how, rows, self.footprint_bytes, expert_shares))
        return self.footprint_bytes


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """One kind of layer: bytes of its stored tensors, its bytes without tied copies, its reads by operation.

    `whole_owners` are the layers of which a pass reads tensors whole, None for the layer itself.
    """

    block: Block
    tensors: Mapping[str, Tensor]
    tensor_bytes: Mapping[str, int]
    stored_bytes: int
    tied_bytes: int
    by_operation: tuple[tuple[WeightRead, ...], ...]
    whole_owners: tuple[str | None, ...]
    attends: bool


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """A layer in its place."""

    layer: Layer
    component: str
    weights: BlockWeights


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Every layer of a model under one precision, by component in module order.

    `kinds_of` holds for each component its kinds of layers and how many there are of each.
    """

    by_component: Mapping[str, tuple[LayerWeights, ...]]
    kinds_of: Mapping[str, tuple[tuple[BlockWeights, int], ...]]

    @property
    def layers(self) -> Iterator[LayerWeights]:
        """Every layer in module order."""
        return chain.from_iterable(self.by_component.values())

    @property
    def stored_bytes(self) -> int:
        """Footprint of the tensors as the checkpoint holds them (a tied pair twice where it stores both)."""
        return sum(count * kind.stored_bytes for kind, count in self.kinds(tuple(self.kinds_of)))

    @property
    def tied_bytes(self) -> int:
        """Footprint with every tied tensor once."""
        return sum(count * kind.tied_bytes for kind, count in self.kinds(tuple(self.kinds_of)))

    def by_component_bytes(self) -> dict[str, int]:
        """Return the stored footprint of each component."""
        return {
            name: sum(count * kind.stored_bytes for kind, count in kinds)
            for name, kinds in self.kinds_of.items()
        }

    def of(self, components: Sequence[str]) -> Iterator[LayerWeights]:
        """Return the layers of `components`, in the order in which a pass runs through them."""
        return chain.from_iterable(self.by_component.get(name, ()) for name in components)

    def kinds(self, components: Sequence[str]) -> list[tuple[BlockWeights, int]]:
        """Return the kinds of layers in `components` and how many layers of each there are."""
        return [pair for name in components for pair in self.kinds_of.get(name, ())]


def weigh(model: Model, precision: Precision) -> ModelWeights:
    """Return the weights of `model` under `precision`; bytes are exact, scales and padding included."""
    places = _Places.of(model, precision)
    by_place = isinstance(precision.weights, Mix)  # a mix may choose by a layer's place
    by_component, kinds_of = {}, {}
    for component in model.components:
        made: dict[tuple[int, tuple[str, ...]], BlockWeights] = {}
        layers = []
        for layer in component.layers:
            key = (id(layer.block), places.chosen(component, layer) if by_place else ())
            if key not in made:
                made[key] = places.block_weights(component, layer)
            layers.append(LayerWeights(layer, component.name, made[key]))
        by_component[component.name] = tuple(layers)
        counts = Counter(id(entry.weights) for entry in layers)
        kinds_of[component.name] = tuple((kind, counts[id(kind)]) for kind in made.values())
    return ModelWeights(by_component, kinds_of)


@dataclass(frozen=True, slots=True)
class _Places:
    """What the cost of one block needs to know of the rest of the model."""

    precision: Precision
    tied: frozenset[str]
    depths: Mapping[str, int]
    elsewhere: Mapping[str, tuple[Component, Layer, Tensor]]

    @classmethod
    def of(cls, model: Model, precision: Precision) -> "_Places":
        blocks = {id(x.block): x.block for c in model.components for x in c.layers}.values()
        shared = {t.alias_of for block in blocks for t in block.tensors} - {""}
        foreign = {name for block in blocks for name in _foreign(block)}
        depths = {c.name: 1 + max((x.index for x in c.layers), default=0) for c in model.components}
        return cls(precision, frozenset(shared), depths, _find(model, shared | foreign))

    def chosen(self, component: Component, layer: Layer) -> tuple[str, ...]:
        """Return the formats of a layer's tensors: layers of one block that agree in them are of one kind."""
        return tuple(self._format(component, layer, tensor).name for tensor in layer.block.tensors)

    def block_weights(self, component: Component, layer: Layer) -> BlockWeights:
        block = layer.block
        sizes = {t.name: self._bytes(component, layer, t) for t in block.tensors}
        stored = {t.name: sizes[t.name] for t in block.tensors if t.in_file}
        reads = tuple(self._reads(component, layer))
        owners = dict.fromkeys(read.owner for each in reads for read in each if not read.by_row)
        return BlockWeights(
            block,
            {t.name: t for t in block.tensors},
            stored,
            sum(stored.values()),
            sum(sizes[t.name] for t in block.tensors if not t.alias_of),
            reads,
            tuple(owners),
            any(o.attention for o in block.operations),
        )

    def _reads(self, component: Component, layer: Layer) -> Iterator[tuple[WeightRead, ...]]:
        own = {t.name: t for t in layer.block.tensors}
        whole: set[str] = set()
        for operation in layer.block.operations:
            # A tensor is read once in a pass of the layer, however many operations use it.
            names = [name for name in operation.weights if name not in whole]
            if operation.kind not in _LOOKUPS:
                whole.update(names)
            yield tuple(self._read(component, layer, operation, own.get(name), name) for name in names)

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
        chosen = self._format(component, layer, tensor)
        row = row_bytes(chosen, tensor.shape, tensor.kind) if operation.kind in _LOOKUPS else 0
        return WeightRead(operation, owner, tensor, size, row, chosen.name)

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


def _foreign(block: Block) -> set[str]:
    """Return the full names of tensors of other layers that operations of `block` use."""
    own = {t.name for t in block.tensors}
    return {name for operation in block.operations for name in operation.weights} - own


def _find(model: Model, names: set[str]) -> dict[str, tuple[Component, Layer, Tensor]]:
    """Return where the tensors with these full names are."""
    found = {}
    for component in model.components:
        for layer in component.layers:
            if any(name.startswith(layer.name) for name in names):
                for tensor in layer.block.tensors:
                    name = layer.full_name(tensor.name)
                    if name in names:
                        found[name] = (component, layer, tensor)
    return found
