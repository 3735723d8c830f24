"""The parts that blocks are made of: each is some tensors and the operations on them, in execution order."""

from collections.abc import Iterable
from dataclasses import dataclass

from tierline.models.description import Attention, Block, Experts, Operation, Tensor, TensorClass
from tierline.models.extent import Extent

ROWS = Extent.parse("batch*tokens")
SEQUENCES = Extent.parse("batch")
CONTEXT = Extent.parse("context")


@dataclass(frozen=True, slots=True)
class Part:
    """Some tensors and the operations that use them."""

    tensors: tuple[Tensor, ...] = ()
    operations: tuple[Operation, ...] = ()


def block(parts: Iterable[Part]) -> Block:
    """Return the block that runs `parts` one after the other."""
    joined = tuple(parts)
    return Block(
        tuple(t for part in joined for t in part.tensors),
        tuple(o for part in joined for o in part.operations),
    )


def relative(path: str, name: str) -> str:
    """Return `name` under the module `path`, which is empty for the layer itself."""
    return f"{path}.{name}" if path else name


def linear(
    path: str,
    in_features: int,
    out_features: int,
    kind: TensorClass,
    *,
    rows: Extent = ROWS,
    bias: bool = False,
    transposed: bool = False,
    static: bool = False,
) -> Part:
    """Return a matrix product; its weight is `[out, in]`, or `[in, out]` if `transposed` (GPT-2's Conv1D)."""
    shape = (in_features, out_features) if transposed else (out_features, in_features)
    tensors = [Tensor(relative(path, "weight"), shape, kind)]
    if bias:
        tensors.append(Tensor(relative(path, "bias"), (out_features,), "biases"))
    names = tuple(t.name for t in tensors)
    return Part(
        tuple(tensors), (Operation(path, "linear", rows, in_features, out_features, names, static=static),)
    )


def norm(path: str, width: int, *, rows: Extent = ROWS, bias: bool = False) -> Part:
    """Return a normalisation of rows of `width` elements, with a weight and perhaps a bias."""
    names = ("weight", "bias") if bias else ("weight",)
    tensors = tuple(Tensor(relative(path, name), (width,), "norms") for name in names)
    weights = tuple(t.name for t in tensors)
    return Part(tensors, (Operation(path, "norm", rows, width, width, weights),))


def elementwise(path: str, width: int, *, rows: Extent = ROWS) -> Part:
    """Return an operation without weights on rows of `width` elements (an activation function)."""
    return Part((), (Operation(path, "elementwise", rows, width, width),))


def embedding(path: str, count: int, width: int, *, rows: Extent = ROWS) -> Part:
    """Return a look-up of one row per token in a table of `count` rows."""
    name = relative(path, "weight")
    table = Tensor(name, (count, width), "embeddings")
    return Part((table,), (Operation(path, "embedding", rows, 1, width, (name,)),))


def positions(path: str, count: int, width: int, *, rows: Extent = ROWS) -> Part:
    """Return learned positions: a table of `count` rows, one added to each token."""
    name = relative(path, "weight")
    table = Tensor(name, (count, width), "positions")
    return Part((table,), (Operation(path, "positions", rows, 1, width, (name,)),))


def conv(path: str, channels: int, width: int, kernel: int, *, rows: Extent, bias: bool = True) -> Part:
    """Return a convolution that cuts an image into patches: each output row reads `channels * kernel^2`."""
    tensors = [Tensor(relative(path, "weight"), (width, channels, kernel, kernel), "conv")]
    if bias:
        tensors.append(Tensor(relative(path, "bias"), (width,), "biases"))
    names = tuple(t.name for t in tensors)
    return Part(tuple(tensors), (Operation(path, "conv", rows, channels * kernel * kernel, width, names),))


def attention(path: str, how: Attention, *, rows: Extent = ROWS, weights: tuple[str, ...] = ()) -> Part:
    """Return the attention itself: queries in, values out, keys and values as `how` says."""
    widths = (how.heads * how.head_dim, how.heads * how.value_dim)
    return Part((), (Operation(path, "attention", rows, *widths, weights, attention=how),))


def experts(path: str, hidden: int, tensors: tuple[Tensor, ...], routed: Experts) -> Part:
    """Return a routed set of experts whose fused weights are `tensors`, first dimension the expert."""
    names = tuple(t.name for t in tensors)
    return Part(tensors, (Operation(path, "experts", ROWS, hidden, hidden, names, experts=routed),))
