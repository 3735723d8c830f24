"""Logits of the last position, which is all that generation needs, or of every one."""

from dataclasses import replace

from tierline.models.description import Block, Component, Layer, Model
from tierline.models.extent import Extent

_LAST, _EVERY = Extent.parse("batch"), Extent.parse("batch*tokens")


def with_all_logits(model: Model) -> Model:
    """Return the model with a head that runs on every row of a pass instead of one per sequence."""
    return replace(model, components=tuple(_component(c) for c in model.components))


def _component(component: Component) -> Component:
    layers = tuple(
        Layer(x.name, x.index, _every_row(x.block)) if _is_head(x.block) else x for x in component.layers
    )
    return Component(component.name, layers)


def _is_head(block: Block) -> bool:
    return any(tensor.kind == "head" for tensor in block.tensors)


def _every_row(block: Block) -> Block:
    operations = (replace(o, rows=_EVERY) if o.rows == _LAST else o for o in block.operations)
    return Block(block.tensors, tuple(operations))
