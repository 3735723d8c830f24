"""Hand stored weights to transformers' own modules: the one place where a module's weights come from us.

Linear layers (and GPT-2's Conv1D) multiply with tiles instead of a parameter; embeddings run their own code
on a table of just the rows that the input names; every other parameter is small and held all the time.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tierline.run.matrix import Matrix, RowTable
from tierline.run.recorder import Recorder

_WHOLE = "_tierline_whole"


@dataclass(slots=True)
class Rehearsal:
    """A switch that all attached modules share: while `on`, they return zeros and touch no weights.

    A rehearsed pass takes the time and the memory of everything but the weights. Where there are `products`,
    they are called with each matrix, the rows to multiply and their dtype.
    """

    on: bool = False
    products: Callable[[Matrix, int, torch.dtype], None] | None = None


@dataclass(slots=True)
class LinearForward:
    """Takes the place of a linear module's forward; `rotary_heads` undoes GGUF's order of rotary pairs.

    GGUF files of llama store query and key rows with each head's rotary pairs interleaved; ordering the
    output instead of the rows leaves the weights as they are stored, and is exact.
    """

    name: str
    matrices: Mapping[str, Matrix]
    module: Any  # nn.Linear or Conv1D, which is untyped
    rehearsal: Rehearsal
    recorder: Recorder
    rotary_heads: int = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x @ W.T + bias` (Conv1D: `x @ W + bias`), shape `(..., out_features)`."""
        turned = isinstance(self.module, Conv1D)
        if self.rehearsal.on:
            if self.rehearsal.products is not None:
                self.rehearsal.products(self.matrices[self.name], x.numel() // x.shape[-1], x.dtype)
            return x.new_zeros(*x.shape[:-1], self.module.nf if turned else self.module.out_features)
        matrix, started_s = self.matrices[self.name], perf_counter()
        y = matrix.matmul_rows(x) if turned else matrix.matmul(x)
        if self.rotary_heads:
            pairs = y.view(*y.shape[:-1], self.rotary_heads, -1, 2)
            y = pairs.transpose(-1, -2).reshape(y.shape)
        bias = self.module.bias
        y = y if bias is None else y + bias
        self.recorder.note("compute", "compute", self.name, started_s)
        return y


@dataclass(slots=True)
class EmbeddingForward:
    """Takes the place of an embedding's forward: its own code, on the rows that the input names."""

    name: str
    tables: Mapping[str, RowTable]
    module: nn.Embedding
    rehearsal: Rehearsal

    def __call__(self, ids: torch.Tensor, *others: object, **named: object) -> torch.Tensor:
        """Return what the module's class makes of the rows at `ids`, shape `(*ids.shape, embedding_dim)`."""
        placeholder = self.module.weight
        if self.rehearsal.on:
            return torch.zeros(*ids.shape, self.module.embedding_dim, dtype=placeholder.dtype)
        rows, places = self.tables[self.name].rows(ids)
        self.module.weight = nn.Parameter(rows, requires_grad=False)
        try:
            found: torch.Tensor = type(self.module).forward(self.module, places, *others, **named)
        finally:
            self.module.weight = placeholder
        return found


def is_table(module: nn.Module) -> bool:
    """Return whether a module reads the rows of its weight that its input names.

    Some count positions themselves, from a mask (OPT): which rows that makes is theirs to know.
    """
    if not isinstance(module, nn.Embedding):
        return False
    first = list(inspect.signature(type(module).forward).parameters)[1]
    return first in ("input", "input_ids")


def hold_whole(model: nn.Module, names: Iterable[str]) -> None:
    """Have the parameters of the modules called `names` held in memory, as small ones are.

    That is for modules whose weights other modules read without calling them.
    """
    for name in names:
        setattr(model.get_submodule(name), _WHOLE, True)


def is_experts(module: nn.Module) -> bool:
    """Return whether transformers lets us compute this module's routed experts in place of its own code."""
    return hasattr(module, "is_transposed") and hasattr(module, "_apply_gate")


def expert_weights(module: nn.Module) -> tuple[str, str]:
    """Return the names of the fused weights of routed experts: into them, and out of them."""
    return ("gate_up_proj" if getattr(module, "has_gate", True) else "up_proj"), "down_proj"


def image_parts(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the parts of `model` that look at images: those beside its decoder, if any."""
    if not hasattr(getattr(model, "config", None), "vision_config"):
        return ()
    decoder, prefix = model.get_decoder(), model.base_model_prefix  # type: ignore[operator]
    beside = getattr(model, str(prefix)).named_children()
    return tuple(f"{prefix}.{name}" for name, part in beside if part is not decoder)


def _text_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module that a pass over text may use, with its name."""
    parts = tuple(f"{part}." for part in image_parts(model))
    return ((name, m) for name, m in model.named_modules() if not f"{name}.".startswith(parts or "\0"))


def matrix_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of text whose weight is a matrix that can be streamed, with their names."""
    for name, module in _text_modules(model):
        streamable = is_table(module) or type(module) in (nn.Linear, Conv1D)
        if streamable and not hasattr(module, _WHOLE):
            yield name, module


def fixed_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield every other parameter of text as (full name, module, attribute): small, and always held."""
    streamed = {f"{name}.weight" for name, _ in matrix_modules(model)}
    for path, module in _text_modules(model):
        if is_experts(module):
            streamed.update(f"{path}.{name}" for name in expert_weights(module))
    for path, module in _text_modules(model):
        for attribute, _ in module.named_parameters(recurse=False):
            name = f"{path}.{attribute}" if path else attribute
            if name not in streamed:
                yield name, module, attribute


def attach(
    model: nn.Module,
    matrices: Mapping[str, Matrix],
    tables: Mapping[str, RowTable],
    rotary_heads: Mapping[str, int],
    recorder: Recorder,
) -> Rehearsal:
    """Give every matrix module of `model` its forward; return the switch that rehearses passes.

    `matrices` and `tables` are looked up by module name when a pass needs them, so they may be filled later.
    """
    rehearsal = Rehearsal()
    for name, module in matrix_modules(model):
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # only gradients ask for it, and the handed-over table has fewer rows
            forward: LinearForward | EmbeddingForward = EmbeddingForward(name, tables, module, rehearsal)
        else:
            forward = LinearForward(name, matrices, module, rehearsal, recorder, rotary_heads.get(name, 0))
        module.forward = forward
    return rehearsal
