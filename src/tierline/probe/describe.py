"""Operations that passes showed, and the tensors of the modules -> the description of the model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import PreTrainedModel

from tierline.models.description import (
    Block,
    Component,
    Layer,
    Model,
    Operation,
    Phase,
    Tensor,
    TensorClass,
)
from tierline.models.extent import Extent
from tierline.probe.classes import component_of, is_positional, tensor_class
from tierline.probe.file_names import FileNames
from tierline.probe.passes import Kind, Pass
from tierline.probe.paths import own_tensors, storage_of

_ONE = Extent.parse("1")
_SOURCE = Extent.parse("source_tokens")
_PROMPT = Extent.parse("prompt_tokens")


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor of the module tree: `alias_of` names the first place of the same storage."""

    name: str
    tensor: torch.Tensor
    alias_of: str


@dataclass(frozen=True, slots=True)
class Places:
    """Where things stand in a model: paths of its layers, head and decoder, and what images and
    a decoder run through."""

    layers: frozenset[str]
    head: str
    embedding: str
    decoder: str
    fallback: str
    images: frozenset[str] = frozenset()
    decoded: frozenset[str] = frozenset()

    def layer_of(self, path: str) -> str:
        """Return the path of the layer that `path` is in; a module outside of all layers is its own."""
        steps = path.split(".")
        for end in range(1, len(steps) + 1):
            outer = ".".join(steps[:end])
            if outer in self.layers:
                return outer
        return path

    def component(self, path: str) -> str:
        """Return the name of the component that `path` is in."""
        if self.decoder and path in self.decoded and path != self.head:
            return "decoder"
        fallback = "vision" if path in self.images else self.fallback
        return component_of(path, head=self.head, decoder=self.decoder, fallback=fallback)


def places(model: PreTrainedModel, kind: Kind, passes: Sequence[Pass]) -> Places:
    """Return the places of `model`: a layer is an outermost member of a module list."""
    layers: set[str] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        nested = any(path == outer or path.startswith(f"{outer}.") for outer in _outer(path, layers))
        if isinstance(module, nn.ModuleList) and not nested:
            layers |= {f"{path}.{name}" for name, _ in module.named_children()}
    names = {id(module): path for path, module in model.named_modules(remove_duplicate=False)}
    output, given = model.get_output_embeddings(), _input_embeddings(model)
    decoder = model.get_decoder() if kind == "encoder_decoder" else None
    fallback = {"vision": "vision", "encoder": "encoder"}.get(kind, "text")
    found = Places(
        frozenset(layers),
        names.get(id(output), "") if output is not None else "",
        names.get(id(given), ""),
        names.get(id(decoder), "") if decoder is not None else "",
        fallback,
    )

    def ran(*names: str) -> frozenset[str]:
        return frozenset(found.layer_of(s.path) for one in passes if one.name in names for s in one.seen)

    return replace(found, images=ran("vision"), decoded=ran("prefill", "decode"))


def _input_embeddings(model: PreTrainedModel) -> nn.Module | None:
    try:
        found: nn.Module | None = model.get_input_embeddings()
    except NotImplementedError:  # a model of two towers has no one table of tokens
        return None
    return found


def _outer(path: str, layers: set[str]) -> Iterable[str]:
    steps = path.split(".")
    return (outer for end in range(1, len(steps)) if (outer := ".".join(steps[:end])) in layers)


def held_tensors(model: nn.Module) -> tuple[Held, ...]:
    """Return every tensor that `state_dict()` names, in its order; a shared one names its first place."""
    first: dict[int, str] = {}
    held = []
    for path, module in model.named_modules(remove_duplicate=False):
        for local, tensor in own_tensors(module).items():
            name = f"{path}.{local}" if path else local
            original = first.setdefault(storage_of(tensor), name)
            held.append(Held(name, tensor, "" if original == name else original))
    return tuple(held)


def components(
    model: PreTrainedModel, where: Places, operations: Sequence[Operation], stored: str
) -> tuple[Component, ...]:
    """Return the components of `model`, their layers in the order in which they first run.

    Layers that never run come last, in module order. Alike layers share one block.
    """
    by_layer: dict[str, list[Operation]] = {}
    for operation in operations:
        by_layer.setdefault(where.layer_of(operation.name), []).append(_positional(operation, where))
    tensors: dict[str, list[Held]] = {}
    for held in held_tensors(model):
        owner = held.name.rpartition(".")[0]
        tensors.setdefault(where.layer_of(owner), []).append(held)
    maker = _BlockMaker(model, where, stored)
    parts: dict[str, list[Layer]] = {}
    for path in dict.fromkeys((*by_layer, *tensors)):
        layer = maker.layer(path, tensors.get(path, []), by_layer.get(path, []))
        parts.setdefault(where.component(path), []).append(layer)
    used = _classes_of_aliases(layer for layers in parts.values() for layer in layers)
    return tuple(Component(n, tuple(_classed(x, used) for x in layers)) for n, layers in parts.items())


def _classes_of_aliases(layers: Iterable[Layer]) -> dict[str, TensorClass]:
    """Return the class that the first alias of a tensor has, by the tensor's full name."""
    found: dict[str, TensorClass] = {}
    for layer in layers:
        for tensor in layer.block.tensors:
            if tensor.alias_of and tensor.kind != "other":
                found.setdefault(tensor.alias_of, tensor.kind)
    return found


def _classed(layer: Layer, used: Mapping[str, TensorClass]) -> Layer:
    """Return the layer, a tensor that only its aliases use (T5's `shared`) with the class that they have."""
    tensors = tuple(
        replace(t, kind=used.get(layer.full_name(t.name), "other")) if t.kind == "other" else t
        for t in layer.block.tensors
    )
    same = tensors == layer.block.tensors
    return layer if same else replace(layer, block=Block(tensors, layer.block.operations))


def _positional(operation: Operation, where: Places) -> Operation:
    """Return the operation, a look-up in a table of positions told apart from one of tokens."""
    if operation.kind in ("embedding", "elementwise") and operation.weights:
        name = operation.weights[0] if operation.kind == "elementwise" else operation.name
        if operation.name != where.embedding and is_positional(name.rpartition(".")[2] or name):
            return replace(operation, kind="positions", in_features=1)
    return operation


class _BlockMaker:
    """Makes the layers of one model, alike ones with the same block."""

    def __init__(self, model: PreTrainedModel, where: Places, stored: str) -> None:
        self._where = where
        self._stored = stored
        self._names = FileNames(model)
        strict = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
        self._kept = tuple(strict)
        self._blocks: dict[Block, Block] = {}

    def layer(self, path: str, held: Sequence[Held], operations: Sequence[Operation]) -> Layer:
        """Return the layer at `path` with its tensors in the order in which operations use them."""
        last = path.rpartition(".")[2]
        index = int(last) if path in self._where.layers and last.isdigit() else 0
        ordered = sorted(held, key=_first_use(operations))
        block = Block(
            tuple(self._tensor(path, index, one, operations) for one in ordered),
            tuple(_relative(operation, path) for operation in operations),
        )
        return Layer(path, index, self._blocks.setdefault(block, block))

    def _tensor(self, path: str, index: int, one: Held, operations: Sequence[Operation]) -> Tensor:
        kept = any(part in one.name for part in self._kept)
        return Tensor(
            name=_inside(one.name, path),
            shape=tuple(one.tensor.shape),
            kind=tensor_class(one.name, operations, head=self._where.head),
            stored="fp32" if kept else self._stored,
            stored_name=self._names.stored_name(one.name, one.tensor, path, index),
            alias_of=one.alias_of,
            in_file=not one.alias_of,
        )


def _first_use(operations: Sequence[Operation]) -> "Uses":
    first: dict[str, int] = {}
    for i, operation in enumerate(operations):
        for name in operation.weights:
            first.setdefault(name.rpartition(".")[0], i)
    return Uses(first, len(operations))


@dataclass(frozen=True, slots=True)
class Uses:
    """Sorts tensors by the first operation that uses their module; those that none uses come last."""

    first: Mapping[str, int]
    never: int

    def __call__(self, one: Held) -> int:
        """Return the index of the first operation that uses the module of `one`."""
        return self.first.get(one.name.rpartition(".")[0], self.never)


def _relative(operation: Operation, path: str) -> Operation:
    weights = tuple(_inside(name, path) for name in operation.weights)
    return replace(operation, name=_inside(operation.name, path), weights=weights)


def _inside(name: str, path: str) -> str:
    """Return `name` relative to the layer `path`; a name from elsewhere stays full."""
    if name == path:
        return ""
    return name.removeprefix(f"{path}.") if path else name


def phases(passes: Sequence[Pass], where: Places, parts: Sequence[Component]) -> tuple[Phase, ...]:
    """Return the phases that were seen, each with the components that its pass ran through."""
    bounds = {
        "vision": (_ONE, _ONE, _ONE),
        "encode": (_ONE, _SOURCE, _SOURCE),
        "prefill": (_ONE, _PROMPT, _PROMPT),
        "decode": (Extent.parse("new"), _ONE, Extent.parse("context")),
    }
    found = []
    for name, (count, tokens, context) in bounds.items():
        ran = {
            where.component(where.layer_of(s.path)) for one in passes if one.name == name for s in one.seen
        }
        if ran:
            through = tuple(part.name for part in parts if part.name in ran)
            found.append(Phase(name, through, count, tokens, context))
    return tuple(found)


def image_tokens(model: Model) -> int:
    """Return the rows that one image adds to the prompt: those of the connector's last operation, or 0."""
    last = [layer for part in model.components if part.name == "connector" for layer in part.layers][-1:]
    operations = [o for layer in last for o in layer.block.operations]
    if not operations:
        return 0
    rows = operations[-1].rows
    return (
        rows.evaluate({"batch": 1, "images": 1})
        if {v for _, n in rows.terms for v in n} <= {"batch", "images"}
        else 0
    )
