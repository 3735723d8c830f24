"""What looks at images: a vision tower and its connector, read for a prompt's images and never in between.

They are the parts of a model beside its decoder. None of their weights is pinned: the modules fetch what they
need through staging, in the order in which a rehearsal called them.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tierline.errors import InputError
from tierline.models.stored import StoredTensor
from tierline.run.attach import Rehearsal, image_parts
from tierline.run.matrix import Matrix
from tierline.run.room import Room
from tierline.run.source import Source
from tierline.run.weights import PRELUDE_TILE_BYTES, WeightPlan, Weights


class Tower:
    """The modules that look at images: none in a model of text alone, and then nothing here does anything."""

    def __init__(self, model: PreTrainedModel, source: Source, rehearsal: Rehearsal) -> None:
        self._source = source
        self._forwards: dict[str, _Fetching] = {}
        self._called: dict[str, None] = {}
        multiplied = set[torch.Size]()
        for part in image_parts(model):
            for path, module in model.get_submodule(part).named_modules(prefix=part):
                if next(module.parameters(recurse=False), None) is not None:
                    forward = _Fetching(path, module, module.forward, self._called, multiplied, rehearsal)
                    self._forwards[path] = module.forward = forward

    @property
    def order(self) -> tuple[StoredTensor, ...]:
        """The stored tensors in the order in which a rehearsed prompt with images used them."""
        names = (name for path in self._called for name in self._forwards[path].names)
        return tuple(map(self._source.stored, names))

    @property
    def held_bytes(self) -> int:
        """The most bytes that are held besides tiles at once: a module's small tensors, while it runs."""
        leaves = [f.held_bytes for f in self._forwards.values() if next(f.module.children(), None) is None]
        others = [
            f.held_bytes for f in self._forwards.values() if next(f.module.children(), None) is not None
        ]
        return max(leaves, default=0) + sum(others) if self._called else 0

    def hand_over(self, weights: Weights) -> None:
        """Let the modules that a prompt with images used fetch their tensors from `weights`."""
        for path in self._called:
            for name in self._forwards[path].names:
                self._forwards[path].stored[name] = weights.matrix(self._source.stored(name))


def prompt_read_bytes(plan: WeightPlan, room: Room) -> int | None:
    """Return what the prompt of `room` reads where images are part of it, None where they are not.

    What looks at images is read once; each chunk of the prompt reads what is streamed, and the rows it names.
    """
    if not room.seen:
        return None
    chunks = torch.split(room.seen["input_ids"], room.chunk_tokens, dim=1)
    rows = sum(len(torch.unique(chunk)) for chunk in chunks)
    return plan.prelude_read_bytes + len(chunks) * sum(plan.tile_read_bytes) + rows * plan.row_read_bytes


class _Fetching:
    """Takes the place of a module's forward: its own code, on weights that are there while it runs."""

    def __init__(
        self,
        path: str,
        module: Any,  # noqa: ANN401 - any module
        own: Callable[..., Any],
        called: dict[str, None],
        multiplied: set[torch.Size],
        rehearsal: Rehearsal,
    ) -> None:
        self.path, self.module, self._own = path, module, own
        self._called, self._multiplied, self._rehearsal = called, multiplied, rehearsal
        self.is_linear = type(module) is nn.Linear
        attributes = [name for name, _ in module.named_parameters(recurse=False)]
        # The bias of a product goes into each of its tiles, so it has to be there first.
        self._attributes = attributes[::-1] if self.is_linear else attributes
        self.stored: dict[str, Matrix] = {}

    @property
    def names(self) -> list[str]:
        """The names of the tensors that it uses, in order."""
        return [f"{self.path}.{attribute}" for attribute in self._attributes]

    @property
    def held_bytes(self) -> int:
        """Bytes of what is held besides tiles while it runs."""
        held = [a for a in self._attributes if not (self.is_linear and a == "weight")]
        return sum(getattr(self.module, a).numel() * getattr(self.module, a).element_size() for a in held)

    def __call__(self, *inputs: Any, **named: Any) -> Any:  # noqa: ANN401 - its module's
        """Return what the module's own forward makes of these."""
        if self._rehearsal.on:
            self._called.setdefault(self.path)
            if self.is_linear:
                return self._rehearsed(inputs[0])
            return self._own(*inputs, **named)
        if len(self.stored) < len(self._attributes):
            raise InputError(
                f"{self.path} looks at images, and the model was loaded for text alone: "
                "`tierline run --image` loads it for images"
            )
        if self.is_linear:
            return self._product(inputs[0])
        placeholders = {a: getattr(self.module, a) for a in self._attributes}
        for attribute in self._attributes:
            value = nn.Parameter(_whole(self.stored[f"{self.path}.{attribute}"]), requires_grad=False)
            setattr(self.module, attribute, value)
        try:
            return self._own(*inputs, **named)
        finally:
            for attribute, placeholder in placeholders.items():
                setattr(self.module, attribute, placeholder)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x @ W.T + bias`, shape `(..., out_features)`, tile by tile."""
        bias = None if self.module.bias is None else _whole(self.stored[f"{self.path}.bias"])
        weight = self.stored[f"{self.path}.weight"]
        out = None if len(weight.tiles) == 1 else x.new_empty(*x.shape[:-1], self.module.out_features)
        for home in weight.tiles:
            start, stop = home.tile.start, home.tile.stop
            with home.borrow() as raw:
                tile = weight.kernel.expand(raw, stop - start, weight.tensor.shape[1])
                part = nn.functional.linear(x, tile, None if bias is None else bias[start:stop])
            if out is None:
                return part
            out[..., start:stop] = part
        assert out is not None  # noqa: S101 - there is a tile
        return out

    def _rehearsed(self, x: torch.Tensor) -> torch.Tensor:
        """Return zeros as `_product` does; the first of a shape multiplies, for what that takes besides."""
        weight = self.module.weight
        rows, columns = weight.shape
        count = -(-weight.numel() * weight.element_size() // PRELUDE_TILE_BYTES)
        out = x.new_zeros(*x.shape[:-1], rows)
        if weight.shape not in self._multiplied:
            self._multiplied.add(weight.shape)
            tile = x.new_zeros(-(-rows // count), columns)
            nn.functional.linear(x, tile, tile[:, 0])
        return out


def _whole(stored: Matrix) -> torch.Tensor:
    """Return all of a stored tensor, in memory of its own, in the compute dtype."""
    shape = stored.tensor.shape
    columns, parts = prod(shape[1:]), []
    for home in stored.tiles:
        with home.borrow() as raw:
            parts.append(stored.kernel.expand(raw, home.tile.stop - home.tile.start, columns).clone())
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(shape)
