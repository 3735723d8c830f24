"""What a model is, as data: components of layers of tensors, and per phase the operations on them.

Everything downstream (cost, place, plan, sim, run) reads only these types. Layers that are alike share
one Block, so that costs are computed once per kind of layer and descriptions stay small.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from tierline.models.extent import Extent

TensorClass = Literal[
    "embeddings", "positions", "head", "attention", "mlp", "experts", "router", "conv", "state",
    "projection", "norms", "biases", "other",
]  # fmt: skip
OperationKind = Literal[
    "linear", "embedding", "positions", "conv", "norm", "attention", "experts", "scan", "elementwise"
]
CacheKind = Literal["none", "append", "cross", "shared", "state"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One weight tensor of a block; names are relative to the layer.

    `stored` is the number format it has in the checkpoint (`bf16`, `q4_1`); `stored_name` its full name
    there with `{i}` for the layer's index, empty if it is the module's own name; where a file holds it in
    parts, `stored.stored_parts` reads the name. `alias_of` is the full
    name of the tensor that this one shares (a tied head). `in_file` is False where the checkpoint leaves
    the shared copy out.
    """

    name: str
    shape: tuple[int, ...]
    kind: TensorClass
    stored: str = "bf16"
    stored_name: str = ""
    alias_of: str = ""
    in_file: bool = True

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of `heads` queries over `kv_heads` keys and values.

    `keys` is the number of key rows a sequence attends to in a pass; `window` caps it where a sliding
    window applies. `cache_width` is the number of elements that one token adds to this layer's cache
    (K and V together; 0 without a cache). `cache` is `append` where each pass adds its own rows, `cross`
    where rows are made once and then only read, `shared` where another layer's cache is read and nothing
    held, `state` where one row per sequence is rewritten. `causal` masks the future.
    """

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    keys: Extent
    cache: CacheKind = "none"
    cache_width: int = 0
    window: int | None = None
    causal: bool = True


@dataclass(frozen=True, slots=True)
class Experts:
    """A routed set of experts: each row visits `per_token` of all; the weights hold `count` of them.

    On a device that holds a part of them, `total` is how many there are (0: as many as are held) and `first`
    the index of the first that is held.
    """

    count: int
    per_token: int
    total: int = 0
    first: int = 0

    @property
    def chosen_from(self) -> int:
        """How many experts a row chooses among."""
        return self.total or self.count


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a block, in execution order.

    `rows` is the number of output rows over the whole batch (an operation with none does not run and reads
    nothing); `in_features` and `out_features` are the widths per row. `weights` are names of tensors of the
    same block (or full names of tensors elsewhere), read whole each pass, except that an `embedding` reads
    one table row per output row and `experts` read the experts that are routed to. `static` marks a result
    that is the same in every pass of a phase and may be computed once (cross-attention K/V projections).
    """

    name: str
    kind: OperationKind
    rows: Extent
    in_features: int
    out_features: int
    weights: tuple[str, ...] = ()
    attention: Attention | None = None
    experts: Experts | None = None
    static: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """The tensors and operations that layers of one kind share."""

    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One place in the model where a block stands: `name` is its module path, `index` fills `{i}`."""

    name: str
    index: int
    block: Block

    def full_name(self, relative: str) -> str:
        """Return the full module name of a tensor or operation of this layer; `""` names the layer itself."""
        return ".".join(part for part in (self.name, relative) if part)


@dataclass(frozen=True, slots=True)
class Component:
    """A part of a model that has a name of its own (vision, connector, text, head, expert)."""

    name: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Phase:
    """A kind of pass: which components it runs through, how often, what `tokens` and `context` are in it."""

    name: str
    components: tuple[str, ...]
    passes: Extent
    tokens: Extent
    context: Extent


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A tensor together with where it stands."""

    name: str
    stored_name: str
    tensor: Tensor
    layer: Layer
    component: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model as data.

    `unknown` says what could not be read or observed (empty if nothing): phases are then missing, and
    figures that need them are unknown rather than guessed. `max_context` is the longest context the model
    was made for, or None. `source` says where the description came from.
    """

    name: str
    family: str
    components: tuple[Component, ...]
    phases: tuple[Phase, ...]
    source: str
    max_context: int | None = None
    image_tokens: int = 0
    default_steps: int = 0
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def tensors(self) -> Iterator[PlacedTensor]:
        """Yield every tensor in module order, aliases included."""
        for component in self.components:
            for layer in component.layers:
                for tensor in layer.block.tensors:
                    name = layer.full_name(tensor.name)
                    stored = tensor.stored_name.replace("{i}", str(layer.index)) or name
                    yield PlacedTensor(name, stored, tensor, layer, component.name)

    @property
    def parameters(self) -> int:
        """Elements of every tensor that the checkpoint holds."""
        return sum(t.tensor.elements for t in self.tensors() if t.tensor.in_file)

    @property
    def tied_parameters(self) -> int:
        """Elements of distinct tensors: a tied pair counts once even where the file stores both."""
        return sum(t.tensor.elements for t in self.tensors() if not t.tensor.alias_of)
