"""The layers of a model divided among the stages of a pipeline, and the model that one device then has."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from tierline.errors import InputError
from tierline.models.cut import Place, cut_block
from tierline.models.description import Block, Component, Layer, Model
from tierline.models.share import Exchange, Share


@dataclass(frozen=True, slots=True)
class Shard:
    """The model that one device has, and by layer what it exchanges with the other devices of its group."""

    model: Model
    exchanges: Mapping[str, tuple[Exchange, ...]]


def even_stages(layers: int, stages: int) -> list[int]:
    """Return how many layers each stage has, as evenly as whole layers allow."""
    return [Share(i, stages).part(layers) for i in range(stages)]


def proportional_stages(layers: int, shares: Sequence[float]) -> list[int]:
    """Return the stage of each of `layers` layers, and of the output after them, in proportion to `shares`.

    As llama.cpp splits by layers (`llama_model::load_tensors`, by free memory or `--tensor-split`): layer i
    of n, with the output as layer n, goes to the first stage whose part of the running sum of shares is above
    `i / (n + 1)`. All layers are taken as offloaded.
    """
    total = sum(shares)
    ends = [end / total for end in accumulate(shares)]
    return [min(bisect_right(ends, i / (layers + 1)), len(shares) - 1) for i in range(layers + 1)]


def repeating_layers(model: Model) -> tuple[str, ...]:
    """Return the names of the decoder's layers that attend or scan, in order: those that stages divide.

    Of a model without a text part, the layers of the component that has the most of them.
    """
    parts = {c.name: tuple(x.name for x in c.layers if _repeats(x.block)) for c in model.components}
    return parts.get("text") or max(parts.values(), key=len, default=())


def assign_stages(model: Model, stages: int, shares: Sequence[float] | None) -> dict[str, int]:
    """Return the stage of every layer; `shares` divides as `proportional_stages` does, None evenly.

    What comes before the layers that repeat is on the first stage and what comes after them on the last;
    another component with as many such layers (an action expert) follows them. Raises InputError where there
    are fewer layers than stages.
    """
    names = repeating_layers(model)
    if len(names) < stages:
        raise InputError(f"pp={stages}: {model.name} has {len(names)} layers to divide; use fewer stages")
    if shares is None:
        counts = even_stages(len(names), stages)
        order = [stage for stage, count in enumerate(counts) for _ in range(count)]
        output = stages - 1
    else:
        *order, output = proportional_stages(len(names), shares)
    if len({*order, output}) < stages:
        raise InputError(f"pp={stages}: a stage gets no layer of the {len(names)}; divide more evenly")
    known = dict(zip(names, order, strict=True))
    found: dict[str, int] = {}
    begun = False
    for component in model.components:
        like = [x.name for x in component.layers if _repeats(x.block)]
        follows = dict(zip(like, order, strict=True)) if len(like) == len(order) and begun else {}
        for layer in component.layers:
            begun = begun or layer.name in known
            stage = known.get(layer.name, follows.get(layer.name, output if begun else 0))
            found[layer.name] = stage
    return found


def shard(model: Model, stage_of: Mapping[str, int], stage: int, place: Place) -> Shard:
    """Return what the device at `place` of `stage` has of `model`: its layers, each cut to its share.

    A tensor that another stage's layer shares is held here too. Layers that are alike stay one block.
    """
    exchanges: dict[str, tuple[Exchange, ...]] = {}
    components = []
    for component in model.components:
        made: dict[tuple[int, frozenset[str]], tuple[Block, tuple[Exchange, ...]]] = {}
        layers = []
        for layer in component.layers:
            if stage_of[layer.name] != stage:
                continue
            away = frozenset(_shared_away(layer, stage_of, stage))
            key = (id(layer.block), away)
            if key not in made:
                cut = cut_block(layer.block, place, f"{model.name}, {layer.name}")
                made[key] = _own(cut.block, away), cut.exchanges
            block, exchanged = made[key]
            layers.append(Layer(layer.name, layer.index, block))
            exchanges[layer.name] = exchanged
        components.append(Component(component.name, tuple(layers)))
    return Shard(replace(model, components=tuple(components)), exchanges)


def _shared_away(layer: Layer, stage_of: Mapping[str, int], stage: int) -> list[str]:
    """Return the tensors of `layer` whose owner is a layer of another stage."""
    found = []
    for tensor in layer.block.tensors:
        owner = tensor.alias_of
        while owner and owner not in stage_of:
            owner = owner.rpartition(".")[0]
        if owner and stage_of[owner] != stage:
            found.append(tensor.name)
    return found


def _own(block: Block, away: frozenset[str]) -> Block:
    if not away:
        return block
    tensors = (replace(t, alias_of="", in_file=True) if t.name in away else t for t in block.tensors)
    return Block(tuple(tensors), block.operations)


def _repeats(block: Block) -> bool:
    return any(o.attention is not None or o.kind == "scan" for o in block.operations)
